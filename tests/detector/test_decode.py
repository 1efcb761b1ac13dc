from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import (
    Decoder,
    Echo,
    Messages,
    Records,
    RejectReason,
    StreamDefinition,
    StreamDefinitionError,
    decode_table,
)
from detector.decode import MAX_DEPTH
from tests.payments import DEFINITION, STREAM, decoded, message, payment

GOOD = message(7)
DECODER = Decoder(STREAM)


def only_reject(value: bytes | None, decoder: Decoder = DECODER) -> tuple[RejectReason, str | None]:
    records, rejects = decoder.decode(Messages([value]))
    assert len(records) == 0
    assert len(rejects) == 1
    return rejects[0].reason, rejects[0].field


@pytest.mark.parametrize(
    ("value", "reason", "field"),
    [
        (None, "tombstone", None),
        (b"", "empty", None),
        (b" \n", "empty", None),
        (b"x" * 10_000_000, "too_large", None),
        (b'{"a": "\xff"}', "not_utf8", None),
        (GOOD[:-1] + b', "unread": "\xc3"}', "not_utf8", None),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8", None),
        (b"\xff\xfe{\x00}\x00", "not_utf8", None),
        (b"{", "not_json", None),
        (b"not json", "not_json", None),
        (GOOD + GOOD, "not_json", None),
        (GOOD + b"," + GOOD, "not_json", None),
        (GOOD.replace(b'"fraud"', b"'fraud'"), "not_json", None),
        (message(7, amount=math.nan), "not_json", None),
        (message(7, amount=math.inf), "not_json", None),
        (GOOD[:-1] + rb', "unread": "\ud800"}', "not_json", None),
        (b"[" + GOOD + b"]", "not_an_object", None),
        (b'"text"', "not_an_object", None),
        (b"5", "not_an_object", None),
        (b"null", "not_an_object", None),
        (message(7, payment_id=None), "missing_field", "payment_id"),
        (message(7, at=None), "missing_field", "at"),
        (message(7, at=""), "missing_field", "at"),
        (message(7, amount="12.5"), "wrong_type", "amount"),
        (message(7, amount=True), "wrong_type", "amount"),
        (message(7, amount=[1]), "wrong_type", "amount"),
        (message(7, card="card-1"), "wrong_type", "card"),
        (message(7, card__limit="much"), "wrong_type", "card.limit"),
        (message(7, shop__kind=1.5), "wrong_type", "shop.kind"),
        (message(7, at=20260301), "wrong_type", "at"),
        (message(7, amount=5).replace(b'"amount": 5', b'"amount": 1e999'), "not_finite", "amount"),
        (message(7, amount=5).replace(b'"amount": 5', b'"amount": 1' + b"0" * 400), "not_finite", "amount"),
        (message(7, at="yesterday"), "bad_time", "at"),
        (message(7, at="2026-02-30T00:00:00"), "bad_time", "at"),
        (message(7, at="0000-01-01T00:00:00"), "bad_time", "at"),
        (GOOD[:-1] + b', "deep": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "too_deep", None),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", None),
        (b"[" * 900_000, "too_deep", None),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_each_bad_value_has_its_reason(value: bytes | None, reason: str, field: str | None) -> None:
    assert only_reject(value) == (RejectReason(reason), field)


@pytest.mark.parametrize(
    "value",
    [
        b"\xef\xbb\xbf" + GOOD,
        b" \r\n" + GOOD + b"\n",
        GOOD[:-1] + b', "unread": {"x": [1, {"y": null}]}}',
        GOOD[:-1] + ', "unread": "grüße \U0001f600"}'.encode(),
        GOOD[:-1] + b', "brackets in text": "' + b"[{" * 500 + b'"}',
        GOOD[:-1] + b', "siblings": [' + b",".join([b"[]"] * 500) + b"]}",
        GOOD[:-1] + b', "deep": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_what_is_unusual_but_valid_is_the_same_record(value: bytes) -> None:
    assert_equal(decoded([value]), decoded([GOOD]))


def test_of_a_key_that_occurs_twice_the_last_counts() -> None:
    records = decoded([GOOD[:-1] + b', "amount": 99.5}'])

    assert records.numbers["amount"].tolist() == [99.5]


def test_a_bad_record_leaves_every_good_one_of_its_batch() -> None:
    records, rejects = DECODER.decode(Messages([GOOD, b"{", message(1), None, message(2, at="?"), message(3)]))

    assert records.rows.tolist() == records.offsets.tolist() == [0, 2, 5]
    assert [(reject.row, reject.reason) for reject in rejects] == [(1, "not_json"), (3, "tombstone"), (4, "bad_time")]


def test_no_reject_repeats_a_value_of_the_record() -> None:
    secret = "4111-1111-1111-1111"
    values = [
        message(1, amount=secret), message(1, at=secret), message(1, card__limit=secret),
        message(1, shop__kind={"x": secret}), secret.encode(), f'{{"x": {secret}}}'.encode(),
    ]  # fmt: skip

    rejects = DECODER.decode(Messages(values))[1]

    assert len(rejects) == len(values)
    assert not any("4111" in reject.message for reject in rejects)


def test_a_missing_value_is_missing_and_not_zero() -> None:
    value = payment(1)
    del value["shop"]
    records = decoded([message(1, amount=None, card={}), json.dumps(value).encode()])

    assert np.isnan(records.numbers["amount"]).tolist() == [True, False]
    assert np.isnan(records.numbers["card.limit"]).tolist() == [True, False]
    assert records.categories["shop.kind"].tolist()[1] is None
    assert records.keys is not None
    assert records.keys.tolist() == [None, "card-1"]


@pytest.mark.parametrize(
    ("value", "text"), [("x", "x"), (5, "5"), (5.0, "5"), (True, "true"), (False, "false"), ("", None)]
)
def test_a_category_is_the_same_text_however_json_wrote_it(value: Any, text: str | None) -> None:
    assert decoded([message(1, shop__kind=value)]).categories["shop.kind"].tolist() == [text]


@pytest.mark.parametrize(
    ("value", "anomalous"), [(1, True), (True, True), (0, False), (None, False), ("1", False), (2, False)]
)
def test_only_declared_labels_mark_an_anomaly(value: Any, anomalous: bool) -> None:
    labels = decoded([message(1, fraud=value), message(2, fraud=0)]).labels

    assert labels is not None
    assert labels.tolist() == [anomalous, False]


def test_a_label_of_any_type_never_rejects_a_record() -> None:
    assert len(decoded([message(1, fraud={"not": ["a", "label"]})])) == 1


NUMBERS = Decoder(
    StreamDefinition.from_toml(
        'name = "n"\n[[feature]]\nkind = "number"\nfield = "x"\nfrom_string = true\n'
        '[[feature]]\nkind = "number"\nfield = "y"\nrequired = true\n'
    )
)


@pytest.mark.parametrize(("text", "number"), [("1.5", 1.5), (" -2e3 ", -2000.0), ("7", 7.0), (".5", 0.5), (2, 2.0)])
def test_a_number_in_a_string_counts_where_declared(text: Any, number: float) -> None:
    records = NUMBERS.decode(Messages([json.dumps({"x": text, "y": 0}).encode()]))[0]

    assert records.numbers["x"].tolist() == [number]


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "0x10", "1,5", "one", True])
def test_a_string_that_is_no_decimal_number_is_rejected(text: Any) -> None:
    assert only_reject(json.dumps({"x": text, "y": 0}).encode(), NUMBERS) == (RejectReason.WRONG_TYPE, "x")


def test_a_number_in_a_string_can_be_infinite_only_as_a_reject() -> None:
    assert only_reject(b'{"x": "1e999", "y": 0}', NUMBERS) == (RejectReason.NOT_FINITE, "x")


def test_a_required_feature_that_is_missing_is_a_reject() -> None:
    assert only_reject(b'{"x": 1}', NUMBERS) == (RejectReason.MISSING_FIELD, "y")


TIMES = {
    "2026-03-01T12:00:00": "2026-03-01T11:00:00",
    "2026-03-01 12:00:00": "2026-03-01T11:00:00",
    "2026-03-01T12:00:00Z": "2026-03-01T12:00:00",
    "2026-03-01T12:00:00+05:30": "2026-03-01T06:30:00",
    "2026-03-01T12:00:00.123456": "2026-03-01T11:00:00.123456",
    "2026-03-01": "2026-02-28T23:00:00",
    "2026-07-01T12:00:00": "2026-07-01T10:00:00",
    "2026-10-25T02:30:00": "2026-10-25T00:30:00",
}


@given(st.lists(st.sampled_from(sorted(TIMES)), min_size=1, max_size=8))
def test_a_time_is_the_same_instant_whatever_stands_beside_it_in_the_batch(texts: list[str]) -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace("[label]", 'zone = "Europe/Berlin"\n[label]'))

    times = decoded([message(1, at=text) for text in texts], stream).event_times

    assert times is not None
    assert times.tolist() == np.array([TIMES[text] for text in texts], "datetime64[us]").tolist()


@given(st.lists(st.sampled_from(["2026-03-29T02:30:00", "2026-03-29T02:30:00.5", "2026-03-29T03:30:00Z"]), min_size=1))
def test_an_hour_that_the_clocks_skip_is_one_instant_in_every_batch(texts: list[str]) -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace("[label]", 'zone = "Europe/Berlin"\n[label]'))

    together = decoded([message(1, at=text) for text in texts], stream).event_times
    alone = [decoded([message(1, at=text)], stream).event_times for text in texts]

    assert together is not None
    assert together.tolist() == [times.tolist()[0] for times in alone if times is not None]


@pytest.mark.parametrize(
    ("form", "value"), [("epoch_s", 1772366400), ("epoch_s", 1772366400.5), ("epoch_ms", 1772366400500)]
)
def test_epoch_times_have_their_declared_unit(form: str, value: float) -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace("[label]", f'format = "{form}"\n[label]'))

    times = decoded([message(1, at=value)], stream).event_times

    assert times is not None
    assert str(times.astype("datetime64[s]")[0]) == "2026-03-01T12:00:00"


