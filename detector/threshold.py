"""Thresholds: the score above which a record is called anomalous, set on scores of held-out normal records."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, norm

from detector.arrays import check_numbers
from detector.errors import TrainingDataError
from detector.normal_scores import ENOUGH, NormalScores
from detector.pareto import Tails
from detector.stream import ThresholdSetting

DEFAULT_RATE = 1e-3
"""False-alarm rate where a stream definition states none."""

MOST_FOLLOWED_RATE = 0.05
"""Highest promised rate of a threshold that follows drift."""

LEAST_EXPECTED = 0.1
"""Scores beyond the threshold that must be expected of the sample: no tail can be told that much further out."""

_TAILS = (0.025, 0.975)
_ROUNDS = 20
_WIDEST = 1_000.0


@dataclass(frozen=True)
class Threshold:
    """The boundary between normal and anomalous: `score > value`, strict.

    Attributes:
        value: The score itself, in decades of rarity.
        low: Lower end of the 95% confidence interval of the score at the wanted rate.
        high: Upper end of it; infinite where the sample cannot bound it.
        rate: Expected share of normal records above `value`.
        rate_low: Lower end of the 95% interval of the share that `value` will really have above it.
        rate_high: Upper end of it.
        expected_per_day: Expected alerts on normal records in a day, where the event rate is known.
        n: Held-out normal scores that it was set on.
        method: How it was set: `empirical`, counted, or `tail fit`, extrapolated.
        stated: How a person stated it, such as "50/day".
        warning: Why its promise is weaker than it looks, None where it is not.
    """

    value: float
    low: float
    high: float
    rate: float
    rate_low: float
    rate_high: float
    expected_per_day: float | None
    n: int
    method: str
    stated: str
    warning: str | None = None

    @property
    def records_per_day(self) -> float | None:
        """Normal records a day in the span that it was set on, None where that is not known."""
        return None if self.expected_per_day is None else self.expected_per_day / self.rate

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an interval without end has null there."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Threshold:
        """What `to_json` gave.

        Raises:
            KeyError, TypeError: A part is missing, or there is one that no threshold has.
            ValueError: A part is of another kind, or says nothing that could be promised.
        """
        read = cls(**{**content, "high": math.inf if content["high"] is None else content["high"]})
        names = ["value", "low", "rate", "rate_low", "rate_high", "n"]
        names += [name for name in ("high", "expected_per_day") if content[name] is not None]
        check_numbers("the threshold", {name: content[name] for name in names})
        texts = [read.method, read.stated, read.warning or ""]
        if not (0 < read.rate <= 1 and isinstance(read.n, int) and all(isinstance(text, str) for text in texts)):
            raise ValueError("the threshold promises no rate between 0 and 1, or does not say how: it is damaged")
        return read


def fit_threshold(
    scores: NDArray[np.float64],
    setting: ThresholdSetting,
    records_per_day: float | None = None,
    normal: NormalScores | None = None,
) -> Threshold:
    """Return the threshold that keeps what `setting` states on records like those scored here.

    Of records from the same distribution as `scores`, the share above the result is expected to be the wanted rate.
    Where at least 20 of the scores are expected above it, it is an order statistic, and that holds whatever the
    distribution is, as an average over calibration samples: its rank is (n + 1)(1 - rate) rounded up, to the side of
    fewer alarms. Where fewer are, it is the score beyond which the Pareto tails that fit have the rate, and it says so
    in `warning`. Both assume exchangeability, so neither survives drift.

    Args:
        scores: Scores of held-out normal records, (n,). Never of records that the network was fitted on: those are
            too low, and the threshold with them.
        setting: An alert budget, a false-alarm rate, one in so many, or none: then 1e-3, or the smallest rate that n
            can resolve.
        records_per_day: Normal records a day in the span of the scores; needed for an alert budget.
        normal: What was learned from the same scores, where that is at hand.

    Raises:
        TrainingDataError: n is too small for the rate, a score is not finite, or a budget has no event rate.

    Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005 (the conformal quantile);
        Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals of Mathematical Statistics 12, 1941
        (the share above an order statistic has a beta distribution). Of fitted tails and their intervals see
        `detector.pareto`.
    """
    normal = normal or NormalScores.fit(scores)
    ordered = np.sort(scores)
    return _fitted(normal, setting, records_per_day, lambda rank: (float(ordered[rank - 1]), rank))


def refit_threshold(normal: NormalScores, setting: ThresholdSetting, records_per_day: float | None = None) -> Threshold:
    """The threshold that `fit_threshold` would have set on the scores that a distribution was learned from.

    It is the same where it is among the highest of them, which are kept one by one, or extrapolated. Below, it is the
    next score up that was kept, a 2,048th of all scores away at most; rate and interval are those of that one.

    Raises:
        TrainingDataError: As of `fit_threshold`.
    """
    return _fitted(normal, setting, records_per_day, normal.ranked)


def _fitted(
    normal: NormalScores,
    setting: ThresholdSetting,
    records_per_day: float | None,
    ranked: Callable[[int], tuple[float, int]],
) -> Threshold:
    """A threshold on n scores, of which `ranked` gives the one of a rank, or of the next rank up that it knows."""
    n = normal.n
    rate, stated = check_resolvable(n, setting, records_per_day)
    counted, rank = ranked(min(_rank(n, rate), n))
    value, tails = normal.score_at(rate, counted)
    warning = None
    if tails:
        expected = rate
        (low, high), (rate_low, rate_high) = _intervals_of_tails(normal, rate, value, ranked)
        warning = (
            f"only {n * rate:.2g} of {n:,} held-out scores are expected above it, so it is extrapolated by {tails} "
            f"fitted tails; {_needed(ENOUGH, rate):,} normal records would show it"
        )
    else:
        above = n + 1 - rank
        expected = above / (n + 1)
        rate_low, rate_high = (float(end) for end in beta.ppf(_TAILS, above, rank))
        low_rank, high_rank = (int(end) for end in binom.ppf(_TAILS, n, 1 - rate))
        low = min(ranked(max(low_rank, 1))[0], counted)
        high = ranked(high_rank + 1)[0] if high_rank < n else math.inf
        if n * rate < ENOUGH:
            warning = (
                f"only {n * rate:.2g} of {n:,} held-out scores are expected above it and no tail could be fitted, so "
                f"its rate is known within {rate_low:.2g} to {rate_high:.2g} alone; {_needed(ENOUGH, rate):,} normal "
                "records would show it"
            )
    return Threshold(
        value=value,
        low=low,
        high=high,
        rate=expected,
        rate_low=rate_low,
        rate_high=rate_high,
        expected_per_day=None if records_per_day is None else expected * records_per_day,
        n=n,
        method="tail fit" if tails else "empirical",
        stated=stated,
        warning=warning,
    )


def _intervals_of_tails(
    normal: NormalScores, rate: float, value: float, ranked: Callable[[int], tuple[float, int]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95% intervals of the score at a rate and of the rate at a score, where tails say what is at that rate.

    The logarithm of the share beyond a score is taken to be normal about its estimate, with the standard error there.
    The score's interval is of those whose own intervals hold the rate.
    """
    tails, width = Tails(normal.tails), float(norm.ppf(_TAILS[1]))

    def factor(score: float) -> float:
        return math.exp(min(width * tails.standard_error(normal.n, score), 700.0))

    def end(towards: int) -> float:
        """The score whose own interval ends at the rate."""
        score, there = value, rate
        for _ in range(_ROUNDS):
            before, there = there, min(rate * factor(score) ** towards, 1.0)
            if there < rate / _WIDEST:
                return math.inf  # further scores are ever less certain, and none is ruled out
            score = normal.score_at(there, ranked(min(_rank(normal.n, there), normal.n))[0])[0]
            if math.isclose(there, before, rel_tol=1e-3):
                break
        return score

    own = factor(value)
    return (min(end(1), value), max(end(-1), value)), (rate / own, min(rate * own, 1.0))


