"""Codes of files of records: the encoder of a detector as a dimension reduction, for those who want it elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from detector import Detector
from trainer.datasets import Chunk
from trainer.replay import read_with_history
from trainer.scoring import RowSummary
from trainer.writing import origin_columns, origin_fields, over_rows, reasons_of, writing

_CODES, _REASON = "codes", "reason"


def embed_files(
    detector: Detector,
    files: Sequence[Path],
    output: Path,
    progress: Callable[[Chunk], None] | None = None,
    *,
    earlier: Sequence[Path] = (),
) -> RowSummary:
    """Write the code of every row of some files into one file.

    The output has one row for each row of the input, in the same order: the fields that say which record it is, as
    `score_files` gives them, the label where the stream has one, the code, and of rejects `reason`; sensitive fields
    are left out. A code's k numbers are the columns `code_0`, `code_1`, ..., or in .npz one array `codes` (n, k);
    null, or NaN, in rows that are no records. The file appears when it is complete, or not at all.

    A code is not the record, but much of the record can be told from it: it is as confidential as the features are.

    Args:
        detector: Encodes the records.
        files: Files of records.
        output: File to write: .parquet, .csv, .jsonl or .npz.
        progress: Called with each chunk that was read.
        earlier: Files whose records are history alone.

    Raises:
        DataFileError: A file cannot be read, or is among both, or the stream has no use for earlier ones.
        OutputError: The output's suffix says no format, it is one of the inputs, or it cannot be written.
    """
    stream, width = detector.stream, detector.scorer.network.code_width
    as_matrix = output.suffix.lower() == ".npz"
    names = [_CODES] if as_matrix else [f"code_{number}" for number in range(width)]
    label = stream.label.field if stream.label and not stream.is_sensitive(stream.label.field) else None
    origin = origin_fields(stream, files, [*names, _REASON])
    schema = pa.schema(
        [
            *origin.values(),
            *([pa.field(_unlike(label, [*names, _REASON]), pa.bool_())] if label is not None else []),
            *(pa.field(name, pa.list_(pa.float32(), width) if as_matrix else pa.float32()) for name in names),
            pa.field(_REASON, pa.string()),
        ]
    )
    summary = RowSummary()
    with writing(output, schema, [*files, *earlier]) as write:
        for chunk in read_with_history(files, stream, detector.history, earlier=earlier, progress=progress):
            reasons = reasons_of(chunk)
            columns = [
                *origin_columns(stream, chunk, origin),
                *([_labels(chunk)] if label is not None else []),
                *_codes(detector, chunk, as_matrix=as_matrix),
                pa.array(reasons, pa.string()),
            ]
            write(pa.table(columns, schema=schema))
            summary.add(chunk, reasons)
    return summary


def _unlike(name: str, taken: Sequence[str]) -> str:
    return f"{name}_field" if name in taken else name


def _labels(chunk: Chunk) -> pa.Array:
    """Whether each row is a known anomaly, null where that is unknown."""
    known = np.zeros(len(chunk), np.bool_)
    if chunk.records.labels is not None:
        known[chunk.records.rows] = True
    labels = over_rows(chunk, chunk.records.labels, absent=False)
    return pa.array(labels, pa.bool_(), mask=~known)


def _codes(detector: Detector, chunk: Chunk, *, as_matrix: bool) -> Iterator[pa.Array]:
    """The code of each row: one column of vectors, or one column for each of its numbers."""
    codes = np.full((len(chunk), detector.scorer.network.code_width), np.nan, np.float32)
    if len(chunk.records):
        codes[chunk.records.rows] = detector.encode(chunk.records)
    if as_matrix:
        yield pa.FixedSizeListArray.from_arrays(pa.array(codes.reshape(-1)), codes.shape[1])
    else:
        yield from (pa.array(column, from_pandas=True) for column in codes.T)
