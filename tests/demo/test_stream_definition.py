"""The stream definition that comes with the simulator fits what the simulator makes."""

from __future__ import annotations

from pathlib import Path

import demo
from demo.payments import LABELS, SCHEMA
from demo.simulator import Simulator
from detector import StreamDefinition, decode_table

DEFINITION = Path(demo.__file__).with_name("stream.toml")


def test_every_field_of_the_definition_is_in_the_records() -> None:
    stream = StreamDefinition.load(DEFINITION)

    assert {*stream.paths, *stream.echo, *stream.sensitive} <= set(SCHEMA.names)


def test_every_simulated_payment_is_a_record_of_the_definition() -> None:
    table = Simulator(seed=3, customers=300).day(0).table()

    records, rejects = decode_table(StreamDefinition.load(DEFINITION), table)

    assert rejects == []
    assert records.labels is not None
    assert records.labels.sum() == sum(table.column("is_fraud").to_pylist())


def test_the_card_number_is_sensitive_and_never_echoed() -> None:
    stream = StreamDefinition.load(DEFINITION)

    assert "card_number" in stream.sensitive
    assert "card_number" not in stream.echo


def test_nothing_that_only_a_simulator_knows_is_a_feature() -> None:
    stream = StreamDefinition.load(DEFINITION)

    assert not {feature.field for feature in stream.field_features} & set(LABELS)
