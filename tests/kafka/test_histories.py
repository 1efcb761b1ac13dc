"""Histories of entities on a real broker: whatever is killed or moved, scores are those of one go to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detector import Detector, ModelDirectory
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import PARTITIONS, CardStream, Stream
from tests.payments import HISTORY_STREAM, decoded, message, remembering_detector


@pytest.fixture(scope="session")
def remembering_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a detector that remembers what each card did."""
    models = tmp_path_factory.mktemp("remembering")
    ModelDirectory(models / "remembering").publish(remembering_detector())
    return models


@pytest.fixture
def cards(broker: KafkaBroker, name: str, remembering_models: Path, tmp_path: Path) -> CardStream:
    return CardStream(broker, name, remembering_models, tmp_path)


def offline(count: int, detector: Detector | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The scores of the first records in one go."""
    values: list[bytes | None] = [message(number) for number in range(count)]
    return (detector or remembering_detector()).score(decoded(values, HISTORY_STREAM))


def test_kills_and_rebalances_change_no_bit_of_a_score_with_history(cards: CardStream) -> None:
    settings = {
        "score_topic": f"{cards.name}.scores", "state__rotation_s": 2, "commit_interval_s": 0.3,
        "max_batch_records": 150,
    }  # fmt: skip
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        cards.publish_payments(range(sent, sent + count))
        sent += count

    with cards.worker("one", **settings) as one:
        send(3000)
        one.wait_until_accounted(2000)
        with cards.worker("two", **settings) as two:
            two.wait_until_ready()
            two.wait_until(lambda worker: len(worker.status()["assignment"]) == 2, "two partitions for each")
            send(3000)
            two.wait_until_accounted(500)
            one.kill()  # in the middle of a batch, with the newest histories unwritten
        # `two` left in good order; nobody owns anything.
    send(2000)
    with cards.worker("three", **settings) as three, cards.worker("four", **settings) as four:
        three.wait_until_accounted(500)
        four.kill()
        three.wait_until(lambda _: cards.committed() == sent, "commit of all records")
        assert three.total("offbeat_entities") == 50
        assert three.total("offbeat_records_unaccounted") == 0
        assert three.stop() == 0

    found = cards.found()
    assert sorted(found) == list(range(sent))
    assert np.array([found[number] for number in range(sent)]).tobytes() == offline(sent).tobytes()


def test_a_new_owner_begins_with_what_was_written_and_not_with_the_input(cards: CardStream) -> None:
    settings = {"score_topic": f"{cards.name}.scores", "state__rotation_s": 1, "commit_interval_s": 0.1}
    with cards.worker("one", **settings) as one:
        for start in range(0, 4000, 1000):
            cards.publish_payments(range(start, start + 1000))
            one.wait_until_accounted(start + 1000)
            one.wait_until(lambda worker: worker.total("offbeat_state_blocks_written_total") >= 4, "blocks")
        assert one.stop() == 0
    with cards.worker("two", **settings) as two:
        cards.publish_payments(range(4000, 4500))
        two.wait_until_accounted(500)
        assert two.stop() == 0
        log = two.log.read_text()

    assert "entities taken over from" in log
    found = cards.found()
    assert np.array([found[number] for number in range(4500)]).tobytes() == offline(4500).tobytes()


def test_a_worker_without_the_topic_for_histories_replays_its_input(
    broker: KafkaBroker, name: str, remembering_models: Path, tmp_path: Path
) -> None:
    stream = CardStream.__new__(CardStream)
    Stream.__init__(stream, broker, name, remembering_models, tmp_path, partitions=PARTITIONS)
    settings = {"score_topic": f"{name}.scores"}
    stream.publish_payments(range(1000))
    with stream.worker("one", **settings) as one:
        one.wait_until_accounted(1000)
        assert one.stop() == 0
    stream.publish_payments(range(1000, 1500))
    with stream.worker("two", **settings) as two:
        two.wait_until_accounted(500)
        assert two.total("offbeat_state_blocks_written_total") == 0
        assert two.stop() == 0
        log = two.log.read_text()

    assert "does not exist, so histories of entities are not written" in log
    assert json.dumps(sorted(stream.found())) == json.dumps(list(range(1500)))
    found = stream.found()
    assert np.array([found[number] for number in range(1500)]).tobytes() == offline(1500).tobytes()