def test_milliseconds_declared_as_seconds_are_a_bad_time() -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace("[label]", 'format = "epoch_s"\n[label]'))

    assert only_reject(message(1, at=1772366400500), Decoder(stream)) == (RejectReason.BAD_TIME, "at")


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(st.none(), st.binary(max_size=40), st.sampled_from([GOOD, message(3), b'{"at": 1}'])), max_size=12
    )
)
def test_every_value_becomes_one_record_or_one_reject(values: list[bytes | None]) -> None:
    records, rejects = DECODER.decode(Messages(values))

    assert sorted([*records.rows.tolist(), *(reject.row for reject in rejects)]) == list(range(len(values)))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_in_any_field_is_a_record_or_a_reject(content: Any) -> None:
    fields = ["payment_id", "at", "amount", "card", "shop", "fraud"]
    values = [json.dumps(payment(1) | {field: content}).encode() for field in fields]

    records, rejects = DECODER.decode(Messages(values))

    assert len(records) + len(rejects) == len(values)


@pytest.mark.parametrize("chunk", [1, 3, 10])
def test_a_table_has_the_outcomes_of_the_same_values_as_json(chunk: int) -> None:
    rows = [payment(n) for n in range(8)]
    rows += [payment(8, amount=None), payment(9, shop__kind=None), payment(10, at="?"), payment(11, at=None)]
    expected, rejects = DECODER.decode(Messages([json.dumps(row).encode() for row in rows]))
    table = pa.Table.from_pylist(rows)

    parts = [decode_table(STREAM, table.slice(start, chunk), first_row=start) for start in range(0, len(rows), chunk)]

    found = Records.concat([records for records, _ in parts])
    assert_equal(found, expected, ("numbers", "categories", "times", "ids", "keys", "labels", "offsets"))
    assert [reject.reason for _, some in parts for reject in some] == [reject.reason for reject in rejects]


