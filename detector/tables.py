"""Tables of records (Arrow, pandas, mappings, matrices) as the same columns that messages decode to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detector import times
from detector.decode import Reject, Role, assemble, roles_of
from detector.errors import StreamDefinitionError
from detector.records import Messages, Records
from detector.stream import NumberFeature, StreamDefinition


def decode_table(stream: StreamDefinition, table: pa.Table, *, first_row: int = 0) -> tuple[Records, list[Reject]]:
    """Columns of a table as records, with the outcome that the same values have as JSON.

    A null is a missing value and so is NaN in a column of floats. Timestamps of any Arrow type are times whatever
    format the definition declares; those without a zone are local to the declared one.

    Args:
        stream: What a record is.
        table: Rows of the stream; columns that the definition does not name are ignored.
        first_row: Number of the first row, for tables that come in chunks.

    Raises:
        StreamDefinitionError: A field of the definition, other than the label, is not in the table.
    """
    roles = tuple(replace(role, checked=True) for role in roles_of(stream))
    n = table.num_rows
    columns: dict[str, Any] = {}
    for role in roles:
        array = _column(table, role.path)
        if array is None and not role.label and not role.arrival:
            raise StreamDefinitionError(
                f"field {role.path!r} of stream {stream.name!r} is not in the data: "
                f"remove it from the definition, or give data with it (found: {', '.join(table.column_names[:30])})"
            )
        columns[role.path] = [None] * n if array is None else _values(role, array)
    rows = Messages([None] * n, first_row)
    return assemble(stream, roles, columns, np.arange(n, dtype=np.int64), rows)


def _column(table: pa.Table, path: str) -> pa.Array | None:
    """The column at a path: one of that very name, or a field inside struct columns; None where there is none."""
    if path in table.column_names:
        return _whole(table.column(path))
    head, *rest = path.split(".")
    if not rest or head not in table.column_names:
        return None
    array = _whole(table.column(head))
    for key in rest:
        if not pa.types.is_struct(array.type) or array.type.get_field_index(key) < 0:
            return None
        array = pc.struct_field(array, key)
    return array


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _values(role: Role, array: pa.Array) -> Any:
    """A column as what `assemble` reads: times and plain numbers as numpy arrays, anything else as Python values."""
    kind = array.type
    if role.time is not None and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        naive = not pa.types.is_timestamp(kind) or kind.tz is None
        stamps = array.cast(pa.timestamp("us", None if naive else "UTC"), safe=False)
        column = stamps.to_numpy(zero_copy_only=False).astype("datetime64[us]")
        return times.from_naive(column, role.time[1])[0] if naive else column
    if role.number and not role.text and role.time is None and _is_number(kind):
        return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values = array.to_pylist()
    if pa.types.is_floating(kind):
        return [None if value is None or value != value else value for value in values]
    if pa.types.is_decimal(kind):
        return [None if value is None else float(value) for value in values]
    return values


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_table(data: Any) -> pa.Table:
    """A mapping of columns, a pandas table or an Arrow table as an Arrow table.

    Raises:
        TypeError: `data` is none of these.
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, Mapping):
        return pa.table(
            {
                name: pa.array(
                    np.asarray(column).tolist() if isinstance(column, np.ndarray) and column.dtype == object else column
                )
                for name, column in data.items()
            }
        )
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return pa.Table.from_pandas(data, preserve_index=False)
    raise TypeError(
        f"records of type {type(data).__name__} cannot be read: give a mapping of columns, a pandas or pyarrow table, "
        "or a float matrix (n, d)"
    )


def stream_of_matrix(width: int, name: str = "matrix") -> StreamDefinition:
    """The definition of a stream of `width` numbers named x0, x1, ..."""
    features = tuple(NumberFeature(kind="number", field=f"x{column}") for column in range(width))
    return StreamDefinition(name=name, feature=features)


def records_of_matrix(stream: StreamDefinition, matrix: NDArray[Any]) -> Records:
    """A float matrix (n, d) as records: column j is the j-th feature of `stream`; NaN is missing.

    Raises:
        ValueError: The matrix is not two-dimensional, not of numbers, of another width, or holds an infinity.
    """
    values = np.asarray(matrix)
    fields = [feature.field for feature in stream.field_features]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise ValueError(
            f"a matrix of records has shape (n, d) and numbers; this one has {values.shape}, {values.dtype}"
        )
    if values.shape[1] != len(fields) or not all(isinstance(f, NumberFeature) for f in stream.feature):
        raise ValueError(
            f"the matrix has {values.shape[1]} columns, and detector {stream.name!r} has the features "
            f"{', '.join(fields[:30])}: give records with these"
        )
    values = values.astype(np.float64)
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0].tolist()
        raise ValueError(
            f"row {row}, column {column} is infinite: no score would mean anything; remove it or make it NaN"
        )
    n = len(values)
    return Records(
        rows=np.arange(n, dtype=np.int64),
        partition_index=np.zeros(n, np.int32),
        offsets=np.arange(n, dtype=np.int64),
        timestamps_ms=np.full(n, -1, np.int64),
        numbers={field: np.ascontiguousarray(values[:, column]) for column, field in enumerate(fields)},
        categories={},
        times={},
    )
