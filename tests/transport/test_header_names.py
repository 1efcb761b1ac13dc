"""Header names of any bytes, through kafka-python's own encoding of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from transport import OutgoingMessage
from transport.header_names import HeaderName, read_any_header_name

ODD = b"caf\xe9 \xf0\x9f\x98\x80 \xed\xa0\x80"


def name_of(raw: bytes) -> HeaderName:
    return HeaderName(raw.decode("utf-8", "surrogateescape"))


def batch_of(*headers: Sequence[tuple[str, bytes]], compression: int = 0) -> bytes:
    """A record batch as a broker stores it, one record for each list of headers."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=compression, batch_size=1 << 20)
    for number, some in enumerate(headers):
        builder.append(timestamp=number, key=b"k\xff", value=b"v\xff%d" % number, headers=list(some))
    builder.close()
    return bytes(builder.buffer())


def records_in(stored: bytes) -> list[Any]:
    read_any_header_name()
    return list(MemoryRecords(stored).next_batch())


def test_kafka_python_takes_a_name_that_is_not_utf8_for_corrupt() -> None:
    stored = batch_of([(name_of(ODD), b"")])

    with pytest.raises(CorruptRecordError):  # where it does not, header_names.py can go
        list(DefaultRecordBatch(stored))


@pytest.mark.parametrize("compression", [0, 1], ids=["plain", "gzip"])
def test_a_message_with_a_name_that_is_not_utf8_is_read_with_its_neighbours(compression: int) -> None:
    stored = batch_of(
        [("plain", b"1")],
        [("grün", b"2"), (name_of(ODD), b"3\xff"), ("plain", b"")],
        [],
        [(name_of(b"\xff"), b"4")],
        compression=compression,
    )

    records = records_in(stored)

    assert [[(name.encode(), value) for name, value in record.headers] for record in records] == [
        [(b"plain", b"1")],
        [("grün".encode(), b"2"), (ODD, b"3\xff"), (b"plain", b"")],
        [],
        [(b"\xff", b"4")],
    ]
    assert [(record.key, record.value) for record in records] == [(b"k\xff", b"v\xff%d" % n) for n in range(4)]
    assert all(type(content) is bytes for record in records for content in (record.key, record.value))


@given(st.binary(max_size=30))
def test_a_name_of_any_bytes_is_written_as_it_was_read(raw: bytes) -> None:
    ((name, value),) = records_in(batch_of([(name_of(raw), b"x")]))[0].headers

    again = records_in(batch_of([(name, value)]))[0].headers

    assert again[0][0].encode() == raw
    assert again[0][0] == name


def test_a_message_to_publish_has_a_size_whatever_its_header_names_are() -> None:
    odd, plain = (OutgoingMessage("t", b"k", b"v", ((name, b"x"),)) for name in (name_of(b"\xff\xfe"), "ab"))

    assert odd.size_bytes == plain.size_bytes


def test_a_record_that_is_really_corrupt_is_still_said_to_be() -> None:
    stored = bytearray(batch_of([(name_of(ODD), b"x")]))
    stored[-2] = 0x7F  # the length of the header's value

    with pytest.raises(CorruptRecordError):
        records_in(bytes(stored))