NUMBER = '[[feature]]\nkind = "number"\nfield = "x"\n'
READINGS = {
    "number": NUMBER,
    "required number": NUMBER + "required = true\n",
    "number from a string": NUMBER + "from_string = true\n",
    "required number from a string": NUMBER + "from_string = true\nrequired = true\n",
    "number and category": NUMBER + '[[feature]]\nkind = "category"\nfield = "x"\nname = "kind of x"\n',
    "category": '[[feature]]\nkind = "category"\nfield = "x"\n',
    "epoch": '[[feature]]\nkind = "time"\nfield = "x"\nformat = "epoch_s"\n',
    "event time": '[time]\nfield = "x"\nformat = "epoch_s"\n[[feature]]\nkind = "number"\nfield = "y"\n',
    "iso time": '[[feature]]\nkind = "time"\nfield = "x"\nformat = "iso8601"\n',
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    "values",
    [["1", "2.5"], ["abc", "1"], ["", "1"], ["", None], [" "], [True, None], [[1], [1, 2]], [[]], [{"a": 1}],
     [1, None], [1.5, 2.0], [None]],
    ids=repr,
)  # fmt: skip
def test_a_column_of_the_wrong_type_has_the_reject_reasons_of_the_same_json_values(
    reading: str, values: list[Any]
) -> None:
    stream = StreamDefinition.from_toml('name = "n"\n' + READINGS[reading])
    rows = [{"x": value, "y": 0} for value in values]
    expected, rejects = Decoder(stream).decode(Messages([json.dumps(row).encode() for row in rows]))

    found, refused = decode_table(stream, pa.Table.from_pylist(rows))

    reasons = [(reject.row, reject.reason, reject.field) for reject in rejects]
    assert [(reject.row, reject.reason, reject.field) for reject in refused] == reasons
    assert_equal(found, expected, ("numbers", "categories", "times", "event_times"))


