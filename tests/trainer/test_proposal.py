"""A proposed stream definition says what the records are, and parses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detector import StreamDefinition
from detector.stream import CategoryFeature, NumberFeature, TimeFeature
from trainer.columns import sample_columns, table_columns
from trainer.errors import DataFileError
from trainer.proposal import Proposal, false_alarm_rate_for, propose

N = 2_000


def payments() -> dict[str, Any]:
    """Two weeks of payments as columns; every 50th is a fraud of a known kind."""
    rng = np.random.default_rng(0)
    fraud = (np.arange(N) % 50 == 7).astype(int)
    minutes = np.arange(N) * 10
    return {
        "payment_id": [f"p{number}" for number in range(N)],
        "created_at": [str(np.datetime64("2024-05-01T00:00:00") + np.timedelta64(int(m), "m")) for m in minutes],
        "card_number": [f"4{number % 90:015d}" for number in range(N)],
        "customer_id": (np.arange(N) % 90).tolist(),
        "amount": np.round(np.exp(rng.normal(3, 1.2, N)), 2).tolist(),
        "balance": np.round(rng.normal(0, 100, N), 2).tolist(),
        "shop_kind": [("food", "fuel", "fun")[number % 3] for number in range(N)],
        "comment": [f"text {number}" for number in range(N)],
        "version": ["1.2"] * N,
        "is_fraud": fraud.tolist(),
        "fraud_kind": [int(f) * (1 + number % 2) for number, f in enumerate(fraud)],
        "case_opened_by": ["someone" if f else None for f in fraud],
        "nothing": [None] * N,
    }


def proposal_of(columns: dict[str, Any], name: str = "payments") -> Proposal:
    return propose(*table_columns(columns), name)


def test_each_field_gets_the_role_that_it_plays() -> None:
    stream = proposal_of(payments()).stream

    assert stream.id == "payment_id"
    assert stream.key == "customer_id"
    assert stream.time is not None
    assert (stream.time.field, stream.time.format) == ("created_at", "iso8601")
    assert stream.label is not None
    assert (stream.label.field, stream.label.anomalous) == ("is_fraud", (1,))
    assert stream.sensitive == ("card_number",)
    assert [(feature.kind, feature.field) for feature in stream.field_features] == [
        ("number", "amount"),
        ("number", "balance"),
        ("category", "shop_kind"),
        ("time", "created_at"),
        ("number", "amount"),  # once more, as logarithm
    ]


def test_only_a_number_over_many_magnitudes_is_logged() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "amount": np.exp(rng.normal(3, 1, 5_000)),
        "bytes_sent": np.exp(rng.normal(8, 3, 5_000)),
        "balance": rng.normal(0, 1, 5_000) ** 9,
    }

    logged = {f.field: f.log for f in proposal_of(columns).stream.feature if isinstance(f, NumberFeature)}

    assert logged == {"amount": False, "bytes_sent": True, "balance": False}


def test_what_gives_the_label_away_is_left_out_and_named() -> None:
    left_out = proposal_of(payments()).left_out

    assert "leaks is_fraud" in left_out["fraud_kind"]
    assert "leaks is_fraud" in left_out["case_opened_by"]
    assert set(left_out) == {"fraud_kind", "case_opened_by", "card_number", "comment", "version", "nothing"}


def test_the_proposal_reads_back_as_the_definition_that_it_is() -> None:
    proposal = proposal_of(payments())

    assert StreamDefinition.from_toml(proposal.to_toml()) == proposal.stream


def test_every_choice_and_every_field_left_out_has_its_reason_as_a_comment() -> None:
    proposal = proposal_of(payments())
    lines = proposal.to_toml().splitlines()

    for number, line in enumerate(lines):
        if line.startswith(("id =", "key =", "echo =", "sensitive =", "[")):
            assert lines[number - 1].startswith("# "), line
    for path in proposal.left_out:
        assert any(line.startswith(f"#   {path}: ") for line in lines)


def test_all_formats_lead_to_the_same_proposal(tmp_path: Path) -> None:
    table = pa.table({name: column for name, column in payments().items() if name != "nothing"})
    pq.write_table(table, tmp_path / "x.parquet")
    pa.csv.write_csv(table, tmp_path / "x.csv")
    with (tmp_path / "x.jsonl").open("w") as lines:
        lines.write("this line is no JSON\n")
        for row in table.to_pylist():
            lines.write(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n")

    texts = {
        suffix: propose(*sample_columns([tmp_path / f"x.{suffix}"]), "x").stream
        for suffix in ("parquet", "csv", "jsonl")
    }

    assert texts["parquet"] == texts["jsonl"]
    # In CSV a version such as 1.2 is a number and not text: left out both ways, so nothing else differs.
    assert texts["csv"] == texts["jsonl"]


def test_a_field_without_a_finite_number_is_left_out() -> None:
    columns = {"amount": [number / 3 for number in range(100)], "x": np.full(100, np.nan), "y": np.full(100, np.inf)}

    assert proposal_of(columns).left_out == dict.fromkeys("xy", "has no value in any record")


def test_a_time_that_is_personal_data_is_not_the_time_of_the_event() -> None:
    days = [str(np.datetime64("1970-01-01") + number) for number in range(100)]
    proposal = proposal_of({"amount": [number / 3 for number in range(100)], "birth_date": days})

    assert proposal.stream.time is None
    assert proposal.stream.sensitive == ("birth_date",)
    assert "1970" not in proposal.to_toml()


def test_a_field_that_is_a_value_here_and_an_object_there_is_left_out(tmp_path: Path) -> None:
    rows = [{"a": number / 3} if number % 2 else {"a": {"b": number / 3}} for number in range(100)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))

    proposal = propose(*sample_columns([tmp_path / "x.jsonl"]))

    assert [feature.field for feature in proposal.stream.field_features] == ["a.b"]
    assert "an object in others" in proposal.left_out["a"]


def test_nested_fields_become_dotted_paths(tmp_path: Path) -> None:
    rows = [{"shop": {"kind": "ab"[i % 2], "place": {"lat": i / 7}}, "amount": i / 3} for i in range(100)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")

    for name in ("x.jsonl", "x.parquet"):
        stream = propose(*sample_columns([tmp_path / name])).stream
        assert {feature.field for feature in stream.field_features} == {"shop.kind", "shop.place.lat", "amount"}


@pytest.mark.parametrize(("form", "factor"), [("epoch_s", 1), ("epoch_ms", 1000)])
def test_an_epoch_is_recognised_with_its_unit(form: str, factor: int) -> None:
    stream = proposal_of(
        {"ts": [(1_714_550_000 + 600 * i) * factor for i in range(500)], "x": np.arange(500) / 3}
    ).stream

    assert stream.time is not None
    assert (stream.time.field, stream.time.format) == ("ts", form)


def test_a_large_number_that_is_not_named_like_a_time_is_a_number() -> None:
    stream = proposal_of({"turnover": [1_714_550_000 + 600 * i for i in range(500)]}).stream

    assert stream.time is None
    assert [(feature.kind, feature.field) for feature in stream.field_features] == [("number", "turnover")]


def test_arrow_timestamps_are_times_and_naive_ones_say_so() -> None:
    times = np.datetime64("2024-05-01", "us") + np.arange(500) * np.timedelta64(1, "h")
    naive = proposal_of({"when": pa.array(times), "x": np.arange(500) / 3})
    aware = proposal_of({"when": pa.array(times).cast(pa.timestamp("us", "UTC")), "x": np.arange(500) / 3})

    assert naive.stream == aware.stream
    assert any("no offset" in line for line in naive.reasons["[time]"])
    assert not any("no offset" in line for line in aware.reasons["[time]"])


def test_numbers_inside_json_strings_are_declared_so() -> None:
    (feature,) = proposal_of({"price": [f"{i / 8}" for i in range(300)]}).stream.feature

    assert isinstance(feature, NumberFeature)
    assert feature.from_string


def test_whole_numbers_of_few_values_are_a_category_and_of_many_a_number() -> None:
    features = proposal_of(
        {"lanes": [i % 4 for i in range(300)], "visits": [i % 40 for i in range(300)]}
    ).stream.feature

    assert [feature.kind for feature in features] == ["category", "number"]


def test_an_identifier_of_many_values_is_no_number() -> None:
    proposal = proposal_of(
        {"branch_id": [i * 7 % 311 for i in range(3000)], "num_items": [i % 17 for i in range(3000)]}
    )

    assert [feature.field for feature in proposal.stream.field_features] == ["num_items"]
    assert "identifier with 311 different values" in proposal.left_out["branch_id"]


def test_rare_categories_lower_the_minimum_count_of_a_small_sample() -> None:
    (feature,) = proposal_of({"colour": ["red", "green", "blue"] * 20}).stream.feature

    assert isinstance(feature, CategoryFeature)
    assert feature.min_count == 2


@pytest.mark.parametrize(
    ("column", "anomalous"),
    [
        ({"label": ["normal"] * 97 + ["fraud"] * 3}, ("fraud",)),
        ({"label": ["normal"] * 97 + ["probe", "dos", "u2r"]}, ("dos", "probe", "u2r")),
        ({"class": [1] * 97 + [-1] * 3}, (-1,)),
        ({"Class": [0] * 97 + [1] * 3}, (1,)),
        ({"isFraud": [False] * 97 + [True] * 3}, (True,)),
        ({"is_reported": [0] * 98 + [1] * 2}, (1,)),
    ],
)
def test_a_label_is_recognised_with_its_anomalous_values(
    column: dict[str, list[Any]], anomalous: tuple[Any, ...]
) -> None:
    stream = proposal_of({**column, "x": np.arange(100) / 3}).stream

    assert stream.label is not None
    assert stream.label.field == next(iter(column))
    assert stream.label.anomalous == anomalous


def test_a_frequent_flag_is_a_feature_and_no_label() -> None:
    stream = proposal_of({"is_weekend": [i % 7 < 2 for i in range(700)], "x": np.arange(700) / 3}).stream

    assert stream.label is None
    assert [feature.field for feature in stream.field_features] == ["is_weekend", "x"]


def test_a_time_of_day_is_proposed_only_where_the_sample_can_show_it() -> None:
    def parts(hours: int) -> list[tuple[str, ...]]:
        times = np.datetime64("2024-05-01", "us") + np.linspace(0, hours * 60, 500).astype(int) * np.timedelta64(1, "m")
        stream = proposal_of({"at": pa.array(times), "x": np.arange(500) / 3}).stream
        return [feature.parts for feature in stream.field_features if isinstance(feature, TimeFeature)]

    assert parts(3) == []
    assert parts(72) == [("hour",)]
    assert parts(24 * 15) == [("hour",)]
    assert parts(24 * 29) == [("hour", "weekday")]


def test_the_budget_fits_the_stream_and_a_short_sample_gets_a_rate() -> None:
    times = np.datetime64("2024-05-01", "us") + np.arange(7201) * np.timedelta64(1, "m")
    x = np.arange(7201) / 3
    long = proposal_of({"at": pa.array(times), "x": x}).stream
    short = proposal_of({"at": pa.array(times[:100]), "x": x[:100]}).stream

    assert long.threshold.alert_budget == "7/day"  # 0.5% of 1,440 a day
    assert short.threshold.false_alarm_rate == false_alarm_rate_for(100) == 0.2


def test_data_without_a_feature_is_refused_with_the_reasons() -> None:
    with pytest.raises(DataFileError, match="no field can be a feature: version is the same in all records"):
        proposal_of({"version": ["1"] * 50})


def test_a_name_becomes_one_that_a_detector_may_have() -> None:
    assert proposal_of({"x": [1.5, 2.5, 3.5]}, "My Data (2024)").stream.name == "my-data-2024"
    assert proposal_of({"x": [1.5, 2.5, 3.5]}, "???").stream.name == "records"


REAL = Path(__file__).parents[3] / "shared" / "data" / "transactions"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the handbook's transactions are not at {REAL}")
def test_real_transactions_are_understood() -> None:
    proposal = propose(*sample_columns(sorted(REAL.glob("*.parquet")), 50_000))
    stream = proposal.stream

    assert (stream.id, stream.key) == ("TRANSACTION_ID", "CUSTOMER_ID")
    assert stream.time is not None
    assert stream.time.field == "TX_DATETIME"
    assert stream.label is not None
    assert stream.label.field == "TX_FRAUD"
    assert [feature.field for feature in stream.field_features] == ["TX_AMOUNT", "TX_DATETIME", "TX_AMOUNT"]
    assert "leaks TX_FRAUD" in proposal.left_out["TX_FRAUD_SCENARIO"]


def test_an_object_that_some_records_lack_is_not_said_to_have_no_value(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        "".join(
            json.dumps({"amount": n, "device": None if n % 3 == 0 else {"os": ("ios", "web")[n % 2]}}) + "\n"
            for n in range(300)
        )
    )

    proposal = propose(*sample_columns([data]))

    assert [feature.field for feature in proposal.stream.field_features] == ["amount", "device.os"]
    assert proposal.left_out == {}


def test_a_few_values_in_a_handful_of_records_are_not_called_too_many() -> None:
    proposal = proposal_of({"amount": [1.0, 2.5, 3.0, 4.0], "currency": ["EUR", "USD", "GBP", "CHF"]})

    assert proposal.left_out["currency"] == "is text with 4 different values: too few records with each of them"


def test_an_entity_a_time_and_an_amount_get_features_from_history() -> None:
    stream = proposal_of(payments()).stream

    proposed = {(feature.statistic, feature.of, feature.window) for feature in stream.history_features}
    assert {
        ("robust_ratio", "amount", "all"), ("robust_z", "amount", "all"), ("z", "amount", "7d"),
        ("sum", "amount", "1d"), ("count", None, "1d"), ("count", None, "7d"), ("excess", "amount", "1d"),
        ("excess", "amount", "3d"), ("hour_deviation", None, "all"), ("first_time", "shop_kind", "all"),
    } <= proposed  # fmt: skip
    assert len(proposed) <= 20
    assert [feature.required for feature in stream.field_features if feature.field == "amount"] == [True, True]


def test_the_amount_is_a_feature_as_it_is_and_as_logarithm_where_there_is_history() -> None:
    proposal = proposal_of(payments())
    alone = proposal_of({name: column for name, column in payments().items() if name != "customer_id"})

    def of_the_amount(proposal: Proposal) -> list[tuple[str, bool]]:
        numbers = [feature for feature in proposal.stream.feature if isinstance(feature, NumberFeature)]
        return [(feature.label, feature.log) for feature in numbers if feature.field == "amount"]

    assert of_the_amount(proposal) == [("amount", False), ("amount.log", True)]
    assert of_the_amount(alone) == [("amount", False)]
    assert StreamDefinition.from_toml(proposal.to_toml()) == proposal.stream


def test_each_history_feature_has_its_reason_above_it() -> None:
    lines = proposal_of(payments()).to_toml().splitlines()

    heads = [number for number, line in enumerate(lines) if line == "[[feature]]"]
    assert all(lines[number - 1].startswith("# ") for number in heads)


def test_windows_that_the_sample_is_too_short_for_are_not_proposed() -> None:
    columns = payments()
    columns["created_at"] = [
        str(np.datetime64("2024-05-01T00:00:00") + np.timedelta64(number * 2, "m")) for number in range(N)
    ]

    windows = {feature.window for feature in proposal_of(columns).stream.history_features}

    assert windows == {"all", "1d"}


@pytest.mark.parametrize("without", ["customer_id", "created_at", "amount"])
def test_without_an_entity_a_time_or_an_amount_no_history_is_proposed(without: str) -> None:
    columns = {name: column for name, column in payments().items() if name != without}

    assert proposal_of(columns).stream.history_features == ()


def test_an_amount_that_is_missing_at_times_is_not_required() -> None:
    columns = payments()
    columns["amount"] = [None if number % 9 == 0 else amount for number, amount in enumerate(columns["amount"])]

    stream = proposal_of(columns).stream

    assert stream.history_features
    assert not any(feature.required for feature in stream.field_features)
