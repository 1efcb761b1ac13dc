"""Who is let in by a real broker and who is not: certificates, passwords, tokens, rights, and what replaces them."""

from __future__ import annotations

import base64
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from traceback import format_exception
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from kafka.admin import ACLOperation, ResourceType

from tests.kafka.broker import KafkaBroker, why_not
from tests.kafka.secure import PASSWORD, SESSION_S, USER, SecureBroker, token
from tests.kafka.streams import Stream, payments
from tests.kafka.worker import WorkerProcess
from tests.planted import found_in, planted_payments
from tests.tokens import CLIENT, CLIENT_SECRET, TokenEndpoint
from transport import (
    ConfigurationRefused,
    Forbidden,
    KafkaPublisher,
    KafkaSettings,
    KafkaSource,
    OutgoingMessage,
    PublisherSettings,
    SourceSettings,
    TransportError,
    missing_topics,
)
from worker.commands import config_command

Files = dict[str, str]

# Most of it is the start of a process on a busy machine.
ENDS_S = 180.0


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true the tests on a real broker must run")
        pytest.skip(reason)
    with SecureBroker(tmp_path_factory.mktemp("secure")) as secure:
        yield secure


@pytest.fixture(scope="module")
def broker(secure: SecureBroker) -> KafkaBroker:
    """What the fixtures of all tests on a broker prepare with: everything is allowed there."""
    return secure.plain


