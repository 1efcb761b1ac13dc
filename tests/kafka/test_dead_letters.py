"""Dead letters on a real broker: redriven, near the size limit, where their topic is forbidden, and where it goes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from typer.testing import CliRunner

import offbeat
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import Stream, payments
from tests.payments import message, odd_message
from tests.worker.bench import START_MS, batch_of
from transport import KafkaPublisher, OutgoingMessage, PublisherSettings, create_topics
from worker.dead_letters import Origin, dead_letter
from worker.errors import EXIT_OPERATOR, EXIT_POISON

LIMIT = 1_000_000


def run(stream: Stream, *words: str, exit_code: int = 0) -> str:
    """What `offbeat dlq ...` prints about the stream's dead letters."""
    place = ["--topic", f"{stream.name}.dlq", "--bootstrap-servers", stream.broker.bootstrap_servers]
    result = CliRunner().invoke(offbeat.app, ["dlq", *words, *place], env={"COLUMNS": "300"})
    assert result.exit_code == exit_code, result.output
    return str(result.stdout)


def listed(stream: Stream, *words: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run(stream, "list", "--json", *words))
    return content


def publish(stream: Stream, messages: list[OutgoingMessage]) -> None:
    publisher = KafkaPublisher(stream.broker.settings, PublisherSettings(max_message_bytes=2**25, linger_s=0.005))
    publisher.publish(messages)
    publisher.close()


def as_letter(stream: Stream, value: bytes, *, offset: int) -> OutgoingMessage:
    """The dead letter of a record that an earlier deployment could not read."""
    batch = batch_of([value], topic=stream.name, keys=[b"card-7"], first_offset=offset)
    origin = Origin("offbeat-payments", "0.9", "v1", START_MS / 1000)
    return dead_letter(batch, 0, "bad_time", "at: no time", origin=origin, topic=f"{stream.name}.dlq", max_bytes=LIMIT)


def test_letters_are_redriven_once_and_their_alerts_say_so(stream: Stream) -> None:
    values: list[bytes | None] = [message(1), b"not json", message(2)]
    stream.publish(values, key=b"one key")
    publish(stream, [as_letter(stream, odd_message(7), offset=40), as_letter(stream, message(8), offset=41)])
    with stream.worker() as worker:
        worker.wait_until_accounted(3)
        assert listed(stream)["waiting"] == 3

        said = run(stream, "redrive")
        assert f"3 would be redriven to {stream.name}" in said
        assert listed(stream)["waiting"] == 3

        run(stream, "redrive", "--reason", "bad_time", "--yes")
        worker.wait_until_accounted(5)
        run(stream, "redrive", "--yes")
        worker.wait_until_accounted(6)
        assert worker.outcomes() == {"normal": 3, "alert": 1, "suppressed": 0, "dead_letter": 2}
        # What came back as a dead letter waits again; what was redriven is not sent again.
        assert (listed(stream)["waiting"], listed(stream)["redriven"]) == (1, 3)
        assert f"1 redriven to {stream.name}" in run(stream, "redrive", "--yes")
        worker.wait_until_accounted(7)
        assert worker.stop() == 0

    (alert,) = stream.alerts()
    assert alert["redrive_of"] == {"topic": stream.name, "partition": 0, "offset": 40}
    attempts = [int(h["dlq.attempts"]) for _, h in stream.dead_letters() if h.get("dlq.reason") == b"not_json"]
    assert attempts == [1, 2, 3]
    places = {h.get("dlq.redrive_of") for _, h in stream.dead_letters() if h.get("dlq.reason") == b"not_json"}
    assert len(places - {None}) == 1


def test_a_letter_is_shown_without_what_is_in_its_record_unless_asked(stream: Stream) -> None:
    secret = b'{"card": {"limit": 987654321}, "at": "never"}'
    publish(stream, [as_letter(stream, secret, offset=40)])

    for words in (["list"], ["list", "--json"], ["show", "0", "0"], ["show", "0", "0", "--json"]):
        shown = run(stream, *words)
        assert "987654321" not in shown
        assert "card-7" not in shown
        assert "bad_time" in shown
    assert "987654321" in run(stream, "show", "0", "0", "--value")
    assert json.loads(run(stream, "show", "0", "0", "--value", "--json"))["value"] == {"text": secret.decode()}
    assert run(stream, "show", "0", "0", "--raw") == secret.decode()
    run(stream, "show", "0", "1", exit_code=EXIT_OPERATOR)


