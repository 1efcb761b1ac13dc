"""Thresholds: the score above which a record is called anomalous, set on scores of held-out normal records."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from detector.errors import TrainingDataError
from detector.stream import ThresholdSetting

DEFAULT_RATE = 1e-3
"""False-alarm rate where a stream definition states none."""


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
        method: How it was set.
        stated: How a person stated it, such as "50/day".
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

    def to_json(self) -> dict[str, Any]:
        """A JSON object; an interval without end has null there."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Threshold:
        """What `to_json` gave."""
        return cls(**{**content, "high": math.inf if content["high"] is None else content["high"]})


def fit_threshold(
    scores: NDArray[np.float64], setting: ThresholdSetting, records_per_day: float | None = None
) -> Threshold:
    """Return the threshold that keeps what `setting` states on records like those scored here.

    Of records from the same distribution as `scores`, the share above the result is expected to be at most the wanted
    rate, whatever that distribution is. The guarantee is an average over calibration samples and assumes
    exchangeability, so it does not survive drift.

    Args:
        scores: Scores of held-out normal records, (n,). Never of records that the network was fitted on: those are
            too low, and the threshold with them.
        setting: An alert budget, a false-alarm rate, or neither: then 1e-3, or the smallest rate that n can resolve.
        records_per_day: Normal records a day in the span of the scores; needed for an alert budget.

    Raises:
        TrainingDataError: n is too small for the rate, a score is not finite, or a budget has no event rate.

    Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005 (the conformal quantile);
        Wilks, "Determination of Sample Sizes for Setting Tolerance Limits", Annals of Mathematical Statistics 12, 1941
        (the share above an order statistic has a beta distribution).
    """
    n = len(scores)
    if n == 0 or not np.isfinite(scores).all():
        raise TrainingDataError(
            f"{n} calibration scores, {int((~np.isfinite(scores)).sum())} of them not finite: "
            "a threshold needs finite scores of held-out normal records"
        )
    rate, stated = check_resolvable(n, setting, records_per_day)
    rank = _rank(n, rate)
    ordered = np.sort(scores)
    above = n + 1 - rank
    rate_low, rate_high = (float(end) for end in beta.ppf([0.025, 0.975], above, rank))
    low_rank, high_rank = (int(end) for end in binom.ppf([0.025, 0.975], n, 1 - rate))
    return Threshold(
        value=float(ordered[rank - 1]),
        low=float(ordered[max(low_rank, 1) - 1]),
        high=float(ordered[high_rank]) if high_rank < n else math.inf,
        rate=above / (n + 1),
        rate_low=rate_low,
        rate_high=rate_high,
        expected_per_day=None if records_per_day is None else above / (n + 1) * records_per_day,
        n=n,
        method="empirical",
        stated=stated,
    )


def check_resolvable(n: int, setting: ThresholdSetting, records_per_day: float | None) -> tuple[float, str]:
    """Return the false-alarm rate that a setting means and how it was stated, if n held-out scores can resolve it.

    Args:
        n: Held-out normal scores that there will be.
        setting: As of `fit_threshold`.
        records_per_day: As of `fit_threshold`.

    Raises:
        TrainingDataError: n is too small for the rate, or a budget has no event rate.
    """
    rate, stated = _wanted_rate(setting, n, records_per_day)
    if _rank(n, rate) > n:
        needed = math.ceil(1 / rate) - 1
        raise TrainingDataError(
            f"{n} calibration scores cannot resolve a false-alarm rate of {rate:.3g} ({stated}): "
            f"give at least {needed} held-out normal records, or accept a rate of {1 / (n + 1):.3g} or more"
        )
    return rate, stated


def _rank(n: int, rate: float) -> int:
    """Which of n ascending scores, counted from 1, is the threshold of a rate; n + 1 where none is high enough."""
    return math.ceil((n + 1) * (1 - rate) - 1e-9)


def _wanted_rate(setting: ThresholdSetting, n: int, records_per_day: float | None) -> tuple[float, str]:
    """The false-alarm rate that a setting means, and how it was stated."""
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
            "declare the event time as [time], or state a false_alarm_rate instead"
        )
    if budget >= records_per_day:
        raise TrainingDataError(
            f"{stated} is more than the {records_per_day:.3g} normal records that a day of the calibration span "
            "brings: every record would be an alert; state a smaller budget"
        )
    return budget / records_per_day, stated
