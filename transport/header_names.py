"""Header names that are not UTF-8: Kafka carries them and kafka-python stops at them. Knows no batch and no group."""

from __future__ import annotations

from typing import Any

from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch


class HeaderName(str):
    """A name of whatever bytes: those that are not UTF-8 are lone surrogates in it, and `encode` gives them back.

    That is lossless. A copy that is a plain `str`, as from slicing or joining, cannot be encoded.
    """

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:
        """The bytes that the name was read from."""
        return super().encode(encoding, errors)


def read_any_header_name() -> None:
    """Let kafka-python read messages with such header names, in this process; calling it again changes nothing.

    kafka-python 3.0.12 takes them for corrupt, and a consumer that meets one can never get past it. Producers need
    nothing: they ask each name to encode itself.
    """
    memory_records.DefaultRecordBatch = _RecordBatch


class _RecordBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A fetched batch of records; from its first odd name on it is read in the slower way that takes any."""

    __slots__ = ()

    def _read_msg(self) -> Any:
        try:
            return super()._read_msg()
        except UnicodeDecodeError:
            # Nothing of the record is taken yet, and nothing of a record but the names of its headers is decoded.
            self._buffer = _Bytes(self._buffer)  # type: ignore[has-type, misc]
            return super()._read_msg()


class _Bytes(bytearray):
    """Bytes whose slices decode to header names."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Bytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> HeaderName:
        return HeaderName(super().decode(encoding, errors))
