"""Training, scoring, calibrating, features and explaining from a topic of a real broker: all of it is the worker's."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from typer.testing import CliRunner, Result

from detector import ModelDirectory
from offbeat import app, fit_threshold
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import PARTITIONS, CardStream
from tests.odd_cards import following, values
from tests.payments import HISTORY_STREAM, STREAM, message
from trainer.errors import DataFileError
from trainer.loading import load
from trainer.topics import TopicRange, topic_range
from transport import (
    KafkaPublisher,
    KafkaSettings,
    OutgoingMessage,
    Partition,
    PublisherSettings,
    bounds,
    create_topics,
    read_topic,
)

RECORDS = 2000
START_MS = 1_772_323_200_000  # 2026-03-01T00:00:00Z
MIDDLE = (
    "--from", ",".join(f"{number}:{300 + number}" for number in range(PARTITIONS)),
    "--to", ",".join(f"{number}:400" for number in range(PARTITIONS)),
)  # fmt: skip
POISON: tuple[bytes | None, ...] = (b"oops", b"[1]", b"{}", None, b"\xff")


@pytest.fixture(scope="module")
def following_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with histories, whose threshold follows the scores, and whose cards have a cooldown."""
    models = tmp_path_factory.mktemp("following")
    ModelDirectory(models / following().name).publish(following())
    return models


class PoisonedStream(CardStream):
    """Cards of which some are odd again and again, each partition in order, with poison in between."""

    def publish_all(self) -> None:
        publisher = KafkaPublisher(self.broker.settings, PublisherSettings(linger_s=0.005))
        for start in range(0, RECORDS, 500):
            batch = [
                OutgoingMessage(self.name, None, value, partition=number % 50 % PARTITIONS)
                for number, value in enumerate(values(500, start=start), start=start)
            ]
            batch[100:100] = [
                OutgoingMessage(self.name, b"poison", value, partition=number % PARTITIONS)
                for number, value in enumerate(POISON)
            ]
            publisher.publish(batch)
        publisher.close()

    def judged(self) -> dict[tuple[int, int], tuple[str, float, float]]:
        """Verdict, score and ratio by partition and offset, as the worker published them."""
        return {
            (score["source"]["partition"], score["source"]["offset"]): (
                score["verdict"], score["score"], score["score_ratio"],
            )
            for score in self.scores()
        }  # fmt: skip

    def refused(self) -> dict[tuple[int, int], str]:
        """Reason by partition and offset of what is no record: as the dead letters have it, and tombstones."""
        dead = {
            (int(headers["dlq.original.partition"]), int(headers["dlq.original.offset"])): headers[
                "dlq.reason"
            ].decode()
            for _, headers in self.dead_letters()
        }
        tombstones = {
            (batch.partitions[batch.partition_index[row]].number, int(batch.offsets[row])): "tombstone"
            for batch in read_topic(self.broker.settings, self.name, timeout_s=20)
            for row, value in enumerate(batch.values)
            if value is None
        }
        return dead | tombstones


@pytest.fixture(scope="module")
def streamed(broker: KafkaBroker, following_models: Path, tmp_path_factory: pytest.TempPathFactory) -> PoisonedStream:
    """A stream that two workers, one after the other, have read to its end."""
    stream = PoisonedStream(broker, "topic-training", following_models, tmp_path_factory.mktemp("workers"))
    settings = {
        "score_topic": f"{stream.name}.scores", "state__rotation_s": 1, "commit_interval_s": 0.1,
        "max_batch_records": 100, "poison__max_ratio": 1,
    }  # fmt: skip
    total = RECORDS + len(POISON) * RECORDS // 500
    with stream.worker("one", **settings) as one:
        stream.publish_all()
        one.wait_until_accounted(800)
        assert one.stop() == 0
    with stream.worker("two", **settings) as two:
        two.wait_until(lambda _: stream.committed() == total, "commit of all records")
        assert two.stop() == 0
    return stream


def offbeat(broker: KafkaBroker, *words: object) -> Result:
    environment = {"OFFBEAT_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers, "OFFBEAT_MODELS": None}
    return CliRunner().invoke(app, [str(word) for word in words], env=environment)


@dataclass(frozen=True)
class Traces:
    """What would differ had anybody joined a group, committed or published.

    Attributes:
        groups: All groups that the broker knows.
        notes: What it noted of the worker's group on `__consumer_offsets`: each generation of its members, left or not,
            and each commit.
        ends: Where each partition of the stream and of its outputs ends.
    """

    groups: frozenset[str]
    notes: int
    ends: tuple[int, ...]


def traces(stream: CardStream) -> Traces:
    kafka, group = stream.broker.settings, f"g-{stream.name}".encode()
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap_servers)
    try:
        groups = {each["group_id"] if isinstance(each, dict) else each[0] for each in admin.list_groups()}
    finally:
        admin.close()
    log = read_topic(kafka, "__consumer_offsets", timeout_s=20)
    notes = sum(key is not None and group in key for batch in log for key in batch.keys)
    assert notes, "the worker committed, and that is not noted where it is looked for"
    topics = {stream.name: PARTITIONS, f"{stream.name}.state": PARTITIONS}
    topics |= {f"{stream.name}.{output}": 1 for output in ("alerts", "dlq", "scores")}
    found = bounds(kafka, [Partition(topic, n) for topic, count in topics.items() for n in range(count)], 20.0)
    return Traces(frozenset(groups), notes, tuple(end for _, end in found.values()))


