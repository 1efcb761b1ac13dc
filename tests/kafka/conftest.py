"""The real broker of tests/kafka: one for the session, a topic and a group of its own for each test."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector import Detector, ModelDirectory
from tests.kafka.broker import KafkaBroker, why_not
from tests.kafka.streams import Stream
from transport import KafkaSettings

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all that is in this folder, so that `-m "not kafka"` leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kafka)
            # kafka-python leaves the sockets of refused connections to the garbage collector.
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.fixture(scope="session")
def broker() -> Iterator[KafkaBroker]:
    """A broker that runs; a test may stop, kill, freeze and start it, and the next one finds it running."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true the tests on a real broker must run")
        pytest.skip(reason)
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(autouse=True)
def _broker_runs(broker: KafkaBroker) -> Iterator[None]:
    yield
    gc.collect()
    if broker.running:
        broker.thaw()
    else:
        broker.kill()
        broker.start()


@pytest.fixture
def kafka(broker: KafkaBroker) -> KafkaSettings:
    """How to reach the broker."""
    return broker.settings


@pytest.fixture
def name() -> str:
    """A name that no other test has, for topics and groups."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(broker: KafkaBroker, name: str) -> str:
    """A new topic of one partition."""
    return broker.create_topic(name)


@pytest.fixture(scope="session")
def models(tiny_detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the tiny detector in production."""
    directory = tmp_path_factory.mktemp("models")
    ModelDirectory(directory / tiny_detector.name).publish(tiny_detector)
    return directory


@pytest.fixture
def stream(broker: KafkaBroker, name: str, models: Path, tmp_path: Path) -> Stream:
    """A stream of payments with an input topic of two partitions, all outputs, and a model."""
    return Stream(broker, name, models, tmp_path, partitions=2)