@pytest.fixture(scope="module")
def tokens(secure: SecureBroker) -> Iterator[TokenEndpoint]:
    with TokenEndpoint(token, certificate=secure.authority.server("endpoint")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def files(secure: SecureBroker, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Secrets and certificates, right and wrong, by name."""
    directory = tmp_path_factory.mktemp("files")
    contents = {
        "token": token(),
        "expired token": token(life_s=-60),
        "rubbish": "rubbish",
        "password": f"{PASSWORD}\n",
        "key password": "open sesame\n",
    }
    for name, content in contents.items():
        (directory / name).write_text(content)
    found = {name: str(directory / name) for name in contents}
    for name, (certificate, key) in {
        "worker": secure.authority.client("worker"),
        "locked": secure.authority.client("locked", password="open sesame"),
        "late": secure.authority.client("late", expired=True),
        "strange": secure.stranger.client("strange"),
    }.items():
        found |= {f"{name}.crt": str(certificate), f"{name}.key": str(key)}
    return found | {"other authority": str(secure.stranger.file)}


def certificate(files: Files, name: str, **more: str) -> dict[str, str]:
    return {"ssl_certfile": files[f"{name}.crt"], "ssl_keyfile": files[f"{name}.key"]} | more


def password(mechanism: str, **changes: str) -> dict[str, str]:
    return {"sasl_mechanism": mechanism, "sasl_username": USER, "sasl_password": PASSWORD} | changes


def bearer(file: str) -> dict[str, str]:
    return {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_file": file}


def password_file(files: Files) -> dict[str, str]:
    return {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password_file": files["password"]}


def endpoint(secure: SecureBroker, tokens: TokenEndpoint, **changes: str) -> dict[str, Any]:
    return tokens.settings(sasl_oauth_cafile=str(secure.authority.file), **changes)


Way = tuple[str, Callable[[Files, SecureBroker, TokenEndpoint], dict[str, Any]]]

WAYS: dict[str, Way] = {
    "TLS with a private authority": ("TLS", lambda *_: {}),
    "mutual TLS": ("MUTUAL", lambda files, *_: certificate(files, "worker")),
    "mutual TLS with a locked key": (
        "MUTUAL",
        lambda files, *_: certificate(files, "locked", ssl_password_file=files["key password"]),
    ),
    "PLAIN": ("SIGNIN", lambda *_: password("PLAIN")),
    "PLAIN with a locked key": (
        "SIGNIN",
        lambda files, *_: password("PLAIN") | certificate(files, "locked", ssl_password="open sesame"),
    ),
    "SCRAM-SHA-256": ("SIGNIN", lambda *_: password("SCRAM-SHA-256")),
    "SCRAM-SHA-512": ("SIGNIN", lambda *_: password("SCRAM-SHA-512")),
    "a password in a file": ("SIGNIN", lambda files, *_: password_file(files)),
    "a password without TLS": ("BARE", lambda *_: password("SCRAM-SHA-512")),
    "a token in a file": ("SIGNIN", lambda files, *_: bearer(files["token"])),
    "a token from an endpoint": ("SIGNIN", lambda _, secure, tokens: endpoint(secure, tokens)),
    "a certificate of another name, unchecked": ("RENAMED", lambda *_: {"ssl_check_hostname": False}),
}

REFUSALS: dict[str, tuple[str, Callable[[Files, SecureBroker, TokenEndpoint], dict[str, Any]], str, str]] = {
    "an unknown authority": (
        "TLS", lambda files, *_: {"ssl_cafile": files["other authority"]}, "ssl_cafile", "does not vouch for",
    ),
    "an expired certificate of the broker": ("EXPIRED", lambda *_: {}, "ssl_cafile", "certificate has expired"),
    "another host's name": ("RENAMED", lambda *_: {}, "bootstrap_servers", "for another name"),
    "no certificate of ours": ("MUTUAL", lambda *_: {}, "ssl_certfile", "we have none to show"),
    "a certificate of ours from a stranger": (
        "MUTUAL", lambda files, *_: certificate(files, "strange"), "ssl_certfile", "does not accept our certificate",
    ),
    "an expired certificate of ours": (
        "MUTUAL", lambda files, *_: certificate(files, "late"), "ssl_certfile", "does not accept our certificate",
    ),
    "a key that does not open": (
        "MUTUAL", lambda files, *_: certificate(files, "locked", ssl_password="wrong"), "ssl_certfile", "ssl_password",
    ),
    "a key of another certificate": (
        "MUTUAL",
        lambda files, *_: certificate(files, "worker", ssl_keyfile=files["late.key"]),
        "ssl_certfile",
        "belong together",
    ),
    "a wrong password, PLAIN": (
        "SIGNIN", lambda *_: password("PLAIN", sasl_password="wr0ng!"), "sasl_password", "does not let us in by PLAIN",
    ),
    "a wrong password, SCRAM-SHA-256": (
        "SIGNIN", lambda *_: password("SCRAM-SHA-256", sasl_password="wr0ng!"), "sasl_password", "by SCRAM-SHA-256",
    ),
    "a wrong password, SCRAM-SHA-512": (
        "SIGNIN", lambda *_: password("SCRAM-SHA-512", sasl_password="wr0ng!"), "sasl_password", "by SCRAM-SHA-512",
    ),
    "a wrong password without TLS": (
        "BARE", lambda *_: password("PLAIN", sasl_password="wr0ng!"), "sasl_password", "by PLAIN",
    ),
    "an unknown user": (
        "SIGNIN", lambda *_: password("SCRAM-SHA-512", sasl_username="nobody"), "sasl_password", "sasl_username or",
    ),
    "a mechanism that is not offered": (
        "BARE", lambda *_: password("SCRAM-SHA-256"), "sasl_mechanism", "does not offer",
    ),
    "an expired token": (
        "SIGNIN", lambda files, *_: bearer(files["expired token"]), "sasl_oauth_token_file", "by OAUTHBEARER",
    ),
    "a token that is none": (
        "SIGNIN", lambda files, *_: bearer(files["rubbish"]), "sasl_oauth_token_file", "by OAUTHBEARER",
    ),
    "a wrong client secret": (
        "SIGNIN",
        lambda _, secure, tokens: endpoint(secure, tokens, sasl_oauth_client_secret="wr0ng!"),
        "sasl_oauth_client_id",
        "answered 401",
    ),
    "a token endpoint nobody vouches for": (
        "SIGNIN",
        lambda files, secure, tokens: endpoint(secure, tokens) | {"sasl_oauth_cafile": files["other authority"]},
        "sasl_oauth_cafile",
        "cannot be trusted",
    ),
    "a port that wants TLS": (
        "TLS", lambda *_: {"security_protocol": "PLAINTEXT", "ssl_cafile": None}, "security_protocol", "want TLS",
    ),
    "a port where nobody signs in": (
        "TLS",
        lambda *_: {"security_protocol": "SASL_SSL"} | password("PLAIN"),
        "security_protocol",
        "nobody to sign in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_messages_go_in_and_out_and_offsets_are_kept_by(
    way: str, secure: SecureBroker, files: Files, tokens: TokenEndpoint, topic: str
) -> None:
    listener, who = WAYS[way]
    kafka = secure.settings(listener, **who(files, secure, tokens))
    publisher = KafkaPublisher(kafka, PublisherSettings())
    source = source_of(kafka, topic)

    publisher.publish([OutgoingMessage(topic, b"k", b"hello")])
    values: list[bytes | None] = []
    while not values:
        batch = source.poll()
        if batch is not None:
            values += list(batch.values)
            source.done(batch)
    source.commit(source.committable())

    assert values == [b"hello"]
    assert source.committable() == {}
    assert missing_topics(kafka, [topic, "no-such-topic"]) == ["no-such-topic"]
    publisher.close()
    source.close()


def source_of(kafka: KafkaSettings, topic: str) -> KafkaSource:
    settings = SourceSettings(topics=(topic,), group_id=f"g-{topic}", session_timeout_s=6.0, heartbeat_interval_s=0.5)
    return KafkaSource(kafka, settings)


@pytest.mark.parametrize("refused", REFUSALS)
@pytest.mark.parametrize("part", ["source", "publisher", "admin"])
def test_nobody_is_let_in_with_and_the_setting_is_named(
    refused: str, part: str, secure: SecureBroker, files: Files, tokens: TokenEndpoint, topic: str
) -> None:
    listener, who, setting, words = REFUSALS[refused]
    told = {name: value for name, value in (secure.told(listener) | who(files, secure, tokens)).items() if value}
    kafka = KafkaSettings.model_validate(told)

    with pytest.raises((Forbidden, ConfigurationRefused)) as refusal:
        come_in(kafka, part, topic)

    assert isinstance(refusal.value, (Forbidden, ConfigurationRefused))
    assert refusal.value.setting == setting
    assert words in str(refusal.value)
    assert "wr0ng!" not in str(refusal.value)


def come_in(kafka: KafkaSettings, part: str, topic: str) -> None:
    if part == "admin":
        missing_topics(kafka, [topic])
    elif part == "publisher":
        publisher = KafkaPublisher(kafka, PublisherSettings())
        try:
            publisher.publish([OutgoingMessage(topic, b"k", b"hello")])
        finally:
            publisher.close()
    else:
        source = source_of(kafka, topic)
        try:
            source.poll()
        finally:
            source.close()


def worker(
    stream: Stream, secure: SecureBroker, listener: str, *, log_level: str = "info",
    settings: Any = None, **kafka: Any,
) -> WorkerProcess:  # fmt: skip
    """A worker that comes in by a listener; settings that are not of the connection apart."""
    told = {f"kafka__{name}": value for name, value in (secure.told(listener) | kafka).items()}
    servers = told.pop("kafka__bootstrap_servers")
    return WorkerProcess(
        stream.directory, bootstrap_servers=servers, topic=stream.name, models=stream.models,
        group_id=f"g-{stream.name}", score_topic=f"{stream.name}.scores", log_level=log_level,
        **told | dict(settings or {}),
    )  # fmt: skip


@pytest.mark.parametrize("way", ["mutual TLS", "a token from an endpoint"])
def test_a_whole_worker_runs_by(
    way: str, stream: Stream, secure: SecureBroker, files: Files, tokens: TokenEndpoint
) -> None:
    listener, who = WAYS[way]
    stream.publish(payments(100))

    with worker(stream, secure, listener, **who(files, secure, tokens)) as running:
        running.wait_until_accounted(100)
        assert running.stop() == 0

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()
    assert stream.committed() == 100


@pytest.mark.parametrize("refused", ["no certificate of ours", "a wrong password, SCRAM-SHA-512"])
def test_a_worker_ends_with_1_and_names_the_setting(
    refused: str, stream: Stream, secure: SecureBroker, files: Files, tokens: TokenEndpoint
) -> None:
    listener, who, setting, _ = REFUSALS[refused]

    with worker(stream, secure, listener, **who(files, secure, tokens)) as ending:
        assert ending.wait_for_exit(ENDS_S) == 1

    assert f"setting=kafka.{setting} " in ending.log.read_text()


# -- what is replaced on disk ---------------------------------------------------------------------------------------


def test_certificates_that_are_replaced_on_disk_are_used_at_the_next_connection(
    stream: Stream, secure: SecureBroker, tmp_path: Path
) -> None:
    """The broker comes back trusting another authority: only a client that reads its files again gets in."""
    crt, key = secure.authority.write_client(tmp_path, "client", "worker")
    stream.publish(payments(50))

    with worker(stream, secure, "MUTUAL", ssl_certfile=crt, ssl_keyfile=key) as running:
        running.wait_until_accounted(50)
        secure.stranger.write_client(tmp_path, "client", "worker")
        restart_trusting(secure, secure.stranger)
        try:
            stream.publish(payments(50, start=50))
            running.wait_until_accounted(100)
            assert running.stop() == 0
        finally:
            restart_trusting(secure, secure.authority)

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()
    assert "certificates were replaced on disk" in running.log.read_text()


def test_a_running_worker_whose_certificate_is_not_accepted_any_more_ends_with_1(
    stream: Stream, secure: SecureBroker, files: Files
) -> None:
    stream.publish(payments(50))

    with worker(stream, secure, "MUTUAL", **certificate(files, "worker")) as running:
        running.wait_until_accounted(50)
        restart_trusting(secure, secure.stranger)
        try:
            assert running.wait_for_exit(ENDS_S) == 1
        finally:
            restart_trusting(secure, secure.authority)

    assert "setting=kafka.ssl_certfile " in running.log.read_text()


def restart_trusting(secure: SecureBroker, authority: Any) -> None:
    secure.plain.kill()
    secure.trust(authority)
    secure.plain.start()


def test_a_password_that_is_replaced_on_disk_is_used_at_the_next_connection(
    stream: Stream, secure: SecureBroker, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("the first one\n")
    secure.change_password("the first one", "rotating")
    stream.publish(payments(50))
    who = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "rotating", "sasl_password_file": str(file)}

    with worker(stream, secure, "SIGNIN", **who) as running:
        running.wait_until_accounted(50)
        secure.change_password("the second one", "rotating")
        file.write_text("the second one\n")
        secure.plain.kill()
        secure.plain.start()
        stream.publish(payments(50, start=50))
        running.wait_until_accounted(100)
        assert running.stop() == 0

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()


@pytest.mark.parametrize(
    ("delivery", "way"),
    [
        ("at_least_once", lambda files: password("SCRAM-SHA-512")),
        ("exactly_once", lambda files: bearer(files["token"])),
    ],
    ids=["a password", "a token"],
)
def test_sessions_that_end_cost_nothing_with(
    delivery: str, way: Callable[[Files], dict[str, str]], stream: Stream, secure: SecureBroker, files: Files
) -> None:
    stream.publish(payments(50))

    with worker(stream, secure, "BRIEF", settings={"delivery": delivery}, **way(files)) as running:
        running.wait_until_accounted(50)
        for start in range(50, 250, 50):
            time.sleep(SESSION_S)
            stream.publish(payments(50, start=start))
        running.wait_until_accounted(250)
        assert running.stop() == 0

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()
    if delivery == "exactly_once":
        assert len(stream.alerts()) == len(stream.odd())


def test_a_password_that_is_replaced_while_sessions_end_is_used_without_a_restart_of_anybody(
    stream: Stream, secure: SecureBroker, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("the first one\n")
    secure.change_password("the first one", "brief")
    stream.publish(payments(50))
    who = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": "brief", "sasl_password_file": str(file)}

    with worker(stream, secure, "BRIEF", **who) as running:
        running.wait_until_accounted(50)
        before = ports(running)
        file.write_text("the second one\n")
        secure.change_password("the second one", "brief")
        running.wait_until(lambda running: not before & ports(running), "connection that signed in anew")
        stream.publish(payments(50, start=50))
        running.wait_until_accounted(100)
        assert running.stop() == 0

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()


def ports(running: WorkerProcess) -> set[int]:
    """Our ends of the worker's connections to the broker."""
    connections = psutil.Process(running.process.pid).net_connections("tcp")
    return {each.laddr.port for each in connections if each.status == "ESTABLISHED" and each.laddr.port != running.port}


# -- rights ---------------------------------------------------------------------------------------------------------

RIGHTS: dict[str, tuple[ResourceType, str, ACLOperation, str]] = {
    "the group": (ResourceType.GROUP, "g-{}", ACLOperation.READ, "group_id"),
    "the input": (ResourceType.TOPIC, "{}", ACLOperation.READ, "input_topics"),
    "the sight of the input": (ResourceType.TOPIC, "{}", ACLOperation.DESCRIBE, "input_topics"),
    "the alert topic": (ResourceType.TOPIC, "{}.alerts", ACLOperation.WRITE, "alert_topic"),
    "the sight of the alert topic": (ResourceType.TOPIC, "{}.alerts", ACLOperation.DESCRIBE, "alert_topic"),
    "the dead-letter topic": (ResourceType.TOPIC, "{}.dlq", ACLOperation.WRITE, "dead_letter_topic"),
}


@pytest.mark.parametrize("what", RIGHTS)
def test_a_worker_without_a_right_to_ends_with_1_and_commits_nothing(
    what: str, stream: Stream, secure: SecureBroker
) -> None:
    kind, name, operation, setting = RIGHTS[what]
    stream.publish([*payments(50), b"no payment"])
    secure.forbid(USER, kind, name.format(stream.name), operation)

    with worker(stream, secure, "SIGNIN", **password("SCRAM-SHA-512")) as ending:
        assert ending.wait_for_exit(ENDS_S) == 1

    last = ending.log.read_text().splitlines()[-1]
    assert setting in last
    assert stream.committed() == 0


def test_a_worker_without_a_right_to_its_transactional_id_ends_with_1_and_nothing_is_seen_of_it(
    stream: Stream, secure: SecureBroker
) -> None:
    stream.publish(payments(50))
    transactional_id = f"g-{stream.name}-member"
    secure.forbid(USER, ResourceType.TRANSACTIONAL_ID, transactional_id, ACLOperation.WRITE)

    member = {"delivery": "exactly_once", "group_instance_id": "member"}
    with worker(stream, secure, "SIGNIN", settings=member, **password("SCRAM-SHA-512")) as ending:
        assert ending.wait_for_exit(ENDS_S) == 1

    last = ending.log.read_text().splitlines()[-1]
    assert transactional_id in last
    assert "setting=delivery " in last
    assert stream.committed() == 0
    assert stream.alerts() == []


def test_a_right_that_is_taken_away_ends_a_running_worker_with_nothing_committed_past_what_is_published(
    stream: Stream, secure: SecureBroker
) -> None:
    stream.publish(payments(50))

    with worker(stream, secure, "SIGNIN", **password("PLAIN")) as running:
        running.wait_until_accounted(50)
        running.wait_until(lambda _: stream.committed() == 50, "commit")
        secure.forbid(USER, ResourceType.TOPIC, f"{stream.name}.alerts", ACLOperation.WRITE)
        stream.publish(payments(50, start=50))
        assert running.wait_for_exit(ENDS_S) == 1

    assert "setting=alert_topic " in running.log.read_text()
    assert stream.committed() < 100

    with stream.worker() as mended:
        mended.wait_until(lambda _: stream.committed() == 100, "commit of what was left")
        assert mended.stop() == 0

    assert {alert["alert_id"] for alert in stream.alerts()} == stream.odd()


def test_a_broker_that_accepts_and_says_nothing_is_given_up_in_time(secure: SecureBroker, topic: str) -> None:
    secure.plain.freeze()
    try:
        for listener in ("TLS", "SIGNIN"):
            who = password("PLAIN") if listener == "SIGNIN" else {}
            with pytest.raises(TransportError, match="could not list topics"):
                missing_topics(secure.settings(listener, **who, connect_timeout_s=1.0), [topic])
    finally:
        secure.plain.thaw()


# -- nothing leaks --------------------------------------------------------------------------------------------------


def planted(files: Files, tokens: TokenEndpoint, issued: list[str]) -> list[str]:
    """Every secret of these tests, in the forms in which it travels."""
    plain = f"\0{USER}\0{PASSWORD}".encode()
    basic = f"{CLIENT}:{quote(CLIENT_SECRET, safe='')}".encode()
    quoted = quote(CLIENT_SECRET, safe="")
    secrets = [PASSWORD, "open sesame", CLIENT_SECRET, quoted, "wr0ng!", Path(files["token"]).read_text()]
    return secrets + [base64.b64encode(each).decode() for each in (plain, basic)] + issued


@pytest.fixture
def issued(tokens: TokenEndpoint) -> Iterator[list[str]]:
    """The tokens that the endpoint gives from now on."""
    given: list[str] = []

    def answer() -> tuple[int, dict[str, object]]:
        given.append(token())
        return 200, {"access_token": given[-1], "expires_in": 300}

    before, tokens.answer = tokens.answer, answer
    yield given
    tokens.answer = before


@pytest.mark.parametrize("way", ["PLAIN with a locked key", "a token from an endpoint"])
def test_no_secret_and_no_sensitive_value_is_in_anything_that_a_worker_says_by(
    way: str, stream: Stream, secure: SecureBroker, files: Files, tokens: TokenEndpoint, issued: list[str],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    listener, who = WAYS[way]
    us = who(files, secure, tokens)
    values = planted_payments()
    stream.publish(values)

    with worker(stream, secure, listener, log_level="debug", **us) as running:
        running.wait_until_accounted(len(values))
        pages = "".join(running.get(path)[1] for path in ("/livez", "/readyz", "/metrics", "/statusz"))
        secure.plain.kill()
        secure.plain.start()
        stream.publish(values)
        running.wait_until_accounted(2 * len(values))
        assert running.stop() == 0
    for name, value in (secure.told(listener) | us).items():
        monkeypatch.setenv(f"OFFBEAT_KAFKA__{name.upper()}", str(value))
    assert config_command(["--input-topics", stream.name]) == 0

    said = {
        "log": running.log.read_text(),
        "pages": pages,
        "config": capsys.readouterr().out,
        "alerts": str(stream.alerts()),
        "scores": str(stream.scores()),
        "headers": str([headers for _, headers in stream.dead_letters()]),
    }
    assert all(said.values())
    secrets = planted(files, tokens, issued)
    assert {name: found for name, text in said.items() if (found := found_in(text, *secrets))} == {}


@pytest.mark.parametrize("refused", [name for name in REFUSALS if "wrong" in name or "open" in name or "token" in name])
@pytest.mark.parametrize("part", ["source", "publisher", "admin"])
def test_no_secret_is_in_the_log_of_the_client_at_level_debug_when_it_is_refused_for(
    refused: str, part: str, secure: SecureBroker, files: Files, tokens: TokenEndpoint, topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    listener, who, _, _ = REFUSALS[refused]
    told = {name: value for name, value in (secure.told(listener) | who(files, secure, tokens)).items() if value}
    with (
        caplog.at_level(logging.DEBUG),
        caplog.at_level(logging.DEBUG, logger="kafka"),
        pytest.raises((Forbidden, ConfigurationRefused)) as refusal,
    ):
        come_in(KafkaSettings.model_validate(told), part, topic)

    said = caplog.text + str(refusal.value) + "".join(format_exception(refusal.value))
    assert found_in(said, *planted(files, tokens, []), Path(files["expired token"]).read_text()) == []


@pytest.mark.parametrize("way", ["PLAIN", "SCRAM-SHA-512", "a token in a file", "a token from an endpoint"])
def test_neither_secrets_nor_messages_are_in_the_log_of_the_client_at_level_debug_by(
    way: str, secure: SecureBroker, files: Files, tokens: TokenEndpoint, issued: list[str], topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    listener, who = WAYS[way]
    kafka = secure.settings(listener, **who(files, secure, tokens))
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="kafka"):
        publisher, source = KafkaPublisher(kafka, PublisherSettings(compression="none")), source_of(kafka, topic)
        publisher.publish([OutgoingMessage(topic, b"PLANTED", value) for value in planted_payments()])
        while source.poll() is None:
            pass
        publisher.close()
        source.close()

    assert "kafka" in {record.name.partition(".")[0] for record in caplog.records}
    assert found_in(caplog.text, *planted(files, tokens, issued)) == []
