"""Scores files of records as the worker would score them as messages; rows in, rows out, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detector import Detector
from trainer.datasets import Chunk, RejectExample
from trainer.replay import read_with_history
from trainer.writing import origin_columns, origin_fields, over_rows, reasons_of, writing

RESULT_COLUMNS = ("score", "score_ratio", "verdict", "reason")

NON_FINITE_SCORE = "non_finite_score"
"""Reason of a record whose score is not a number: neither normal nor an alert."""

_EXAMPLES = 5


@dataclass
class RowSummary:
    """What became of the rows.

    Attributes:
        rows: Rows of the input, and of the output.
        verdicts: Rows by verdict; they sum to `rows`.
        reasons: Rejected rows by reason.
        examples: The first few of them.
    """

    rows: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[RejectExample] = field(default_factory=list)

    def add(self, chunk: Chunk, reasons: NDArray[np.object_]) -> None:
        """Count a chunk's rows by why they were rejected, None for those that were not, (n,); keep the first few."""
        self.rows += len(chunk)
        self.reasons.update(reason for reason in reasons.tolist() if reason is not None)
        for reject in chunk.rejects[: _EXAMPLES - len(self.examples)]:
            self.examples.append(RejectExample(chunk.origin, int(chunk.lines[reject.row]), reject.reason, reject.message))


def score_files(
    detector: Detector,
    files: Sequence[Path],
    output: Path,
    progress: Callable[[Chunk], None] | None = None,
    *,
    earlier: Sequence[Path] = (),
) -> RowSummary:
    """Score every row of some files into one file, chunk by chunk.

    The output has one row for each row of the input, in the same order: the fields that say which record it is (id,
    key and event time, as far as the stream has them and they are not sensitive), `score`, `score_ratio`,
    `verdict` (normal, alert or reject) and, of rejects, `reason`. It appears when it is complete, or not at all.

    Where the stream has history features, history begins with the oldest record of all files, and the scores are those
    of a worker that read them merged by time.

    Args:
        detector: Scores the records.
        files: Files of records.
        output: File to write.
        progress: Called with each chunk that was read.
        earlier: Files whose records are history alone.

    Raises:
        DataFileError: A file cannot be read, or is among both, or the stream has no use for earlier ones.
        OutputError: The output's suffix says no format, it is one of the inputs, or it cannot be written.
    """
    origin = origin_fields(detector.stream, files, RESULT_COLUMNS)
    kinds = (pa.float64(), pa.float64(), pa.string(), pa.string())
    result = [pa.field(name, kind) for name, kind in zip(RESULT_COLUMNS, kinds, strict=True)]
    schema = pa.schema([*origin.values(), *result])
    summary = RowSummary()
    chunks = read_with_history(files, detector.stream, detector.history, earlier=earlier, progress=progress)
    with writing(output, schema, [*files, *earlier]) as write:
        for chunk in chunks:
            columns = [*origin_columns(detector.stream, chunk, origin), *_judge(detector, chunk, summary)]
            write(pa.table(columns, schema=schema))
    return summary


def _judge(detector: Detector, chunk: Chunk, summary: RowSummary) -> list[pa.Array]:
    """The result columns of a chunk."""
    rows = chunk.records.rows
    judged, _ = detector.judge(chunk.records, explanations=False)
    scores = over_rows(chunk, judged.scores, np.nan)
    verdicts, reasons = np.full(len(chunk), "reject", object), reasons_of(chunk)
    verdicts[rows] = "normal"
    verdicts[rows[judged.anomalies]] = "alert"
    unscorable = rows[judged.unscorable]
    verdicts[unscorable], reasons[unscorable], scores[unscorable] = "reject", NON_FINITE_SCORE, np.nan
    summary.verdicts.update(verdicts.tolist())
    summary.add(chunk, reasons)
    return [
        pa.array(scores, from_pandas=True),
        pa.array(scores / detector.threshold.value, from_pandas=True),
        pa.array(verdicts, pa.string()),
        pa.array(reasons, pa.string()),
    ]
