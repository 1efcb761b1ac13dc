"""Cooldowns and thresholds that follow on a real broker: kills and rebalances change no alert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector import ModelDirectory
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import PARTITIONS, CardStream
from tests.odd_cards import following, values
from tests.payments import decoded
from transport import KafkaPublisher, OutgoingMessage, PublisherSettings


@pytest.fixture(scope="session")
def following_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a detector whose threshold follows the scores, and whose cards have a cooldown."""
    models = tmp_path_factory.mktemp("following")
    ModelDirectory(models / following().name).publish(following())
    return models


class OddCardStream(CardStream):
    """A stream of cards of which some are odd again and again, each partition written in order."""

    def publish_payments(self, numbers: range) -> None:  # type: ignore[override]
        publisher = KafkaPublisher(self.broker.settings, PublisherSettings(linger_s=0.005))
        publisher.publish(
            [
                OutgoingMessage(self.name, None, value, partition=number % 50 % PARTITIONS)
                for number, value in zip(numbers, values(len(numbers), start=numbers.start), strict=True)
            ]
        )
        publisher.close()

    def verdicts(self) -> dict[int, tuple[str, float]]:
        """Verdict and score ratio by record; repeats have to be equal."""
        found: dict[int, tuple[str, float]] = {}
        for score in self.scores():
            verdict = (score["verdict"], score["score_ratio"])
            assert found.setdefault(int(score["record_id"]), verdict) == verdict
        return found


def undisturbed(count: int) -> dict[int, tuple[str, float]]:
    """What a run without any disturbance says: each partition's records in one go."""
    detector, every = following(), values(count)
    assert detector.history is not None
    found: dict[int, tuple[str, float]] = {}
    for partition in range(PARTITIONS):
        numbers = [number for number in range(count) if number % 50 % PARTITIONS == partition]
        records = decoded([every[number] for number in numbers], detector.stream)
        verdicts, _ = detector.judge(records, [detector.history.new_state()], explanations=False)
        said = np.full(len(records), "normal", object)
        said[verdicts.alerts], said[verdicts.suppressed] = "alert", "suppressed"
        found |= dict(zip(numbers, zip(said.tolist(), verdicts.ratios.tolist(), strict=True), strict=True))
    return found


def test_a_kill_and_a_rebalance_give_the_alerts_of_an_undisturbed_run(
    broker: KafkaBroker, name: str, following_models: Path, tmp_path: Path
) -> None:
    cards = OddCardStream(broker, name, following_models, tmp_path)
    settings = {
        "score_topic": f"{name}.scores", "state__rotation_s": 2, "commit_interval_s": 0.3, "max_batch_records": 100,
    }  # fmt: skip
    with cards.worker("one", **settings) as one:
        cards.publish_payments(range(2000))
        one.wait_until_accounted(1200)
        with cards.worker("two", **settings) as two:
            two.wait_until_ready()
            two.wait_until(lambda worker: len(worker.status()["assignment"]) == 2, "two partitions for each")
            cards.publish_payments(range(2000, 4000))
            two.wait_until_accounted(400)
            one.kill()
    cards.publish_payments(range(4000, 5000))
    with cards.worker("three", **settings) as three:
        three.wait_until(lambda _: cards.committed() == 5000, "commit of all records")
        assert three.total("offbeat_records_unaccounted") == 0
        assert three.stop() == 0

    expected = undisturbed(5000)
    counts = {verdict: sum(each == verdict for each, _ in expected.values()) for verdict in ("alert", "suppressed")}
    assert counts["alert"] > 20
    assert counts["suppressed"] > 20
    assert cards.verdicts() == expected
