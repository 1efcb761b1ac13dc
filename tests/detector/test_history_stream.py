from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector import (
    Decoder,
    History,
    Messages,
    RejectReason,
    StreamDefinition,
    StreamDefinitionError,
    decode_table,
)
from detector.stream import OF_NUMBERS, OF_VALUES
from tests.payments import DEFINITION, HISTORY, HISTORY_STREAM

WITH_HISTORY = DEFINITION + HISTORY
FIFTH = 'kind = "history"\nstatistic = "robust_ratio"\nof = "amount"\n'


def definition(feature: str, text: str = DEFINITION) -> str:
    return f'{text}\n[[feature]]\nkind = "history"\n{feature}\n'


def refusal(text: str) -> str:
    with pytest.raises(StreamDefinitionError) as refused:
        StreamDefinition.from_toml(text, source="my/stream.toml")
    return str(refused.value)


# -- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "says"),
    [
        ('statistic = "sum"', ["feature[5]: sum", "number", 'add of = "path.of.the.number"']),
        ('statistic = "robust_z"', ["feature[5]: robust_z", 'add of = "path.of.the.number"']),
        ('statistic = "first_time"', ["feature[5]: first_time", 'add of = "path.of.the.field"']),
        ('statistic = "since_last"\nof = "amount"', ["feature[5]: since_last", "remove of"]),
        ('statistic = "hour_deviation"\nof = "at"', ["feature[5]: hour_deviation", "remove of"]),
        ('statistic = "count"\nof = ""', ["feature[5].of"]),
        ('statistic = "robust_mean"\nof = "amount"\nwindow = "7d"', ["feature[5]", 'remove window = "7d"']),
        ('statistic = "since_last"\nwindow = "7d"', ["feature[5]", 'remove window = "7d"']),
        ('statistic = "hour_deviation"\nwindow = "7d"', ["feature[5]", 'remove window = "7d"']),
        ('statistic = "min"\nof = "amount"', ["feature[5]: min needs a window", 'window = "7d"']),
        ('statistic = "excess"\nof = "amount"', ["feature[5]: excess needs a window", 'window = "7d"']),
        ('statistic = "distinct"\nof = "amount"\nwindow = "all"', ["feature[5]: distinct needs a window"]),
        ('statistic = "count"\nwindow = "a week"', ["feature[5].window", "'a week'", '"7d"']),
        ('statistic = "count"\nwindow = "0s"', ["feature[5].window", "'0s'"]),
        ('statistic = "count"\nwindow = "-1d"', ["feature[5].window", "'-1d'"]),
        ('statistic = "count"\nwindow = "1.5d"', ["feature[5].window", "'1.5d'", "whole number"]),
        ('statistic = "count"\nwindow = "7 days"', ["feature[5].window", "'7 days'"]),
        ('statistic = "count"\nwindow = "99999999999999999w"', ["feature[5].window", "a hundred years"]),
        ('statistic = "count"\nwindow = 7', ["feature[5].window", "7"]),
        ('statistic = "first_time"\nof = "shop.kind"\nincludes_self = true', ["feature[5]", "remove includes_self"]),
        ('statistic = "robust_z"\nof = "amount"\nincludes_self = true', ["feature[5]", "remove includes_self"]),
        ('statistic = "since_last"\nincludes_self = true', ["feature[5]", "remove includes_self"]),
        ('statistic = "hour_deviation"\nincludes_self = true', ["feature[5]", "remove includes_self"]),
        ('statistic = "median"\nof = "amount"', ["feature[5].statistic", "'median'", "'robust_mean'"]),
        ('of = "amount"', ["feature[5].statistic", "is missing"]),
        ('statistic = "count"\nwindw = "7d"', ["feature[5].windw", "did you mean 'window'"]),
        ('statistic = "count"\nfield = "amount"', ["feature[5].field", "is not a key"]),
        ('statistic = "count"\nrequired = true', ["feature[5].required", "is not a key"]),
        ('statistic = "sum"\nof = "fraud"', ["fraud.sum", "label itself", "remove it"]),
        ('statistic = "first_time"\nof = "fraud"', ["fraud.first_time", "label itself"]),
        ('statistic = "sum"\nof = "card"', ["'card'", "a value and an object"]),
        ('statistic = "count"\nname = "amount"', ["'amount' is defined twice", "a name of its own"]),
    ],
)
def test_a_wrong_history_feature_is_refused_with_file_key_and_remedy(feature: str, says: list[str]) -> None:
    message = refusal(definition(feature))

    assert all(part in message for part in ["my/stream.toml: ", *says]), message


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ('mode = "approximate"', ["history.mode", "'buckets' or 'exact'", "approximate"]),
        ("max_entities = 0", ["history.max_entities", "0"]),
        ('max_age = "1 year"', ["history.max_age", "'1 year'"]),
        ('max_age = "30000000w"', ["history.max_age", "a hundred years"]),
        ("clip = 1.0", ["history.clip", "1.0"]),
        ("clip = inf", ["history.clip"]),
        ("clip = nan", ["history.clip"]),
        ('max_agee = "1d"', ["history.max_agee", "did you mean 'max_age'"]),
    ],
)
def test_a_wrong_history_setting_is_refused_with_file_key_and_remedy(setting: str, says: list[str]) -> None:
    message = refusal(f"{WITH_HISTORY}\n[history]\n{setting}\n")

    assert all(part in message for part in ["my/stream.toml: ", *says]), message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('key = "card.number"\n', "", ["amount.robust_ratio", "add key"]),
        ('[time]\nfield = "at"\n', "", ["add [time]"]),
        ('field = "at"\n', 'field = "at"\nmax_ahead = "soon"\n', ["time.max_ahead", "'soon'"]),
        ('field = "at"\n', 'field = "at"\nmax_ahead = "99999999w"\n', ["time.max_ahead", "a hundred years"]),
        ('field = "at"\n', 'field = "at"\narrival = ""\n', ["time.arrival"]),
    ],
)
def test_a_definition_that_history_cannot_do_with_is_refused(old: str, new: str, says: list[str]) -> None:
    text = WITH_HISTORY.replace(
        'kind = "time"\nfield = "at"\nparts', 'kind = "time"\nformat = "iso8601"\nfield = "at" \nparts'
    )

    message = refusal(text.replace(old, new, 1))

    assert all(part in message for part in ["my/stream.toml: ", *says]), message


