"""Scores files of records, or ranges of a topic, as the worker scores messages; rows in, rows out, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detector import AlertState, Detector, RejectReason
from trainer.datasets import Chunk, RejectExample, Source
from trainer.replay import read_with_history
from trainer.topics import PartitionRange
from trainer.writing import PLACE, origin_columns, origin_fields, over_rows, place_columns, reasons_of, writing

RESULT_COLUMNS = ("score", "score_ratio", "verdict", "reason")
MESSAGE_COLUMNS = (*(field.name for field in PLACE), "score", "threshold", "score_ratio", "verdict", "reason")

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
        suppressed: Messages of a topic that do not alert, by reason: a rule of the stream, or a tombstone.
    """

    rows: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[RejectExample] = field(default_factory=list)
    suppressed: Counter[str] = field(default_factory=Counter)

    def add(self, chunk: Chunk, reasons: NDArray[np.object_]) -> None:
        """Count a chunk's rows by why they were rejected, None for those that were not, (n,); keep the first few."""
        self.rows += len(chunk)
        self.reasons.update(reason for reason in reasons.tolist() if reason is not None)
        told = [reject for reject in chunk.rejects if reasons[reject.row] is not None]
        for reject in told[: _EXAMPLES - len(self.examples)]:
            self.examples.append(
                RejectExample(chunk.origin, int(chunk.lines[reject.row]), reject.reason, reject.message)
            )


def score_files(
    detector: Detector,
    files: Sequence[Source],
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
    paths = [file for file in files if isinstance(file, Path)]
    origin = origin_fields(detector.stream, paths, RESULT_COLUMNS)
    kinds = (pa.float64(), pa.float64(), pa.string(), pa.string())
    result = [pa.field(name, kind) for name, kind in zip(RESULT_COLUMNS, kinds, strict=True)]
    schema = pa.schema([*origin.values(), *result])
    summary = RowSummary()
    chunks = read_with_history(files, detector.stream, detector.history, earlier=earlier, progress=progress)
    with writing(output, schema, [*paths, *earlier]) as write:
        for chunk in chunks:
            columns = [*origin_columns(detector.stream, chunk, origin), *_judge(detector, chunk, summary)]
            write(pa.table(columns, schema=schema))
    return summary


def score_partitions(
    detector: Detector,
    ranges: Sequence[PartitionRange],
    output: Path,
    progress: Callable[[Chunk], None] | None = None,
) -> RowSummary:
    """Score every message of some ranges of a topic into one file, one partition after the other.

    The output has one row for each message: partition and offset, the fields that say which record it is, as
    `score_files` gives them, `score`, the `threshold` in force, `score_ratio`, `verdict` (normal, alert, suppressed or
    reject) and, of the last two, `reason`. It appears when it is complete, or not at all.

    Scores, thresholds and verdicts are those of a worker that reads the partitions with what was remembered before each
    range, to the last bit: histories, an online threshold and quiet entities go on from message to message. A tombstone
    is suppressed, as the worker counts it.

    Args:
        detector: Scores the records.
        ranges: What to read, with what was remembered before.
        output: File to write.
        progress: Called with each chunk that was read.

    Raises:
        OutputError: The output's suffix says no format, or it cannot be written.
        TrainerError: The broker does not answer, or refuses.
    """
    origin = origin_fields(detector.stream, (), MESSAGE_COLUMNS)
    number, text = pa.float64(), pa.string()
    kinds = zip(MESSAGE_COLUMNS[len(PLACE) :], (number, number, number, text, text), strict=True)
    schema = pa.schema([*PLACE, *origin.values(), *(pa.field(name, kind) for name, kind in kinds)])
    summary = RowSummary()
    with writing(output, schema, ()) as write:
        for each in ranges:
            part = each.recalled()
            state = detector.alerting.begin() if part.remembered is None else part.remembered.alerts
            for chunk in read_with_history([part], detector.stream, detector.history, progress=progress):
                result, state = _judge_messages(detector, chunk, state, summary)
                columns = [*place_columns(chunk), *origin_columns(detector.stream, chunk, origin), *result]
                write(pa.table(columns, schema=schema))
    return summary


def _judge_messages(
    detector: Detector, chunk: Chunk, state: AlertState, summary: RowSummary
) -> tuple[list[pa.Array], AlertState]:
    """The result columns of a chunk of one partition, and what is left for the alerts on the next."""
    rows = chunk.records.rows
    judged, _ = detector.judge(chunk.records, None, [state], explanations=False)
    scores, thresholds = over_rows(chunk, judged.scores, np.nan), over_rows(chunk, judged.thresholds, np.nan)
    verdicts, reasons = np.full(len(chunk), "reject", object), reasons_of(chunk)
    rejects = reasons.copy()
    verdicts[rows] = "normal"
    verdicts[rows[judged.alerts]] = "alert"
    suppressed = rows[judged.suppressed]
    verdicts[suppressed], reasons[suppressed] = "suppressed", judged.reasons
    unscorable = rows[judged.unscorable]
    for column in (reasons, rejects):
        column[unscorable] = NON_FINITE_SCORE
    verdicts[unscorable], scores[unscorable], thresholds[unscorable] = "reject", np.nan, np.nan
    tombstones = reasons == RejectReason.TOMBSTONE.value
    verdicts[tombstones], rejects[tombstones] = "suppressed", None
    summary.verdicts.update(verdicts.tolist())
    summary.suppressed.update(reasons[verdicts == "suppressed"].tolist())
    summary.add(chunk, rejects)
    columns = [
        *(pa.array(column, from_pandas=True) for column in (scores, thresholds, scores / thresholds)),
        *(pa.array(column, pa.string()) for column in (verdicts, reasons)),
    ]
    return columns, judged.states[0]


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