def check_followable(rate: float, stated: str) -> None:
    """See that a threshold of a rate can follow drift: the upper decile of scores has to lie well below it.

    Raises:
        TrainingDataError: The rate is too high.
    """
    if rate > MOST_FOLLOWED_RATE:
        raise TrainingDataError(
            f"an online threshold keeps a rate of at most {MOST_FOLLOWED_RATE}, and this one promises {rate:.3g} "
            f'({stated}): state a lower one, or mode = "fixed"'
        )


def check_resolvable(n: int, setting: ThresholdSetting, records_per_day: float | None) -> tuple[float, str]:
    """Return the false-alarm rate that a setting means and how it was stated, if n held-out scores can tell it.

    Args:
        n: Held-out normal scores that there will be.
        setting: As of `fit_threshold`.
        records_per_day: As of `fit_threshold`.

    Raises:
        TrainingDataError: n is too small for the rate, it is too high to follow drift where it should, or a budget has
            no event rate.
    """
    rate, stated = _wanted_rate(setting, n, records_per_day)
    if setting.mode == "online":
        check_followable(rate, stated)
    if n * rate < LEAST_EXPECTED * (1 - 1e-9):
        raise TrainingDataError(
            f"{n} calibration scores cannot tell a false-alarm rate of {rate:.3g} ({stated}): {n * rate:.2g} of them "
            f"are expected above the threshold. Give at least {_needed(LEAST_EXPECTED, rate):,} held-out normal "
            f"records, better {_needed(ENOUGH, rate):,}, or accept a rate of {LEAST_EXPECTED / max(n, 1):.3g} or more"
        )
    return rate, stated


def _needed(expected: float, rate: float) -> int:
    """Scores of which so many are expected above the threshold of a rate."""
    return math.ceil(expected / rate * (1 - 1e-12))


def _rank(n: int, rate: float) -> int:
    """Which of n ascending scores, counted from 1, is the threshold of a rate; n + 1 where none is high enough.

    The conservative one, from (n + 1)(1 - rate) up: of a further record, at most the rate is expected above it.
    """
    return max(math.ceil((n + 1) * (1 - rate) - 1e-9), 1)


def _wanted_rate(setting: ThresholdSetting, n: int, records_per_day: float | None) -> tuple[float, str]:
    """The false-alarm rate that a setting means, and how it was stated."""
    if setting.one_in is not None:
        return 1 / setting.one_in, f"one_in = {setting.one_in:g}"
    if setting.false_alarm_rate is not None:
        return setting.false_alarm_rate, f"false_alarm_rate = {setting.false_alarm_rate:g}"
    budget = setting.budget_per_day
    if budget is None:
        rate = max(DEFAULT_RATE, 1 / (n + 1))
        return rate, f"false_alarm_rate = {rate:.3g} (default)"
    stated = f'alert_budget = "{setting.alert_budget}"'
    if records_per_day is None:
        raise TrainingDataError(
            f"{stated} needs to know how many records a day brings: "
            "declare the event time as [time], or state false_alarm_rate or one_in instead"
        )
    if budget >= records_per_day:
        raise TrainingDataError(
            f"{stated} is more than the {records_per_day:.3g} normal records that a day of the calibration span "
            "brings: every record would be an alert; state a smaller budget"
        )
    return budget / records_per_day, stated