@pytest.mark.parametrize("values", [["1"], ["abc"], [""], [True], [[1]], [b"1"], [datetime(2026, 3, 1, tzinfo=UTC)]])
def test_what_is_no_number_is_a_wrong_type_in_a_number_column_of_a_table(values: list[Any]) -> None:
    stream = StreamDefinition.from_toml('name = "n"\n' + NUMBER)

    rejects = decode_table(stream, pa.table({"x": pa.array(values)}))[1]

    assert [(reject.reason, reject.field) for reject in rejects] == [(RejectReason.WRONG_TYPE, "x")]


def test_timestamps_and_pandas_style_columns_of_a_table_are_read_as_what_they_mean() -> None:
    stream = StreamDefinition.from_toml(
        'name = "t"\nkey = "card"\n[time]\nfield = "at"\nzone = "Europe/Berlin"\n'
        '[[feature]]\nkind = "number"\nfield = "x"\n'
    )
    table = pa.table(
        {
            "at": pa.array(np.array(["2026-03-01T12:00:00"] * 3, "datetime64[ns]")),
            "card": pa.array([1.0, math.nan, 3.0]),
            "x": pa.array([1, None, 3]),
        }
    )

    records, rejects = decode_table(stream, table)

    assert rejects == []
    assert records.keys is not None
    assert records.keys.tolist() == ["1", None, "3"]
    assert np.isnan(records.numbers["x"]).tolist() == [False, True, False]
    assert records.event_times is not None
    assert str(records.event_times[0]) == "2026-03-01T11:00:00.000000"


def test_a_column_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(StreamDefinitionError, match=r"'card\.number'.*found: payment_id, at"):
        decode_table(STREAM, pa.table({"payment_id": [1], "at": ["2026-01-01T00:00:00"]}))


def test_a_table_may_lack_the_label() -> None:
    rows = [{key: value for key, value in payment(1).items() if key != "fraud"}]

    assert decode_table(STREAM, pa.Table.from_pylist(rows))[0].labels is None


def test_an_infinite_cell_is_a_reject() -> None:
    rejects = decode_table(STREAM, pa.Table.from_pylist([payment(1, amount=math.inf)]))[1]

    assert [(reject.reason, reject.field) for reject in rejects] == [(RejectReason.NOT_FINITE, "amount")]


def test_an_echo_repeats_the_allowed_fields_as_they_were_written_and_no_other() -> None:
    value = b'{"payment_id": 1.50, "shop": {"kind": ["x", null]}, "card": {"number": "4111", "limit": 7}}'

    echoed = {path: bytes(raw) for path, raw in Echo(STREAM)(value).items()}

    assert echoed == {"payment_id": b"1.50", "shop.kind": b'["x", null]'}


def test_an_echo_leaves_out_what_is_missing() -> None:
    assert Echo(STREAM)(b'{"shop": 5}') == {}
    assert Echo(STREAM)(b'{"shop": {}}') == {}


def assert_equal(left: Records, right: Records, names: tuple[str, ...] | None = None) -> None:
    for name in names or ("numbers", "categories", "times", "ids", "keys", "labels", "event_times"):
        ours, theirs = getattr(left, name), getattr(right, name)
        for path in ours if isinstance(ours, dict) else [None]:
            a, b = (ours, theirs) if path is None else (ours[path], theirs[path])
            np.testing.assert_array_equal(a, b, err_msg=f"{name} {path}")
