"""Drift on real payments: how far weeks without a change seem to drift, how soon changes are seen, and what it costs.

    python -m benchmarks.drift --json benchmarks/results/drift.json

Transactions of the Fraud Detection Handbook with the features that `offbeat init` proposes, and one field beside them
that is made up: a channel, drawn for each payment from four. The detector is fitted on the normal payments of May, with
April as history alone; June to August are judged hour by hour. Changes begin on 8 June and stay for a week. Beside
that, on made-up numbers, how much of the index is chance, and what bins in the tail of the score are for.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.history_quality import transactions
from benchmarks.rig import arguments, months, report
from detector import Detector, DriftReference, HistoryState, Notes, StreamDefinition, decode_table
from detector.drift import SCORE_LEVELS, Bins, number_edges
from trainer.columns import sample_columns
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load
from trainer.proposal import propose
from worker.drift import DriftWindow

APRIL, MAY, END = 0, 30, 153
"""First day of each, and the day after the last one, counted from 1 April."""

CHANGE = 68
"""First day of the changed week, 8 June."""

_DAY_S, _HOUR_S, _WEEK = 86_400, 3_600, 7
_MAJOR, _MODERATE = 0.25, 0.1
_CHANNELS, _SHARES = ("pos", "web", "app", "atm"), (0.55, 0.25, 0.15, 0.05)

Change = Callable[[pa.Table, np.random.Generator], pa.Table]


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    report(run(chosen.seed), chosen.json)


def run(seed: int) -> dict[str, Any]:
    """The figures."""
    table = with_channel(transactions(), np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(Path(folder), table, seed)
    reference = fitted.reference
    return {
        "features": len(reference.features),
        "bins": int(sum(len(bins.counts) for bins in (*reference.features, reference.score))),
        "calibration_records": int(reference.score.counts.sum()),
        "calibration_days": round((reference.span_s or 0.0) / _DAY_S, 1),
        "without_change": without_change(fitted, table),
        "changes": {name: changed(fitted, table, change, seed) for name, change in CHANGES.items()},
        "cost": cost(fitted, table),
        "chance": chance(np.random.default_rng(seed)),
        "score_tail": score_tail(np.random.default_rng(seed)),
    }


def with_channel(table: pa.Table, draw: np.random.Generator) -> pa.Table:
    """The table with a made-up channel for each payment, whatever the payment."""
    column = draw.choice(_CHANNELS, len(table), p=_SHARES)
    return table.append_column("CHANNEL", pa.array(column))


@dataclass(frozen=True)
class Fitted:
    """A detector, and the histories of entities at the end of its training data."""

    detector: Detector
    state: HistoryState | None

    def begin(self) -> HistoryState:
        """A history that goes on from there."""
        assert self.detector.history is not None
        return self.detector.history.new_state(base=self.state)

    @property
    def reference(self) -> DriftReference:
        """What the detector was calibrated on."""
        assert self.detector.reference is not None
        return self.detector.reference


def fit(folder: Path, table: pa.Table, seed: int) -> Fitted:
    """Fit on the normal payments of May."""
    proposal = propose(*sample_columns([months("2018-04")[0]]), "transactions").stream
    content = proposal.model_dump(mode="json", exclude_defaults=True)
    for feature in content["feature"]:
        feature.pop("required", None)  # so that a payment without an amount is scored
    content["feature"] = [*content["feature"], {"kind": "category", "field": "CHANNEL"}]
    stream = StreamDefinition.model_validate(content)
    files = []
    for name, first, last in (("april", APRIL, MAY), ("may", MAY, MAY + 31)):
        files.append(folder / f"{name}.parquet")
        pq.write_table(shown(days(table, first, last)), files[-1])
    dataset = load(files[1:], stream, earlier=files[:1], seed=seed)
    records = dataset.records
    normal = records if records.labels is None else records.take(~records.labels)
    detector, _ = fit_detector(normal, stream, FitSettings(seed=seed), history=dataset.history)
    return Fitted(detector, dataset.state)


def days(table: pa.Table, first: int, last: int) -> pa.Table:
    """Payments of the days from `first` to before `last`."""
    day = table["day"].to_numpy()
    return table.filter(pa.array((day >= first) & (day < last)))


def shown(table: pa.Table) -> pa.Table:
    """The columns that a stream would have."""
    return table.drop_columns(["day", "TX_FRAUD_SCENARIO"])


def hours(fitted: Fitted, table: pa.Table) -> Iterator[tuple[float, int, NDArray[np.int64]]]:
    """Judge payments hour by hour: seconds since April at the end of each, its records, and their counts by bin."""
    state = fitted.begin()
    since = pc.cast(pc.subtract(table["TX_DATETIME"], pa.scalar(np.datetime64("2018-04-01", "ns"))), pa.int64())
    hour = since.to_numpy() // 10**9 // _HOUR_S
    for each in np.unique(hour):
        part = shown(table.filter(pa.array(hour == each)))
        records, _ = decode_table(fitted.detector.stream, part)
        verdicts, changes = fitted.detector.judge(records, [state], explanations=False)
        state.apply(changes[0])
        assert verdicts.drift is not None
        yield float((each + 1) * _HOUR_S), len(records), verdicts.drift.counts


def named(reference: DriftReference, counts: NDArray[np.int64]) -> dict[str, float]:
    """Stability indices by feature, of the score last."""
    names = [*(bins.name for bins in reference.features), "score"]
    return dict(zip(names, reference.compare(counts).tolist(), strict=True))


def largest(indices: dict[str, float], most: int = 4) -> dict[str, float]:
    """The largest of the features', and the score's."""
    order = sorted((name for name in indices if name != "score"), key=lambda name: -indices[name])[:most]
    return {name: round(indices[name], 4) for name in (*order, "score")}


def without_change(fitted: Fitted, table: pa.Table) -> dict[str, Any]:
    """Weeks as they came: each as a whole, and as a worker's window of one day sees them, hour after hour."""
    reference = fitted.reference
    weeks: dict[int, NDArray[np.int64]] = {}
    windows = {length_h: DriftWindow(length_h * _HOUR_S) for length_h in (3, 6, 12, 24)}
    seen, worst = [], dict.fromkeys(windows, ("", 0.0))
    for end_s, records, counts in hours(fitted, days(table, MAY + 31, END)):
        week = int((end_s - 1) // _DAY_S - (MAY + 31)) // _WEEK
        weeks[week] = weeks.get(week, np.zeros_like(counts)) + counts
        for length_h, window in windows.items():
            window.add(counts, records, end_s)
            if window.span_s >= length_h * _HOUR_S:
                found = reference.compare_features(window.counts, window.span_s)
                worst[length_h] = max(worst[length_h], *found.items(), key=lambda item: item[1])
        if windows[24].span_s >= _DAY_S:
            seen.append(named(reference, windows[24].counts))
    daily = {name: np.array([each[name] for each in seen]) for name in seen[0]}
    return {
        "by_week": {week + 1: largest(named(reference, counts)) for week, counts in weeks.items()},
        "hours": len(seen),
        "day_median": largest({name: float(np.median(found)) for name, found in daily.items()}),
        "day_most": largest({name: float(found.max()) for name, found in daily.items()}, len(daily)),
        "most_by_hours_of_window": {
            length_h: {"feature": name, "index": round(index, 4)} for length_h, (name, index) in worst.items()
        },
        "hours_above": {
            f"{limit}": int(sum(any(index > limit for index in each.values()) for each in seen))
            for limit in (_MODERATE, _MAJOR)
        },
    }


def changed(fitted: Fitted, table: pa.Table, change: Change, seed: int) -> dict[str, Any]:
    """One changed week after one that is not: its indices, and hours until a window of one day shows a major one."""
    reference = fitted.reference
    before, after = days(table, MAY + 31, CHANGE), days(table, CHANGE, CHANGE + _WEEK)
    stream = pa.concat_tables([before, change(after, np.random.default_rng(seed))])
    window, week = DriftWindow(_DAY_S), None
    seen_after: dict[str, float] = {}
    for end_s, records, counts in hours(fitted, stream):
        window.add(counts, records, end_s)
        since_h = (end_s - CHANGE * _DAY_S) / _HOUR_S
        if since_h <= 0:
            continue
        week = counts if week is None else week + counts
        for name, index in named(reference, window.counts).items():
            if index > _MAJOR:
                seen_after.setdefault(name, since_h)
    assert week is not None
    first = dict(sorted(seen_after.items(), key=lambda item: item[1])[:5])
    return {"week": largest(named(reference, week), len(reference.features)), "major_after_hours": first}


def _amounts(factor: float) -> Change:
    def change(table: pa.Table, _: np.random.Generator) -> pa.Table:
        column = table.column_names.index("TX_AMOUNT")
        amounts = pc.multiply(table["TX_AMOUNT"], factor).cast(table["TX_AMOUNT"].type)
        return table.set_column(column, "TX_AMOUNT", amounts)

    return change


def _missing(table: pa.Table, draw: np.random.Generator) -> pa.Table:
    column = table.column_names.index("TX_AMOUNT")
    lost = pa.array(draw.random(len(table)) < 0.1)
    return table.set_column(column, "TX_AMOUNT", pc.if_else(lost, None, table["TX_AMOUNT"]))


def _new_value(share: float) -> Change:
    def change(table: pa.Table, draw: np.random.Generator) -> pa.Table:
        column = table.column_names.index("CHANNEL")
        moved = pa.array(draw.random(len(table)) < share)
        return table.set_column(column, "CHANNEL", pc.if_else(moved, "wallet", table["CHANNEL"]))

    return change


CHANGES: dict[str, Change] = {
    "none": lambda table, _: table,
    "amount x 1.5": _amounts(1.5),
    "amount x 100, cents for euros": _amounts(100.0),
    "amount missing in 10 %": _missing,
    "a new channel in 1 %": _new_value(0.01),
    "a new channel in 5 %": _new_value(0.05),
}


def cost(fitted: Fitted, table: pa.Table) -> dict[str, float]:
    """Processor time of counting beside that of judging, in batches of 4,096 as the worker has them."""
    detector = fitted.detector
    reference = fitted.reference
    records, _ = decode_table(detector.stream, shown(days(table, CHANGE, CHANGE + 1)).slice(0, 4_096))
    assert detector.history is not None
    remembering, _ = detector.history.fold_all([fitted.begin()], records)
    notes = Notes()
    scores = detector.scorer.score(detector.encoder.encode(remembering, notes))

    def us(work: Callable[[], object], times: int) -> float:
        work()
        spent = []
        for _ in range(times):
            began = time.process_time()
            work()
            spent.append(time.process_time() - began)
        return float(np.median(spent)) * 1e6

    counted = us(lambda: reference.count(notes, scores), 200) / len(records)
    counts = reference.count(notes, scores)
    return {
        "count_us_per_record": round(counted, 4),
        "count_us_per_record_and_feature": round(counted / len(reference.features), 4),
        "judge_us_per_record": round(
            us(lambda: detector.judge(remembering, explanations=False), 10) / len(records), 2
        ),
        "compare_us": round(us(lambda: reference.compare(counts), 200), 1),
    }  # fmt: skip


def chance(draw: np.random.Generator, runs: int = 400) -> dict[str, Any]:
    """What numbers of one law come to, by the sizes of reference and window: mean and 99.9% point of the index."""
    found: dict[str, Any] = {}
    for m, n in ((200, 1_000), (1_000, 1_000), (10_000, 1_000), (10_000, 10_000)):
        seen = []
        for _ in range(runs):
            known, later = draw.lognormal(size=m), draw.lognormal(size=n)
            edges = number_edges(known)
            bins = Bins("x", np.zeros(len(edges) + 2, np.int64), edges)
            reference = DriftReference([Bins("x", bins.count(known), edges)], Bins("", bins.count(known), edges), None)
            counts = np.concatenate([bins.count(later)] * 2)
            seen.append(float(reference.compare(counts)[0]))
        found[f"reference {m}, window {n}"] = {
            "expected_and_taken_off": round(9 * (1 / m + 1 / n), 5),
            "mean_left": round(float(np.mean(seen)), 5),
            "p99.9_left": round(float(np.quantile(seen, 0.999)), 5),
        }
    return found


def score_tail(draw: np.random.Generator, n: int = 50_000) -> dict[str, Any]:
    """What a share of high scores adds to the index: with tenths of normal scores, and with bins in their tail too."""
    known = draw.exponential(size=n)
    levels = {"tenths": SCORE_LEVELS[:9], "with_tail": SCORE_LEVELS}
    found: dict[str, Any] = {}
    for share in (0.005, 0.01, 0.02, 0.05):
        later = draw.exponential(size=n)
        later[: round(share * n)] += 9.0
        found[f"{share}"] = {}
        for name, chosen in levels.items():
            edges = np.quantile(known, [level for level in chosen if level <= 1 - 10 / n])
            bins = Bins("", np.zeros(len(edges) + 2, np.int64), edges)
            score = Bins("", bins.count(known), edges)
            index = DriftReference([], score, None).compare(bins.count(later))[0]
            found[f"{share}"][name] = round(float(index), 4)
    return found


if __name__ == "__main__":
    main()
