"""The handbook's windows, recomputed from raw transactions in both modes, beside the published feature table.

    python -m benchmarks.history_windows --json benchmarks/results/history_windows.json

Count and mean amount of a customer's payments over 1, 7 and 30 days, the payment included, in the order of
TRANSACTION_ID; days 101 to 135 of the Fraud Detection Handbook's stream, replayed from its beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.rig import TRANSACTIONS, arguments, months, report
from detector import History, StreamDefinition, decode_table

TABLE = TRANSACTIONS.parent / "transaction_features" / "days_101_135.parquet"
MONTHS = ("2018-04", "2018-05", "2018-06", "2018-07", "2018-08")
WINDOWS = ("1d", "7d", "30d")
_CHUNK = 32_768


def main() -> None:
    """Run it and report."""
    chosen = arguments(__doc__ or "").parse_args()
    published = pq.read_table(TABLE)
    report({mode: compare(mode, published) for mode in ("exact", "buckets")}, chosen.json)


def stream(mode: str) -> StreamDefinition:
    """The six windows as history features."""
    common = {"kind": "history", "includes_self": True}
    features = [{"statistic": "count", "window": window, "name": f"hb_c_nb{window[:-1]}"} for window in WINDOWS]
    features += [
        {"statistic": "mean", "of": "TX_AMOUNT", "window": window, "name": f"hb_c_avg{window[:-1]}"}
        for window in WINDOWS
    ]
    return StreamDefinition.model_validate(
        {
            "name": "transactions",
            "id": "TRANSACTION_ID",
            "key": "CUSTOMER_ID",
            "time": {"field": "TX_DATETIME"},
            "history": {"mode": mode},
            "feature": [common | feature for feature in features],
        }
    )


def compare(mode: str, published: pa.Table) -> dict[str, Any]:
    """Relative differences to the published table, by column."""
    found = recompute(mode)
    figures: dict[str, Any] = {}
    for name, column in found.items():
        wanted = published[name].to_numpy().astype(np.float64)
        if len(wanted) != len(column):
            raise AssertionError(f"{len(column)} rows were recomputed and {len(wanted)} published")
        off = np.abs(column - wanted) / np.maximum(np.abs(wanted), 1e-9)
        figures[name] = {
            "median": float(np.median(off)), "p99": float(np.quantile(off, 0.99)), "largest": float(off.max()),
        }  # fmt: skip
    return figures


def recompute(mode: str) -> dict[str, NDArray[np.float64]]:
    """The windows of the rows of the published table, in its order."""
    definition = stream(mode)
    history = state = None
    columns: dict[str, list[NDArray[np.float64]]] = {}
    for file in months(*MONTHS):
        table = pq.read_table(file).sort_by("TRANSACTION_ID")
        days = pc.floor(pc.divide(pc.cast(_seconds(table), pa.float64()), 86_400)).to_numpy()
        for first in range(0, len(table), _CHUNK):
            records, rejects = decode_table(definition, table.slice(first, _CHUNK))
            if rejects:
                raise AssertionError(f"{len(rejects)} rows are no records: {rejects[0].message}")
            if history is None or state is None:
                history = History.fit(definition, records)
                if history is None:
                    raise AssertionError("the stream has history features")
                state = history.new_state()
            found, changes = history.fold(state, records)
            state.apply(changes)
            chosen = days[first : first + len(records)]
            for name, column in found.items():
                columns.setdefault(name, []).append(column[(chosen >= 101) & (chosen <= 135)])
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _seconds(table: pa.Table) -> pa.ChunkedArray:
    """Seconds since the stream's first midnight."""
    start = pa.scalar(np.datetime64("2018-04-01T00:00:00", "ns"), pa.timestamp("ns"))
    return pc.divide(pc.cast(pc.subtract(table["TX_DATETIME"], start), pa.int64()), 1_000_000_000)


if __name__ == "__main__":
    main()
