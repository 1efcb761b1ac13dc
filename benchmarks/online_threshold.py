"""Whether an online threshold keeps its promise on a stream that drifts, and what it costs.

    python -m benchmarks.online_threshold --json benchmarks/results/online_threshold.json

Real scores: a detector with histories fitted on April and May of the real transactions, calibrated on the normal ones
of June's first week, then the eight weeks after it, frauds among them; achieved by promised rates are of records not
labelled fraud. Known laws: 50,000 calibration scores, then 200,000 that drift. Beside the online threshold stand the
fixed one, a rolling quantile of all scores, and a rolling window of scores below the threshold whose tail is imputed by
draws from a Pareto tail fitted to it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.history_quality import transactions
from benchmarks.rig import arguments, months, report
from detector import NormalScores, decode_table, fit_threshold
from detector.online_threshold import OnlineThreshold
from detector.stream import StreamDefinition, ThresholdSetting
from trainer.columns import sample_columns
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load
from trainer.proposal import propose

WINDOW, EVERY = 50_000, 1_000
RATES = (1e-3, 1e-4)
FIT_UNTIL, CALIBRATE_UNTIL, STREAM_UNTIL = 61, 68, 124  # days since the first of April
FAR_SHARE = 0.003
_HIDDEN = ("day", "TX_FRAUD_SCENARIO")

Scores = NDArray[np.float64]


class Setter(Protocol):
    """A threshold that is asked segment by segment."""

    def alarms(self, scores: Scores, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the next scores exceed it."""