def test_the_key_of_a_wrong_feature_is_named_alike_whether_or_not_there_is_a_history_section() -> None:
    wrong = WITH_HISTORY.replace('window = "1d"', 'window = "one day"').replace('parts = ["hour"]', 'parts = ["year"]')

    without, with_section = refusal(wrong), refusal(wrong + "\n[history]\nclip = 3.0\n")

    assert without == with_section
    assert [line.split(": ")[1] for line in without.splitlines()] == ["feature[4].parts[1]", "feature[6].window"]


def test_two_features_of_one_default_name_are_refused_and_names_set_them_apart() -> None:
    twice = 'statistic = "robust_ratio"\nof = "amount"'

    assert "'amount.robust_ratio' is defined twice" in refusal(definition(twice, WITH_HISTORY))
    named = StreamDefinition.from_toml(definition(twice + '\nname = "again"\nlog = true', WITH_HISTORY))
    assert [feature.label for feature in named.history_features][-1] == "again"


@pytest.mark.parametrize(
    ("feature", "name"),
    [
        ('statistic = "count"', "count"),
        ('statistic = "count"\nwindow = "1d"\nincludes_self = true', "count.1d.with_self"),
        ('statistic = "count"\nof = "amount"', "amount.count"),
        ('statistic = "z"\nof = "amount"\nwindow = "7d"', "amount.z.7d"),
        ('statistic = "since_last"', "since_last"),
    ],
)
def test_a_history_feature_is_named_by_what_it_says(feature: str, name: str) -> None:
    assert StreamDefinition.from_toml(definition(feature)).history_features[0].label == name


STATISTICS = [
    "count", "sum", "mean", "min", "max", "deviation", "ratio", "z", "distinct", "first_time", "excess", "robust_mean",
    "robust_deviation", "robust_ratio", "robust_z", "since_last", "hour_deviation",
]  # fmt: skip


