"""What histories are worth: label-free frauds of the handbook's weeks, with what `offbeat init` proposes.

    python -m benchmarks.history_quality --json benchmarks/results/history_quality.json

Raw transactions of the Fraud Detection Handbook; the records before the train week are history, the normal ones of the
train week are fitted, a week of delay follows, then the test week, without cards known to be compromised a week before.
Frauds of scenarios 1 and 3, which can be seen without labels; with history features and without them.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.rig import arguments, months, report
from detector import StreamDefinition, decode_table
from trainer.columns import sample_columns
from trainer.evaluation import auroc, average_precision
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load
from trainer.proposal import propose

MONTHS = ("2018-04", "2018-05", "2018-06", "2018-07", "2018-08")
WEEKS = {"validation": 101, "test": 115}
_WEEK = 7
_HIDDEN = ("day", "TX_FRAUD_SCENARIO")


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--seeds", type=int, default=3)
    chosen = options.parse_args()
    report(run(chosen.seeds), chosen.json)


def run(seeds: int) -> dict[str, Any]:
    """The figures: AUROC and average precision of each week, means and extremes over the seeds."""
    table = transactions()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proposal = propose(*sample_columns([months("2018-04")[0]]), "transactions").stream
        alone = proposal.model_copy(update={"feature": proposal.field_features})
        figures: dict[str, Any] = {"history_features": [feature.label for feature in proposal.history_features]}
        for week, start in WEEKS.items():
            for kind, stream in (("with_history", proposal), ("without_history", alone)):
                runs = [one(folder, table, stream, start, seed) for seed in range(seeds)]
                figures.setdefault(week, {})[kind] = {
                    name: {
                        "mean": statistics.mean(each[name] for each in runs),
                        "least": min(each[name] for each in runs),
                        "most": max(each[name] for each in runs),
                    }
                    for name in ("auroc", "average_precision")
                }
    return figures


def transactions() -> pa.Table:
    """All transactions in the order of their ids, with the number of their day."""
    table = pa.concat_tables([pq.read_table(file) for file in months(*MONTHS)]).sort_by("TRANSACTION_ID")
    start = pa.scalar(np.datetime64("2018-04-01T00:00:00", "ns"), pa.timestamp("ns"))
    since = pc.cast(pc.subtract(table["TX_DATETIME"], start), pa.int64()).to_numpy()
    return table.append_column("day", pa.array(since // 86_400_000_000_000))


def one(folder: Path, table: pa.Table, stream: StreamDefinition, start: int, seed: int) -> dict[str, float]:
    """Fit on the week from day `start` on with all before as history, and score the week after next."""
    day = table["day"].to_numpy()
    earlier, week = folder / "earlier.parquet", folder / "week.parquet"
    pq.write_table(table.filter(pa.array(day < start)).drop_columns(_HIDDEN), earlier)
    pq.write_table(table.filter(pa.array((day >= start) & (day < start + _WEEK))).drop_columns(_HIDDEN), week)
    dataset = load([week], stream, earlier=[earlier] if stream.history_features else [], seed=seed)
    records = dataset.records
    normal = records if records.labels is None else records.take(~records.labels)  # the week's frauds are history alone
    detector, _ = fit_detector(normal, stream, FitSettings(seed=seed), history=dataset.history)
    live = np.flatnonzero((day >= start + _WEEK) & (day < start + 3 * _WEEK))
    later, _ = decode_table(stream, table.take(pa.array(live)).drop_columns(_HIDDEN))
    state = None if detector.history is None else [detector.history.new_state(base=dataset.state)]
    scores = np.full(len(table), np.nan)
    scores[live] = detector.judge(later, state, explanations=False)[0].scores
    rows = rows_of_the_test_week(table, start)
    scenario, fraud = table["TX_FRAUD_SCENARIO"].to_numpy()[rows], table["TX_FRAUD"].to_numpy()[rows]
    seen = rows[(fraud == 0) | (scenario == 1) | (scenario == 3)]
    anomalous = table["TX_FRAUD"].to_numpy()[seen] == 1
    return {
        "auroc": auroc(scores[seen], anomalous), "average_precision": average_precision(scores[seen], anomalous),
    }  # fmt: skip


def rows_of_the_test_week(table: pa.Table, start: int) -> NDArray[np.int64]:
    """Rows of the test week, less the cards known, seven days late, to be compromised: the handbook's protocol."""
    day, fraud, card = (table[name].to_numpy() for name in ("day", "TX_FRAUD", "CUSTOMER_ID"))
    known = set(card[(day >= start) & (day < start + _WEEK) & (fraud == 1)].tolist())
    found = []
    for step in range(_WEEK):
        known |= set(card[(day == start + _WEEK + step - 1) & (fraud == 1)].tolist())
        today = np.flatnonzero(day == start + 2 * _WEEK + step)
        found.append(today[~np.isin(card[today], list(known))])
    return np.concatenate(found)


if __name__ == "__main__":
    main()