def test_letters_of_records_around_the_size_limit_reach_a_topic_with_that_limit(
    broker: KafkaBroker, name: str, models: Path, tmp_path: Path
) -> None:
    stream = Stream(broker, name, models, tmp_path, outputs=("alerts",))
    create_topics(broker.settings, {f"{name}.dlq": 1}, configuration={"max.message.bytes": str(LIMIT)})
    create_topics(broker.settings, {f"{name}.large": 1}, configuration={"max.message.bytes": "3000000"})
    stream.name = f"{name}.large"
    draw = random.Random(7)
    sizes = [LIMIT - 5000, *range(LIMIT - 1200, LIMIT - 300, 100), LIMIT, LIMIT + 1, 2 * LIMIT]
    values = [b"{" + draw.randbytes(size - 1) for size in sizes]  # cannot be compressed below the limit
    # A run of dead letters is counted when a good record ends it.
    publish(stream, [OutgoingMessage(stream.name, b"k", value) for value in [*values, message(1)]])

    with stream.worker(dead_letter_topic=f"{name}.dlq", alert_topic=f"{name}.alerts") as worker:
        worker.wait_until_accounted(len(values) + 1)
        assert worker.outcomes()["dead_letter"] == len(values)
        assert worker.stop() == 0

    stream.name = name
    letters = stream.dead_letters()
    assert len(letters) == len(values)
    cut = [int(h["dlq.original.size"]) for _, h in letters if "dlq.truncated" in h]
    assert max(len(value or b"") for value, h in letters if "dlq.truncated" not in h) < min(cut)
    for value, (found, _) in zip(values, letters, strict=True):
        assert value.startswith(found or b"")
    run(stream, "redrive", exit_code=EXIT_OPERATOR)  # the cut ones are refused


def test_a_stream_that_is_half_poison_stops_the_worker_with_nothing_committed_past_the_last_good_batch(
    stream: Stream,
) -> None:
    # The ratio alone: never more than three in a row.
    stream.publish(payments(200), key=b"same partition")
    with stream.worker(max_batch_records=50, poison__max_ratio=0.5, poison__window=100) as worker:
        worker.wait_until_accounted(200)
        worker.wait_until(lambda _: stream.committed() == 200, "commit of the good records")
        bad: list[bytes | None] = [message(n) if n % 4 == 0 else b"poison %d" % n for n in range(2000)]
        stream.publish(bad, key=b"same partition")
        assert worker.wait_for_exit() == EXIT_POISON
        last_words = worker.log.read_text()

    assert "poison.max_ratio is 0.5" in last_words
    committed = stream.committed()
    assert 200 <= committed < 200 + 150
    letters = {int(headers["dlq.original.offset"]) for _, headers in stream.dead_letters()}
    assert {offset for offset in range(200, committed) if (offset - 200) % 4} <= letters, "a poison record was skipped"


def test_a_topic_of_dead_letters_that_is_not_there_is_said_at_start(
    broker: KafkaBroker, name: str, models: Path, tmp_path: Path
) -> None:
    stream = Stream(broker, name, models, tmp_path, outputs=("alerts",))

    with stream.worker() as worker:
        assert worker.wait_for_exit() == EXIT_OPERATOR
        last_words = worker.log.read_text()

    assert f"dead_letter_topic: topic '{name}.dlq' does not exist" in last_words


def test_a_topic_of_dead_letters_that_is_deleted_stops_the_worker_with_the_bad_record_uncommitted(
    stream: Stream,
) -> None:
    stream.publish(payments(20), key=b"same partition")
    with stream.worker(publish_timeout_s=4, retry_max_s=0.5) as worker:
        worker.wait_until_accounted(20)
        worker.wait_until(lambda _: stream.committed() == 20, "commit of the good records")
        stream.publish([b"poison"], key=b"same partition")
        worker.wait_until_accounted(21)
        worker.wait_until(lambda _: stream.committed() == 21, "commit of the dead letter")
        admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap_servers)
        admin.delete_topics([f"{stream.name}.dlq"])
        admin.close()
        time.sleep(1.5)
        stream.publish([b"more poison", odd_message(1)], key=b"same partition")
        assert worker.wait_for_exit() == EXIT_OPERATOR
        last_words = worker.log.read_text()

    assert f"{stream.name}.dlq" in last_words.splitlines()[-1] or f"{stream.name}.dlq" in last_words
    assert stream.committed() == 21
    stream.create(f"{stream.name}.dlq")
    with stream.worker() as worker:
        worker.wait_until_accounted(2)
        assert worker.outcomes() == {"normal": 0, "alert": 1, "suppressed": 0, "dead_letter": 1}
        assert worker.stop() == 0


@pytest.fixture(scope="module")
def guarded_broker() -> Iterator[KafkaBroker]:
    """A broker that obeys access rights, and allows what no rule is about."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaBroker(properties=properties) as broker:
        yield broker


def test_a_topic_of_dead_letters_that_may_not_be_written_stops_the_worker_uncommitted(
    guarded_broker: KafkaBroker, name: str, models: Path, tmp_path: Path
) -> None:
    stream = Stream(guarded_broker, name, models, tmp_path)
    admin = KafkaAdminClient(bootstrap_servers=guarded_broker.bootstrap_servers)
    topic = ResourcePattern(ResourceType.TOPIC, f"{name}.dlq")
    admin.create_acls(
        [
            ACL("User:ANONYMOUS", "*", ACLOperation.WRITE, ACLPermissionType.DENY, topic),
            ACL("User:ANONYMOUS", "*", ACLOperation.DESCRIBE, ACLPermissionType.ALLOW, topic),
        ]
    )
    admin.close()
    stream.publish([message(1), b"poison", odd_message(2)], key=b"same partition")

    with stream.worker() as worker:
        assert worker.wait_for_exit() == EXIT_OPERATOR
        last_words = worker.log.read_text()

    assert "setting=dead_letter_topic" in last_words
    assert stream.committed() == 0