@given(
    statistic=st.sampled_from(STATISTICS), of=st.sampled_from([None, "amount", "shop.kind", "other"]),
    window=st.sampled_from(["all", "90s", "15m", "1h", "7d", "2w"]), includes_self=st.booleans(),
    log=st.sampled_from([None, True, False]), name=st.sampled_from(["", "mine"]),
)  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_every_history_feature_is_either_refused_with_a_remedy_or_survives_the_way_through_toml(
    statistic: str, of: str | None, window: str, includes_self: bool, log: bool | None, name: str
) -> None:
    feature = {"kind": "history", "statistic": statistic, "of": of, "window": window, "includes_self": includes_self,
               "log": log, "name": name}  # fmt: skip
    content = {"name": "s", "key": "who", "time": {"field": "at"}, "feature": [feature]}
    try:
        stream = StreamDefinition.model_validate(content)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "add " in refused or "remove " in refused
        return
    assert StreamDefinition.from_toml(stream.to_toml()) == stream
    assert (of is not None) == (statistic in OF_NUMBERS | OF_VALUES) or statistic == "count"


def test_a_history_section_survives_the_way_through_toml() -> None:
    text = WITH_HISTORY.replace('field = "at"\n', 'field = "at"\nmax_ahead = "2h"\narrival = "landed"\n', 1)
    stream = StreamDefinition.from_toml(
        text + '\n[history]\nmode = "exact"\nmax_entities = 7\nmax_age = "90d"\nclip = 3.25\n'
    )

    again = StreamDefinition.from_toml(stream.to_toml())

    assert again == stream
    assert (again.history.mode, again.history.max_entities, again.history.clip) == ("exact", 7, 3.25)
    assert again.history.max_age_us == 90 * 86_400_000_000
    assert again.time is not None
    assert (again.time.max_ahead, again.time.arrival) == ("2h", "landed")


def test_the_longest_window_is_the_longest_that_ends() -> None:
    assert HISTORY_STREAM.longest_window_us == 7 * 86_400_000_000
    assert StreamDefinition.from_toml(definition('statistic = "count"')).longest_window_us == 0
    assert StreamDefinition.from_toml(DEFINITION).longest_window_us == 0


# -- what is decoded for history --------------------------------------------------------------------------------------

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Sent(Messages):
    """Messages with timestamps of their own."""

    def __init__(self, values: list[bytes | None], timestamps_ms: list[int]) -> None:
        super().__init__(values)
        object.__setattr__(self, "stamps", np.array(timestamps_ms, np.int64))

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        stamps: NDArray[np.int64] = self.__dict__["stamps"]
        return stamps


def stream_with(*features: dict[str, Any], time: dict[str, Any] | None = None) -> StreamDefinition:
    return StreamDefinition.model_validate(
        {"name": "s", "key": "who", "time": {"field": "at", **(time or {})}, "feature": list(features)}
    )


def past(statistic: str, of: str | None = None, **keys: Any) -> dict[str, Any]:
    return {"kind": "history", "statistic": statistic, **({} if of is None else {"of": of}), **keys}


def value(**fields: Any) -> bytes:
    return json.dumps({"who": "a", "at": AT.isoformat(), **fields}).encode()


def test_a_number_that_only_history_looks_at_is_read() -> None:
    stream = stream_with(past("sum", "deep.amount", window="1d"))

    records, rejects = Decoder(stream).decode(Messages([value(deep={"amount": 2.5}), value(), value(deep={})]))

    assert rejects == []
    assert records.numbers["deep.amount"].tolist() == pytest.approx([2.5, np.nan, np.nan], nan_ok=True)
    assert "deep.amount" in stream.paths


def test_a_number_that_only_history_looks_at_is_held_to_be_one() -> None:
    stream = stream_with(past("count", "amount"))

    _, rejects = Decoder(stream).decode(Messages([value(amount="12"), value(amount=[1]), value(amount=True)]))

    assert [(reject.reason, reject.field) for reject in rejects] == [(RejectReason.WRONG_TYPE, "amount")] * 3


def test_values_that_only_history_tells_apart_are_read_as_text() -> None:
    stream = stream_with(past("first_time", "shop"), past("distinct", "terminal", window="1d"))

    records, rejects = Decoder(stream).decode(
        Messages([value(shop="x", terminal=5), value(shop=True, terminal=5.0), value(shop="", terminal=None)])
    )

    assert rejects == []
    assert records.categories["shop"].tolist() == ["x", "true", None]
    assert records.categories["terminal"].tolist() == ["5", "5", None]


