"""What a person should know of the data before a fit: it may fail of it, or succeed in spite of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from detector import StreamDefinition
from trainer.loading import Dataset, bytes_per_record

_MICROSECONDS_A_DAY = 86_400_000_000


def data_remarks(dataset: Dataset, stream: StreamDefinition) -> Iterator[str]:
    """One line for each thing."""
    yield from _odd_in(dataset, stream)
    yield from _short_of_history(dataset, stream)
    if dataset.left_out_by_sampling:
        size = len(dataset.records) * bytes_per_record(dataset.records)
        yield (
            f"{dataset.decoded:,} records are more than --max-rows: training on a uniform sample of "
            f"{len(dataset.records):,} (about {size / 1e6:,.0f} MB)"
        )


def _odd_in(dataset: Dataset, stream: StreamDefinition) -> Iterator[str]:
    """Rows that are no records, fields that nobody has, labels that mark nothing."""
    if dataset.rejected:
        first = dataset.examples[0]
        yield (
            f"{sum(dataset.rejected.values()):,} of {dataset.rows_read:,} rows are no records; "
            f"the first: {first.origin.name}:{first.line}: {first.message}"
        )
    if dataset.absent:
        yield f"no record has a value in {', '.join(dataset.absent)}"
    labels = dataset.records.labels
    label = stream.label
    if label is not None and label.field not in dataset.absent and labels is not None and not labels.any():
        values = " or ".join(json.dumps(value, ensure_ascii=False) for value in label.anomalous)
        yield (
            f"no record is labelled anomalous: {label.field} is never {values}; "
            "if it should be, mend `anomalous` under [label], or anomalies are learned as normal"
        )


def _short_of_history(dataset: Dataset, stream: StreamDefinition) -> Iterator[str]:
    """What is missing of the history that the records were given."""
    if dataset.is_short:
        days = stream.longest_window_us / _MICROSECONDS_A_DAY
        yield (
            f"the data span less than the longest window of history ({days:g} days): all records are used, though "
            "features of long windows are short of history in them; give more data, or earlier files with --history"
        )
    if dataset.state is not None and dataset.state.evictions:
        yield (
            f"{dataset.state.evictions:,} entities were forgotten, as there are more than max_entities "
            f"({stream.history.max_entities:,}): they begin anew when they come back; raise it under [history]"
        )
