"""Dead letters: bytes unchanged, reasons in headers, cut only where the broker would refuse them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import Reject, RejectReason
from tests.worker.bench import START_MS, batch_of
from transport import OutgoingMessage
from transport.header_names import HeaderName
from worker.dead_letters import NON_FINITE_SCORE, STAGES, Origin, dead_letter, non_finite_score, of_reject

ORIGIN = Origin(consumer_group="offbeat-payments", worker_version="1.2", model_version="v7", at_s=START_MS / 1000)


def letter(
    value: bytes | None = b"not json",
    *,
    key: bytes | None = b"k",
    headers: tuple[tuple[str, bytes], ...] = (),
    reason: str = "not_json",
    message: str = "malformed",
    max_bytes: int = 1_000_000,
) -> OutgoingMessage:
    batch = batch_of([value], keys=[key], headers=[headers], partition=3, first_offset=41)
    return dead_letter(batch, 0, reason, message, origin=ORIGIN, topic="payments.dlq", max_bytes=max_bytes)


def test_value_and_key_are_unchanged_and_original_headers_come_first() -> None:
    message = letter(b"\xff\x00not json", key=b"\xfe", headers=(("trace", b"\xff"), ("trace", b"2")))

    assert (message.topic, message.value, message.key) == ("payments.dlq", b"\xff\x00not json", b"\xfe")
    assert message.headers[:2] == (("trace", b"\xff"), ("trace", b"2"))


@pytest.mark.parametrize("max_bytes", [1_000_000, 800])
def test_a_header_name_that_is_not_utf8_keeps_its_bytes(max_bytes: int) -> None:
    name = HeaderName(b"caf\xe9".decode("utf-8", "surrogateescape"))

    message = letter(b"x" * 500, headers=((name, b"1"),), max_bytes=max_bytes)

    assert message.size_bytes <= max_bytes
    assert message.headers[0] == (name, b"1")
    assert message.headers[0][0].encode() == b"caf\xe9"


def test_the_headers_say_where_it_came_from_and_why_it_is_here() -> None:
    assert dict(letter().headers) == {
        "dlq.reason": b"not_json",
        "dlq.error.class": b"RecordRejected",
        "dlq.error.message": b"malformed",
        "dlq.error.stage": b"deserialize",
        "dlq.original.topic": b"payments",
        "dlq.original.partition": b"3",
        "dlq.original.offset": b"41",
        "dlq.original.timestamp": str(START_MS + 41_000).encode(),
        "dlq.consumer.group": b"offbeat-payments",
        "dlq.attempts": b"1",
        "dlq.worker.version": b"1.2",
        "dlq.model.version": b"v7",
        "dlq.failed.at": b"2026-01-01T00:00:00Z",
    }


def test_every_reason_but_the_tombstone_has_a_stage() -> None:
    assert set(STAGES) == {*RejectReason, NON_FINITE_SCORE} - {RejectReason.TOMBSTONE}


def test_a_redriven_letter_counts_its_attempts_and_does_not_pile_up_headers() -> None:
    once = letter(headers=(("trace", b"1"),))
    twice = letter(headers=once.headers)

    assert len(twice.headers) == len(once.headers)
    assert dict(twice.headers)["dlq.attempts"] == b"2"
    assert dict(twice.headers)["trace"] == b"1"


def test_an_attempt_counter_that_is_no_number_counts_as_none() -> None:
    for wrong in (b"", b"many", b"-3", b"9" * 5000, b"\xff"):
        assert dict(letter(headers=(("dlq.attempts", wrong),)).headers)["dlq.attempts"] == b"1"


def test_a_value_beyond_the_limit_is_cut_and_says_so() -> None:
    message = letter(b"x" * 50_000, max_bytes=20_000)

    assert 19_950 < message.size_bytes <= 20_000
    assert message.value is not None
    assert set(message.value) == set(b"x")
    assert dict(message.headers)["dlq.truncated"] == b"value"
    assert dict(message.headers)["dlq.original.size"] == b"50000"


@given(
    value=st.integers(0, 60_000),
    key=st.integers(0, 60_000),
    header=st.integers(0, 60_000),
    message=st.text(max_size=3000),
)
def test_no_letter_is_larger_than_the_limit(value: int, key: int, header: int, message: str) -> None:
    result = letter(b"v" * value, key=b"k" * key, headers=(("h", b"h" * header),), message=message, max_bytes=16_384)

    assert result.size_bytes <= 16_384
    cut = dict(result.headers).get("dlq.truncated", b"").split(b",")
    assert (b"value" in cut) or result.value == b"v" * value
    assert (b"headers" in cut) or ("h", b"h" * header) in result.headers
    assert (b"key" in cut) or result.key == b"k" * key


def test_a_text_that_is_not_unicode_does_not_stop_a_letter() -> None:
    assert b"?" in dict(letter(message="lone \ud800 surrogate").headers)["dlq.error.message"]


def test_a_reject_names_its_field_once() -> None:
    assert of_reject(Reject(3, RejectReason.WRONG_TYPE, "amount", "is no number")) == (
        3,
        "wrong_type",
        "amount: is no number",
    )
    assert of_reject(Reject(3, RejectReason.WRONG_TYPE, "amount", "amount is no number"))[2] == "amount is no number"


def test_a_score_that_is_not_finite_has_its_own_reason_and_stage() -> None:
    row, reason, message = non_finite_score(5)

    assert (row, reason) == (5, "non_finite_score")
    assert dict(letter(reason=reason, message=message).headers)["dlq.error.stage"] == b"score"