def test_a_field_may_be_a_number_and_told_apart_at_once() -> None:
    stream = stream_with(
        {"kind": "number", "field": "code"}, past("first_time", "code"), past("distinct", "code", window="1d"),
        past("mean", "code", window="1d"), past("robust_z", "code"),
    )  # fmt: skip
    values = [value(code=code) for code in (5, 6, 5.0, 7)]
    records, rejects = Decoder(stream).decode(Messages(list(values)))
    table, table_rejects = decode_table(
        stream, pa.table({"who": ["a"] * 4, "at": [AT.isoformat()] * 4, "code": [5, 6, 5, 7]})
    )
    history = History.fit(stream, records)
    assert history is not None

    found, _ = history.fold(history.new_state(), records)

    assert rejects == table_rejects == []
    assert records.numbers["code"].tolist() == table.numbers["code"].tolist() == [5.0, 6.0, 5.0, 7.0]
    assert records.categories["code"].tolist() == table.categories["code"].tolist() == ["5", "6", "5", "7"]
    assert found["code.first_time"][1:].tolist() == [1.0, 0.0, 1.0]
    assert found["code.mean.1d"][1:].tolist() == pytest.approx([5.0, 5.5, 16 / 3])


def test_the_entity_itself_can_be_told_apart() -> None:
    stream = stream_with(past("distinct", "who", window="1d"))

    records, rejects = Decoder(stream).decode(Messages([value(), value(who=5)]))

    assert rejects == []
    assert records.keys is not None
    assert records.keys.tolist() == records.categories["who"].tolist() == ["a", "5"]


def test_numbers_in_strings_are_numbers_of_history_where_a_feature_declares_it() -> None:
    stream = stream_with({"kind": "number", "field": "x", "from_string": True}, past("sum", "x", window="1d"))

    records, rejects = Decoder(stream).decode(Messages([value(x="2.5"), value(x=3)]))

    assert rejects == []
    assert records.numbers["x"].tolist() == [2.5, 3.0]


def test_a_field_of_history_that_a_table_lacks_is_named() -> None:
    stream = stream_with(past("sum", "amount", window="1d"))

    with pytest.raises(StreamDefinitionError, match="'amount'"):
        decode_table(stream, pa.table({"who": ["a"], "at": [AT.isoformat()]}))


# -- times in the future ----------------------------------------------------------------------------------------------

REMEMBERING = stream_with(past("since_last"), {"kind": "number", "field": "x"})
AT_MS = int(AT.timestamp() * 1000)
DAY_MS = 86_400_000


def outcomes(stream: StreamDefinition, ahead_ms: list[int]) -> list[bool]:
    """Which messages are rejected as of the future, by how much their event time is ahead of their timestamp."""
    _, rejects = Decoder(stream).decode(Sent([value() for _ in ahead_ms], [AT_MS - ahead for ahead in ahead_ms]))
    assert all(reject.reason is RejectReason.FUTURE_TIME and reject.field == "at" for reject in rejects)
    return [row in {reject.row for reject in rejects} for row in range(len(ahead_ms))]


def test_a_time_far_ahead_of_its_message_is_rejected_and_one_at_the_limit_is_not() -> None:
    assert outcomes(REMEMBERING, [DAY_MS, DAY_MS + 1, 0, -DAY_MS * 3650]) == [False, True, False, False]


def test_how_far_ahead_is_declared() -> None:
    assert outcomes(stream_with(past("count"), time={"max_ahead": "2h"}), [7_200_000, 7_200_001]) == [False, True]


def test_the_reject_says_what_to_look_at_and_not_the_time_itself() -> None:
    _, (reject,) = Decoder(REMEMBERING).decode(Sent([value()], [0]))

    assert "max_ahead (1d)" in reject.message
    assert "2026" not in reject.message


def test_without_history_the_future_is_no_reason_to_reject() -> None:
    stream = stream_with({"kind": "number", "field": "x"}, time={"max_ahead": "1s"})

    assert Decoder(stream).decode(Sent([value()], [0]))[1] == []


def test_a_message_without_a_timestamp_is_not_tested() -> None:
    assert Decoder(REMEMBERING).decode(Messages([value(at="9999-12-01T00:00:00Z")]))[1] == []