class Online:
    """The product's."""

    def __init__(self, calibration: Scores, rate: float) -> None:
        normal = NormalScores.fit(calibration)
        threshold = fit_threshold(calibration, ThresholdSetting(false_alarm_rate=rate), normal=normal)
        self.policy = OnlineThreshold.of(threshold, normal, WINDOW)
        self.window = self.policy.begin()

    def alarms(self, scores: Scores, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the next scores exceed it."""
        thresholds, _, self.window = self.policy.follow(self.window, scores, offsets)
        alarms: NDArray[np.bool_] = scores > thresholds
        return alarms


class Fixed:
    """The calibrated threshold as it is."""

    def __init__(self, calibration: Scores, rate: float) -> None:
        self.value = fit_threshold(calibration, ThresholdSetting(false_alarm_rate=rate)).value

    def alarms(self, scores: Scores, _: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the next scores exceed it."""
        alarms: NDArray[np.bool_] = scores > self.value
        return alarms


class Rolling:
    """The quantile of the latest scores, alarms among them."""

    def __init__(self, calibration: Scores, rate: float) -> None:
        self.rate, self.latest = rate, calibration[-WINDOW:]

    def alarms(self, scores: Scores, _: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the next scores exceed it."""
        alarms: NDArray[np.bool_] = scores > float(np.quantile(self.latest, 1 - self.rate))
        self.latest = np.concatenate([self.latest, scores])[-WINDOW:]
        return alarms


class Imputed:
    """A Pareto tail of the latest scores below the threshold, and of draws from that tail in the place of alarms.

    The tail begins at the upper 2% and is fitted by probability-weighted moments (Hosking and Wallis, Technometrics 29,
    1987).
    """

    def __init__(self, calibration: Scores, rate: float) -> None:
        self.rate, self.latest, self.draw = rate, calibration[-WINDOW:], np.random.default_rng(0)

    def alarms(self, scores: Scores, _: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the next scores exceed it."""
        level = np.quantile(self.latest, 0.98)
        excesses = np.sort(self.latest[self.latest > level] - level)
        n = len(excesses)
        first, second = excesses.mean(), (np.arange(n)[::-1] / (n - 1) * excesses).mean()
        shape = float(np.clip(2 - first / (first - 2 * second), -0.5, 0.5)) or 1e-9
        scale = first * (1 - shape)

        def score_at(rate: NDArray[np.float64] | float) -> Any:
            return level + scale / shape * ((rate / 0.02) ** -shape - 1)

        alarms: NDArray[np.bool_] = scores > score_at(self.rate)
        imputed = score_at(self.rate * (1 - self.draw.random(self.draw.binomial(len(scores), self.rate))))
        self.latest = np.concatenate([self.latest, scores[~alarms], imputed])[-WINDOW:]
        return alarms


SETTERS: dict[str, Callable[[Scores, float], Setter]] = {
    "online": Online, "fixed": Fixed, "rolling quantile": Rolling, "imputed Pareto": Imputed,
}  # fmt: skip

LAWS: dict[str, Callable[[np.random.Generator, int], Scores]] = {
    "lognormal(.7)": lambda draw, n: draw.lognormal(0, 0.7, n),
    "chi2(10)": lambda draw, n: draw.chisquare(10, n),
}

DRIFTS: dict[str, Callable[[Scores, float], Scores]] = {  # of u in [0, 1) along the stream and the law's deviation
    "none": lambda u, _: u * 0,
    "mean + 1 deviation": lambda u, deviation: u * deviation,
    "cycle of half a deviation": lambda u, deviation: np.sin(2 * np.pi * 20 * u) * deviation / 2,
    "step of half a deviation": lambda u, deviation: 0.5 * deviation * (u > 0.5).astype(np.float64),
}
SCALES = {"scale x 1.5": 0.5, "scale x 0.67": -0.33}


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3)
    chosen = options.parse_args()
    figures = {
        "real": real(chosen.seeds),
        "laws": laws(chosen.seeds),
        "upkeep_us_a_record": round(upkeep(), 4),
        "window": WINDOW,
        "seeds": chosen.seeds,
    }
    report(figures, chosen.json)


def run(setter: Setter, scores: Scores) -> NDArray[np.bool_]:
    """Alarms on a stream, (n,)."""
    parts = range(0, len(scores), EVERY)
    offsets = np.arange(len(scores))
    return np.concatenate([setter.alarms(scores[at : at + EVERY], offsets[at : at + EVERY]) for at in parts])


def real(seeds: int) -> dict[str, Any]:
    """Achieved by promised rates on the transactions, means and extremes over detectors of several seeds."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for seed in range(seeds):
        scores, fraud, day = real_scores(seed)
        calibration, stream = scores[(day < CALIBRATE_UNTIL) & ~fraud], day >= CALIBRATE_UNTIL
        live, fraud = scores[stream], fraud[stream]
        along = np.arange(len(live)) / len(live)
        far = np.random.default_rng(seed).random(len(live)) < FAR_SHARE
        above = far_scores(calibration, int(far.sum()), seed)
        for scenario, drifts, contaminated in (
            ("as it is", False, False), ("0.3% far anomalies", False, True), ("scale x 1.5", True, False),
            ("scale x 1.5 and 0.3% far anomalies", True, True),
        ):  # fmt: skip
            seen = live * (1 + 0.5 * along) if drifts else live.copy()
            if contaminated:
                seen[far] = above * (1 + 0.5 * along[far] if drifts else 1)
            normal = ~fraud & ~far if contaminated else ~fraud
            for rate in RATES:
                for name, setter in SETTERS.items():
                    alarms = run(setter(calibration, rate), seen)
                    place = found.setdefault(scenario, {}).setdefault(f"{rate:g}", {})
                    place.setdefault(name, []).append(float(alarms[normal].mean() / rate))
                    if contaminated:
                        place.setdefault(f"{name}: far anomalies found", []).append(float(alarms[far].mean()))
                    elif name == "online":
                        quarters = [alarms[normal & (along >= q / 4) & (along < (q + 1) / 4)].mean() for q in range(4)]
                        for quarter, each in enumerate(quarters):
                            place.setdefault(f"online, quarter {quarter + 1}", []).append(float(each / rate))
        print(f"seed {seed} done", file=sys.stderr)
    return {scenario: {rate: told(each) for rate, each in rates.items()} for scenario, rates in found.items()}


def told(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean, least and most of each."""
    return {
        name: {"mean": round(float(np.mean(values)), 4), "least": round(min(values), 4), "most": round(max(values), 4)}
        for name, values in found.items()
    }


def far_scores(calibration: Scores, count: int, seed: int) -> Scores:
    """Scores above the 1 - 1e-6 quantile of the fitted tails."""
    tails = NormalScores.fit(calibration).tails
    least = float(np.median([tail.score_at(1e-6) for tail in tails]))
    return least * (1 + 0.5 * np.random.default_rng([seed, 1]).random(count))


def real_scores(seed: int) -> tuple[Scores, NDArray[np.bool_], NDArray[np.int64]]:
    """Score, fraud and day of every transaction after the fit, with the detector that `offbeat init` proposes."""
    table = transactions()
    day = table["day"].to_numpy()
    stream: StreamDefinition = propose(*sample_columns([months("2018-04")[0]]), "transactions").stream
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "fit.parquet"
        pq.write_table(table.filter(pa.array(day < FIT_UNTIL)).drop_columns(_HIDDEN), file)
        dataset = load([file], stream, seed=seed)
    records = dataset.records
    normal = records if records.labels is None else records.take(~records.labels)
    detector, _ = fit_detector(normal, stream, FitSettings(seed=seed), history=dataset.history)
    assert detector.history is not None
    state = detector.history.new_state(base=dataset.state)
    live = np.flatnonzero((day >= FIT_UNTIL) & (day < STREAM_UNTIL))
    scores = []
    for part in np.array_split(live, 60):
        chunk, _ = decode_table(stream, table.take(pa.array(part)).drop_columns(_HIDDEN))
        verdicts, (changes,) = detector.judge(chunk, [state], explanations=False)
        state.apply(changes)
        scores.append(verdicts.scores)
    return np.concatenate(scores), table["TX_FRAUD"].to_numpy()[live] == 1, day[live]


def laws(seeds: int, records: int = 200_000) -> dict[str, Any]:
    """Achieved by promised rates on known laws: of all records, and of their last quarter."""
    figures: dict[str, Any] = {}
    for law, drawn in LAWS.items():
        deviation = float(drawn(np.random.default_rng(1), 1_000_000).std())
        for drift in [*DRIFTS, *SCALES]:
            for rate in RATES:
                for name, setter in SETTERS.items():
                    ratios = []
                    for seed in range(seeds):
                        draw = np.random.default_rng([seed, len(law)])
                        calibration, scores = drawn(draw, WINDOW), drawn(draw, records)
                        along = np.arange(records) / records
                        if drift in SCALES:
                            scores = scores * (1 + SCALES[drift] * along)
                        else:
                            scores = scores + DRIFTS[drift](along, deviation)
                        if "cycle" in drift:
                            calibration = calibration + DRIFTS[drift](np.arange(WINDOW) / records, deviation)
                        alarms = run(setter(calibration, rate), scores)
                        ratios.append((alarms.mean() / rate, alarms[along >= 0.75].mean() / rate))
                    whole, last = np.mean(ratios, axis=0).round(3).tolist()
                    place = figures.setdefault(law, {}).setdefault(drift, {}).setdefault(f"{rate:g}", {})
                    place[name] = {"all": whole, "last quarter": last}
    return figures


def upkeep(records: int = 1_000_000, batch: int = 2_000) -> float:
    """Microseconds a record that following the scores costs in batches, the best of five runs."""
    draw = np.random.default_rng(0)
    scores, offsets = draw.lognormal(0, 0.7, records), np.arange(records)
    best = np.inf
    for _ in range(5):
        online = Online(scores[:WINDOW], 1e-3)
        began = time.process_time()
        for at in range(0, records, batch):
            online.alarms(scores[at : at + batch], offsets[at : at + batch])
        best = min(best, time.process_time() - began)
    return float(best / records * 1e6)


if __name__ == "__main__":
    main()