def in_the_middle(place: tuple[int, int]) -> bool:
    """Whether a partition and offset lie in the range of `MIDDLE`."""
    partition, offset = place
    return 300 + partition <= offset < 400


def test_a_replay_to_a_file_gives_the_scores_and_verdicts_of_the_worker_to_the_last_bit(
    streamed: PoisonedStream, tmp_path: Path
) -> None:
    before = traces(streamed)

    result = offbeat(
        streamed.broker, "score", f"kafka:{streamed.name}", "-o", tmp_path / "all.parquet", "--models", streamed.models
    )

    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    judged = {
        (row["partition"], row["offset"]): (row["verdict"], row["score"], row["score_ratio"])
        for row in rows
        if row["score"] is not None
    }
    assert judged == streamed.judged()
    dead = Counter(headers["dlq.reason"].decode() for _, headers in streamed.dead_letters())
    assert Counter(row["reason"] for row in rows if row["verdict"] == "reject") == dead
    assert sum(row["reason"] == "tombstone" for row in rows) == 4
    assert traces(streamed) == before


def test_a_range_in_the_middle_is_scored_with_what_came_before_it(streamed: PoisonedStream, tmp_path: Path) -> None:
    result = offbeat(
        streamed.broker, "score", f"kafka:{streamed.name}", *MIDDLE, "-o", tmp_path / "some.parquet", "--models",
        streamed.models,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "some.parquet").to_pylist()
    assert {row["partition"] for row in rows} == set(range(PARTITIONS))
    assert all(in_the_middle((row["partition"], row["offset"])) for row in rows)
    expected = streamed.judged()
    assert len(rows) == 4 * 100 - 6
    for row in rows:
        if row["score"] is not None:
            place = (row["partition"], row["offset"])
            assert (row["verdict"], row["score"], row["score_ratio"]) == expected[place]


