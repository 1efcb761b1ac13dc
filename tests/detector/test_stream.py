from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import StreamDefinition, StreamDefinitionError
from tests.payments import DEFINITION, STREAM


def test_a_definition_survives_the_way_through_toml() -> None:
    assert StreamDefinition.from_toml(STREAM.to_toml()) == STREAM


@given(st.text(st.characters(min_codepoint=ord(" "), exclude_characters='."\\', exclude_categories=["Cs"]), min_size=1))
def test_any_field_name_survives_the_way_through_toml(field: str) -> None:
    stream = StreamDefinition.model_validate({"name": "s", "feature": [{"kind": "number", "field": field}]})

    assert StreamDefinition.from_toml(stream.to_toml()) == stream


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("log = true", "lgo = true", ["feature[1].lgo", "did you mean 'log'"]),
        ('id = "payment_id"', 'idd = "payment_id"', ["idd", "did you mean 'id'"]),
        ('kind = "time"', 'kind = "thyme"', ["feature[4]", "number, category, time, history or image"]),
        ('kind = "time"\n', "", ["feature[4]", "has no kind"]),
        ("false_alarm_rate = 0.01", 'alert_budget = "50 a day"', ["threshold.alert_budget", "'50 a day'", '"50/day"']),
        ("false_alarm_rate = 0.01", 'alert_budget = "0/day"', ["threshold.alert_budget"]),
        ("false_alarm_rate = 0.01", "false_alarm_rate = 1.5", ["threshold.false_alarm_rate", "1.5"]),
        ("false_alarm_rate = 0.01", 'false_alarm_rate = 0.01\nalert_budget = "5/day"', ["threshold", "keep the one"]),
        ('name = "payments"', 'name = "../etc"', ["name", "'../etc'", "lower case"]),
        ('field = "at"\n\n[label]', 'field = "at"\nzone = "Mars/Olympus"\n\n[label]', ["time.zone", "Mars/Olympus"]),
        ('field = "at"\n\n[label]', 'field = "at"\nzone = "Europe"\n\n[label]', ["time.zone", "'Europe'", "IANA"]),
        ('echo = ["payment_id", "shop.kind"]', 'echo = ["card"]', ["echo 'card'", "sensitive 'card.limit'"]),
        ('"payment_id", "shop.kind"', '"shop", "at", "shop.kind"', ["echo 'shop.kind'", "'shop'", "remove one"]),
        ('"payment_id", "shop.kind"', '"shop.kind", "shop"', ["echo 'shop.kind'", "'shop'", "remove one"]),
        ('field = "amount"', 'field = "fraud"', ["label itself"]),
        ('field = "amount"', 'field = "shop.kind"', ["defined twice"]),
        ('field = "amount"', 'field = "card"', ["'card'", "value and an object"]),
        ('[label]\nfield = "fraud"', "[label]", ["label.field", "is missing"]),
        ('field = "fraud"', 'field = "fraud"\ndelay = "a week"', ["label.delay", "'a week'", '"7d"']),
    ],
)
def test_a_wrong_definition_is_refused_with_file_key_and_remedy(old: str, new: str, says: list[str]) -> None:
    assert old in DEFINITION

    with pytest.raises(StreamDefinitionError) as refusal:
        StreamDefinition.from_toml(DEFINITION.replace(old, new), source="my/stream.toml")

    assert all(part in str(refusal.value) for part in ["my/stream.toml: ", *says]), str(refusal.value)


def test_a_delay_of_labels_without_a_time_to_count_from_is_refused() -> None:
    text = 'name = "s"\n[label]\nfield = "odd"\ndelay = "7d"\n[[feature]]\nkind = "number"\nfield = "x"\n'

    with pytest.raises(StreamDefinitionError, match=r"delay counts from the event time: add \[time\]"):
        StreamDefinition.from_toml(text)
    assert StreamDefinition.from_toml(text.replace("[label]", '[time]\nfield = "at"\n[label]')).label is not None


def test_what_is_not_toml_is_refused_with_its_line() -> None:
    with pytest.raises(StreamDefinitionError, match=r"stream\.toml: is not TOML: .*line 1"):
        StreamDefinition.from_toml("name = \n")


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(StreamDefinitionError) as refusal:
        StreamDefinition.from_toml("nmae = 'x'\n[[feature]]\nkind='number'\nfeld='y'\n")

    assert [line.split(": ")[1] for line in str(refusal.value).splitlines()] == [
        "name", "feature[1].field", "feature[1].feld", "nmae",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "per_day"), [("50/day", 50.0), ("2/hour", 48.0), ("7 / week", 1.0), (".5/day", 0.5)]
)
def test_a_budget_is_alerts_a_day(budget: str, per_day: float) -> None:
    text = DEFINITION.replace("false_alarm_rate = 0.01", f'alert_budget = "{budget}"')

    assert StreamDefinition.from_toml(text).threshold.budget_per_day == pytest.approx(per_day)
