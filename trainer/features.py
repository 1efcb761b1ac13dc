"""History features of files of records as a table, for those who want them elsewhere; it scores nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from detector import History, StreamDefinition
from detector.stream import HistoryFeature
from trainer.datasets import Chunk, Source
from trainer.errors import DataFileError
from trainer.replay import read_with_history
from trainer.scoring import RowSummary
from trainer.writing import PLACE, origin_columns, origin_fields, over_rows, place_columns, reasons_of, writing

_REASON = "reason"


def feature_files(
    stream: StreamDefinition,
    history: History | None,
    files: Sequence[Source],
    output: Path,
    progress: Callable[[Chunk], None] | None = None,
    *,
    earlier: Sequence[Path] = (),
) -> RowSummary:
    """Write the history features of every row of some files into one file.

    The output has one row for each row of the input, in the same order: the fields that say which record it is, as
    `score_files` gives them, each history feature, null where there is none yet, and of rejects `reason`. Features of
    sensitive fields are left out. Of a topic, `partition` and `offset` come first. It appears when it is complete, or
    not at all.

    Args:
        stream: What a record is.
        history: What is computed; its priors are fitted on the first records of all files unless given.
        files: Files, or ranges of a topic, of records.
        output: File to write.
        progress: Called with each chunk that was read.
        earlier: Files whose records are history alone.

    Raises:
        DataFileError: A file cannot be read, or is among both; or no feature may be shown.
        OutputError: The output's suffix says no format, it is one of the inputs, or it cannot be written.
    """
    paths = [file for file in files if isinstance(file, Path)]
    place = () if paths else PLACE
    taken = [*(column.name for column in place), _REASON]
    shown = {
        feature.label: f"{feature.label}_feature" if feature.label in taken else feature.label
        for feature in stream.history_features
        if not _hidden(feature, stream)
    }
    if not shown:
        raise DataFileError(
            f"stream {stream.name!r} has no history feature that may be shown: add [[feature]] of kind history, of a "
            "field that is not sensitive"
        )
    origin = origin_fields(stream, paths, [*taken, *shown.values()])
    features = [pa.field(name, pa.float64()) for name in shown.values()]
    schema = pa.schema([*place, *origin.values(), *features, pa.field(_REASON, pa.string())])
    summary = RowSummary()
    with writing(output, schema, [*paths, *earlier]) as write:
        for chunk in read_with_history(files, stream, history, earlier=earlier, progress=progress):
            found = [over_rows(chunk, chunk.records.history.get(name), np.nan) for name in shown]
            reasons = reasons_of(chunk)
            columns = [
                *(place_columns(chunk) if place else ()),
                *origin_columns(stream, chunk, origin),
                *(pa.array(column, from_pandas=True) for column in found),
                pa.array(reasons, pa.string()),
            ]
            write(pa.table(columns, schema=schema))
            summary.add(chunk, reasons)
    return summary


def hidden_features(stream: StreamDefinition) -> list[str]:
    """Names of the history features that are not written, as they are of sensitive fields."""
    return [feature.label for feature in stream.history_features if _hidden(feature, stream)]


def _hidden(feature: HistoryFeature, stream: StreamDefinition) -> bool:
    return feature.of is not None and stream.is_sensitive(feature.of)