def test_training_from_the_topic_counts_as_the_worker_counts(streamed: PoisonedStream, tmp_path: Path) -> None:
    definition = tmp_path / "stream.toml"
    definition.write_text(HISTORY_STREAM.model_copy(update={"name": "fromtopic"}).to_toml())
    before = traces(streamed)

    result = offbeat(
        streamed.broker, "train", f"kafka:{streamed.name}", "--stream", definition, "--models", tmp_path / "models",
        "--steps", "50", "--with-state",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    dead = Counter(headers["dlq.reason"].decode() for _, headers in streamed.dead_letters())
    dataset = load(topic_range(streamed.broker.settings, streamed.name).parts, HISTORY_STREAM)
    rejected = Counter({str(reason): count for reason, count in dataset.rejected.items()})
    assert rejected - Counter(tombstone=4) == dead
    assert dataset.decoded == RECORDS == len(streamed.judged())
    for reason, count in dead.items():
        assert f"rejected: {reason}" in result.output
        assert str(count) in result.output
    registry = ModelDirectory(tmp_path / "models" / "fromtopic")
    facts = registry.load(registry.versions()[0]).facts["read_from"]
    assert facts["topic"] == streamed.name
    assert sum(end - start for start, end in facts["offsets"].values()) == dataset.rows_read
    assert traces(streamed) == before


def test_calibrating_on_a_range_sets_the_threshold_on_the_scores_that_the_worker_gave_it(
    streamed: PoisonedStream, tmp_path: Path
) -> None:
    models = Path(shutil.copytree(streamed.models, tmp_path / "models"))
    before = traces(streamed)

    result = offbeat(
        streamed.broker, "calibrate", f"kafka:{streamed.name}", *MIDDLE, "--false-alarm-rate", "0.05", "--models",
        models,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    scores = [score for place, (_, score, _) in sorted(streamed.judged().items()) if in_the_middle(place)]
    reasons = Counter(reason for place, reason in streamed.refused().items() if in_the_middle(place))
    directory = ModelDirectory(models / following().name)
    detector = directory.load(directory.current() or "")
    assert len(directory.versions()) == 2
    assert detector.threshold.value == fit_threshold(np.array(scores), 0.05).value
    assert detector.facts["calibrated"]["normal"] == len(scores) == 4 * 100 - 6 - reasons.total()
    read_from = detector.facts["calibrated"]["read_from"]
    assert read_from["topic"] == streamed.name
    assert sum(end - start for start, end in read_from["offsets"].values()) == 4 * 100 - 6
    assert re.search(rf"set on\s+{len(scores)} normal records", result.output)
    assert re.search(rf"left out\s+{reasons.total()} ", result.output)
    for reason, count in reasons.items():
        assert re.search(rf"^\s+{reason}\s+{count}\s*$", result.output, re.MULTILINE), (reason, result.output)
    assert traces(streamed) == before


def test_features_of_a_topic_are_those_of_its_records_and_name_what_is_no_record(
    streamed: PoisonedStream, tmp_path: Path
) -> None:
    records = tmp_path / "records.jsonl"
    with records.open("wb") as file:
        for batch in read_topic(streamed.broker.settings, streamed.name, timeout_s=20):
            file.writelines((value or b"") + b"\n" for value in batch.values if value and b"payment_id" in value)
    before = traces(streamed)

    def features_of(*data: object) -> list[dict[str, Any]]:
        result = offbeat(
            streamed.broker, "features", *data, "-o", tmp_path / "out.parquet", "--models", streamed.models
        )
        assert result.exit_code == 0, result.output
        rows: list[dict[str, Any]] = pq.read_table(tmp_path / "out.parquet").to_pylist()
        return rows

    of_file, everything, middle = (
        features_of(*data) for data in ((records,), (f"kafka:{streamed.name}",), (f"kafka:{streamed.name}", *MIDDLE))
    )

    assert traces(streamed) == before
    expected = {row["payment_id"]: row for row in of_file}
    refused = streamed.refused()
    assert len(expected) == RECORDS
    assert len(everything) == RECORDS + len(refused)
    for rows in (everything, middle):
        places = [(row.pop("partition"), row.pop("offset")) for row in rows]
        assert {place: row["reason"] for place, row in zip(places, rows, strict=True) if row["reason"]} == {
            place: reason for place, reason in refused.items() if rows is everything or in_the_middle(place)
        }
        assert rows is everything or all(in_the_middle(place) for place in places)
        for row in rows:
            assert row["reason"] or row == expected[row["payment_id"]]
    assert len(middle) == 4 * 100 - 6
    assert all(row["since_last"] is not None for row in middle if not row["reason"])


@pytest.mark.parametrize("command", ["calibrate", "features"])
def test_what_is_not_there_is_said(streamed: PoisonedStream, tmp_path: Path, command: str) -> None:
    output = ("--output", tmp_path / "out.parquet") if command == "features" else ("--one-in", "10")

    for words, complaint in (
        (("--from", "2050-01-01"), f"{streamed.name} has no message in the range from 2050-01-01: {streamed.name}[0]"),
        (("--partition", 9), f"--partition 9: {streamed.name} has partitions 0 to 3: choose among them"),
        (("--from", "0:1"), "0:1: says nothing of partition 1, 2, 3: give an offset for each"),
        (("--partition", 0, "--to", 10**6), "1,000,000 is still to come"),
        (("--from", "yesterday"), "--from yesterday: is neither a date or time"),
        (("--detector", "other"), "holds no detector 'other'"),
        (("--kafka.bootstrap-servers", ""), "kafka.bootstrap_servers"),
    ):
        result = offbeat(
            streamed.broker, command, f"kafka:{streamed.name}", *output, "--models", streamed.models, *words
        )
        assert result.exit_code == 2, words
        assert complaint in " ".join(result.output.split()), result.output
    assert not (tmp_path / "out.parquet").exists()
    assert len(ModelDirectory(streamed.models / following().name).versions()) == 1


@pytest.mark.parametrize("outcome", ["normal", "alert", "suppressed"])
def test_explain_says_of_a_message_in_the_middle_what_the_worker_said(streamed: PoisonedStream, outcome: str) -> None:
    judged = streamed.judged()
    places = sorted(place for place, (verdict, *_) in judged.items() if verdict == outcome and 100 < place[1] < 450)
    partition, offset = places[len(places) // 2]

    result = offbeat(
        streamed.broker, "explain", f"kafka:{streamed.name}", "--partition", partition, "--offset", offset, "--models",
        streamed.models, "--json",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)
    assert (facts["outcome"], facts["score"], facts["score_ratio"]) == judged[partition, offset]
    assert facts["is_exact"] is True
    assert facts["remembered"]
    alerts = {(each["source"]["partition"], each["source"]["offset"]): each for each in streamed.alerts()}
    if outcome == "alert":
        assert facts["threshold"] == alerts[partition, offset]["threshold"]
        assert facts["severity"] == alerts[partition, offset]["severity"]
    if outcome == "suppressed":
        assert facts["reason"] == "quiet_card"
        assert facts["quiet_since"]
    thresholds = {alert["threshold"] for alert in alerts.values()}
    assert len(thresholds) > 3, "the threshold of this stream should move"


# --- ranges, on topics of their own ---


def written(kafka: KafkaSettings, topic: str, count: int, configuration: dict[str, str] | None = None) -> None:
    """A topic of two partitions whose messages are a minute apart, from 2026-03-01 on."""
    keeping = {"retention.ms": "-1"}  # the messages are older than a broker keeps them by itself
    create_topics(kafka, {topic: 2}, configuration=keeping | (configuration or {}))
    publisher = KafkaPublisher(kafka, PublisherSettings())
    publisher.publish(
        [
            OutgoingMessage(topic, None, message(n), partition=n % 2, timestamp_ms=START_MS + n * 60_000)
            for n in range(count)
        ]
    )
    publisher.close()


def offsets(found: TopicRange) -> dict[int, tuple[int, int]]:
    return {part.partition.number: (part.start, part.end) for part in found.parts}


def test_times_are_looked_up_in_the_brokers_index(kafka: KafkaSettings, name: str) -> None:
    written(kafka, name, 100)

    found = topic_range(kafka, name, "2026-03-01T00:10", "2026-03-01T01:00Z")

    assert offsets(found) == {0: (5, 30), 1: (5, 30)}
    assert load(found.parts, STREAM).rows_read == 50
    with pytest.raises(DataFileError, match=r"the newest message of 2026-03-01T01:39:00Z by its timestamp"):
        topic_range(kafka, name, "2026-04-01")


def test_of_a_topic_that_dates_messages_by_their_arrival_a_range_is_one_of_arrival(
    kafka: KafkaSettings, name: str
) -> None:
    written(kafka, name, 10, {"message.timestamp.type": "LogAppendTime"})

    found = topic_range(kafka, name, "2026-03-02")

    assert offsets(found) == {0: (0, 5), 1: (0, 5)}


def test_messages_of_aborted_transactions_and_what_retention_took_are_not_read(
    broker: KafkaBroker, kafka: KafkaSettings, name: str
) -> None:
    create_topics(kafka, {name: 1})
    producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"tx-{name}")
    producer.init_transactions()
    for round_, commits in enumerate((True, False, True)):
        producer.begin_transaction()
        for number in range(10):
            producer.send(name, message(round_ * 10 + number), partition=0)
        (producer.commit_transaction if commits else producer.abort_transaction)()
    producer.close()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.delete_records({TopicPartition(name, 0): 4})
    admin.close()

    found = topic_range(kafka, name, "0")
    dataset = load(found.parts, STREAM)

    assert dataset.records.ids is not None
    assert dataset.records.ids.tolist() == [str(number) for number in (*range(4, 10), *range(20, 30))]
    assert dataset.rows_read == 16
    assert "retention has removed 4 offsets of the range; it begins at 4" in found.remarks[0]


def test_an_open_transaction_ends_the_range_before_it(broker: KafkaBroker, kafka: KafkaSettings, name: str) -> None:
    create_topics(kafka, {name: 1})
    publisher = KafkaPublisher(kafka, PublisherSettings())
    publisher.publish([OutgoingMessage(name, None, message(n), partition=0) for n in range(5)])
    publisher.close()
    producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"tx-{name}")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(name, message(99), partition=0).get(timeout=10)

    found = topic_range(kafka, name)
    dataset = load(found.parts, STREAM)
    producer.abort_transaction()
    producer.close()

    assert offsets(found) == {0: (0, 5)}
    assert dataset.rows_read == 5


def test_a_topic_that_does_not_exist_is_said_and_not_created_by_asking_for_it(
    broker: KafkaBroker, following_models: Path, name: str
) -> None:
    result = offbeat(broker, "calibrate", f"kafka:{name}", "--one-in", 100, "--models", following_models)

    assert result.exit_code == 1
    assert f"there is no {name}[0], or our user may not see it" in result.output
    assert not list(_existing(broker, name))


def _existing(broker: KafkaBroker, name: str) -> Iterator[str]:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        yield from (topic for topic in admin.list_topics() if topic == name)
    finally:
        admin.close()


def test_what_arrives_while_the_range_is_read_is_not_in_it(kafka: KafkaSettings, name: str) -> None:
    written(kafka, name, 20)
    found = topic_range(kafka, name)
    written(kafka, name, 10)

    assert load(found.parts, STREAM).rows_read == 20
    assert sum(len(batch) for batch in read_topic(kafka, name, timeout_s=20)) == 30