def test_a_record_that_was_rejected_for_its_time_takes_no_other_with_it() -> None:
    records, rejects = Decoder(REMEMBERING).decode(
        Sent([value(x=1), value(x=2, at="2036-01-01T00:00:00"), b"", value(x=3), value(x="wrong")], [AT_MS] * 5)
    )

    assert records.numbers["x"].tolist() == [1.0, 3.0]
    assert records.rows.tolist() == [0, 3]
    assert [(reject.row, reject.reason.value) for reject in rejects] == [
        (1, "future_time"), (2, "empty"), (4, "wrong_type"),
    ]  # fmt: skip


@given(
    stamps=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    at=st.sampled_from(["0001-01-03T00:00:00", "1970-01-01T00:00:00", "9999-12-28T00:00:00"]),
    max_ahead=st.sampled_from(["1s", "1d", "5217w"]),
)
@settings(deadline=None)
def test_no_timestamp_overflows(stamps: list[int], at: str, max_ahead: str) -> None:
    stream = stream_with(past("count"), time={"max_ahead": max_ahead})
    reach = {"1s": timedelta(seconds=1), "1d": timedelta(days=1), "5217w": timedelta(weeks=5217)}[max_ahead]
    event = datetime.fromisoformat(at)
    began = datetime.fromisoformat("1970-01-01T00:00:00")

    _, rejects = Decoder(stream).decode(Sent([value(at=at) for _ in stamps], stamps))

    rejected = {reject.row for reject in rejects}
    for row, stamp in enumerate(stamps):
        arrived_s = min(stamp / 1000, 253_402_300_799.999)
        ahead_s = (event - began).total_seconds() - arrived_s - reach.total_seconds()
        if abs(ahead_s) > 1:
            assert (row in rejected) == (stamp >= 0 and ahead_s > 0)


def table(**columns: Any) -> pa.Table:
    rows = max(len(column) for column in columns.values())
    return pa.table({"who": ["a"] * rows, "at": [AT.isoformat()] * rows, "x": [1.0] * rows, **columns})


ARRIVING = stream_with(past("since_last"), {"kind": "number", "field": "x"}, time={"arrival": "landed"})


def test_in_files_a_time_is_judged_by_when_its_record_arrived() -> None:
    landed = [AT, AT - timedelta(days=1), AT - timedelta(days=1, microseconds=1), None]
    for column in (
        pa.array(landed, pa.timestamp("us", "UTC")),
        pa.array([None if time is None else time.isoformat() for time in landed]),
    ):
        records, rejects = decode_table(ARRIVING, table(landed=column))

        assert records.rows.tolist() == [0, 1, 3]
        assert [(reject.row, reject.reason, reject.field) for reject in rejects] == [
            (2, RejectReason.FUTURE_TIME, "at")
        ]


def test_files_without_a_column_of_arrivals_are_not_tested() -> None:
    records, rejects = decode_table(ARRIVING, table(at=["9999-12-01T00:00:00"]))

    assert len(records) == 1
    assert rejects == []


def test_files_of_a_stream_that_declares_no_arrival_are_not_tested() -> None:
    assert decode_table(REMEMBERING, table(at=["9999-12-01T00:00:00"], landed=[AT.isoformat()]))[1] == []


def test_a_message_s_own_timestamp_goes_before_a_field_of_arrival() -> None:
    fields = value(landed=(AT - timedelta(days=9)).isoformat())

    assert Decoder(ARRIVING).decode(Sent([fields], [AT_MS]))[1] == []
    assert [reject.reason for reject in Decoder(ARRIVING).decode(Messages([fields]))[1]] == [RejectReason.FUTURE_TIME]


def test_a_message_without_the_field_of_arrival_is_a_record() -> None:
    records, rejects = Decoder(ARRIVING).decode(Messages([value(), value(landed=None), value(landed="")]))

    assert len(records) == 3
    assert rejects == []


def test_times_of_arrival_are_written_as_event_times_are() -> None:
    stream = stream_with(past("count"), time={"format": "epoch_ms", "arrival": "landed"})
    values = [value(at=AT_MS, landed=AT_MS - DAY_MS), value(at=AT_MS, landed=AT_MS - DAY_MS - 1)]

    _, rejects = Decoder(stream).decode(Messages(list(values)))

    assert [reject.row for reject in rejects] == [1]
