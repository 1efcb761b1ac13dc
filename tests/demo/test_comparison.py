"""What only a customer's history shows, with real detectors on a small population."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

import demo
from demo.comparison import alerts_of, fit_without_history
from demo.files import write_days
from demo.simulator import Simulator
from demo.wire import Delivery, deliveries, first_messages
from detector import Detector, Messages, StreamDefinition, decode_table
from trainer.fitting import FitSettings, fit_detector

DEFINITION = Path(demo.__file__).with_name("stream.toml")
SEED, CUSTOMERS, HISTORY_DAYS = 4, 1_500, 21


@cache
def live() -> Delivery:
    return first_messages(deliveries(Simulator(SEED, CUSTOMERS), HISTORY_DAYS, damaged_share=0.002), 30_000)


@cache
def without_history() -> Detector:
    with TemporaryDirectory() as directory:
        history = Path(directory) / "history.parquet"
        write_days(history, Simulator(SEED, CUSTOMERS).days(0, HISTORY_DAYS))
        return fit_without_history(history, DEFINITION)


@cache
def alerts_with_history() -> frozenset[str]:
    """Ids of the live records that the tour's own detector calls anomalous, its histories begun in training."""
    stream = StreamDefinition.load(DEFINITION)
    days = Simulator(SEED, CUSTOMERS).days(0, HISTORY_DAYS)
    past, _ = decode_table(stream, pa.concat_tables([day.table() for day in days]))
    detector, _ = fit_detector(past, stream, FitSettings())
    assert detector.history is not None
    state = detector.history.new_state()
    _, changes = detector.history.fold(state, past)
    state.apply(changes)
    records, _ = detector.decode(Messages(live().values))
    verdicts, _ = detector.judge(records, [state], explanations=False)
    assert records.ids is not None
    return frozenset(records.ids[verdicts.anomalies].tolist())


def share_caught(alerts: frozenset[str], kind: str | None) -> float:
    delivery = live()
    sent = [
        name
        for name, each, damage in zip(delivery.transaction_ids, delivery.fraud_kinds, delivery.damage, strict=True)
        if each == kind and damage is None
    ]
    return sum(name in alerts for name in sent) / len(sent)


def test_the_detector_without_history_is_of_the_same_stream_less_those_features() -> None:
    stream = StreamDefinition.load(DEFINITION)

    assert without_history().history is None
    assert without_history().stream.feature == stream.field_features
    assert without_history().stream.threshold == stream.threshold


def test_a_neighbours_payments_are_seen_by_their_history_and_by_nothing_else() -> None:
    alone = alerts_of(without_history(), live())

    assert share_caught(alone, "neighbour") <= 0.05
    assert share_caught(alerts_with_history(), "neighbour") >= 0.5


def test_false_alarms_stay_rare_with_history_and_without() -> None:
    for alerts in (alerts_of(without_history(), live()), alerts_with_history()):
        assert share_caught(alerts, None) < 0.008
