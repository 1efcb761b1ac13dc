"""Secrets in files, certificates that are replaced, and a client log that does not repeat what goes over the wire."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.protocol.sasl import SaslAuthenticateRequest

from tests.certificates import Authority
from transport import BrokerUnavailable, ConfigurationRefused, Forbidden, KafkaSettings, check_files
from transport.client_logs import keep_contents_out_of_logs
from transport.connection import Connection, client_configuration
from transport.refusals import Approach, refusal
from transport.secrets import FilePassword, Password, read_secret
from transport.tls import TlsFiles
from transport.translation import translated


def signing_in(file: Path) -> KafkaSettings:
    return KafkaSettings(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", sasl_username="me", sasl_password_file=str(file)
    )


@pytest.mark.parametrize("content", ["hush", "hush\n", "hush\r\n"])
def test_a_secret_is_what_its_file_holds_without_the_line_break_at_the_end(tmp_path: Path, content: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())

    assert client_configuration(signing_in(file))["sasl_plain_password"] == "hush"


def test_spaces_and_further_lines_belong_to_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" two\nlines \n\n")

    assert read_secret(str(file), setting="sasl_password_file") == " two\nlines \n"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_a_file_without_a_secret_stops_the_start_and_is_not_repeated(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationRefused, match="sasl_password_file") as refused:
        check_files(signing_in(file))

    assert refused.value.setting == "sasl_password_file"
    assert "xxx" not in str(refused.value)


def test_a_directory_in_the_place_of_a_secret_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationRefused, match="cannot be read"):
        check_files(signing_in(tmp_path))


def test_a_password_file_is_read_again_and_the_last_good_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    password = FilePassword.read(str(file), setting="sasl_password_file")

    file.write_text("new\n")
    renewed = password.again()
    file.unlink()

    assert (str(password), str(renewed), str(renewed.again())) == ("old", "new", "new")
    assert "signing in with what was read before" in caplog.text
    assert "new" not in caplog.text.replace("new connection", "")
    assert "old" not in repr(password)


@pytest.fixture
def mutual(tmp_path: Path) -> tuple[Authority, KafkaSettings]:
    authority = Authority(tmp_path)
    certificate, key = authority.client("client")
    kafka = KafkaSettings(
        security_protocol="SSL",
        ssl_cafile=str(authority.file),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
    )
    return authority, kafka


def test_files_that_stay_are_not_read_again_and_replaced_ones_are(
    mutual: tuple[Authority, KafkaSettings], tmp_path: Path
) -> None:
    authority, kafka = mutual
    tls = TlsFiles(kafka)
    first = tls.current()

    unchanged = tls.current()
    authority.write_client(tmp_path, "client", "client")
    replaced = tls.current()

    assert unchanged is first
    assert replaced is not first
    assert tls.current() is replaced


def test_a_certificate_replaced_before_its_key_leaves_the_old_pair_in_use_until_both_are_there(
    mutual: tuple[Authority, KafkaSettings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, kafka = mutual
    tls = TlsFiles(kafka)
    first = tls.current()
    certificate, key = authority.write_client(tmp_path, "next", "client")

    certificate.replace(kafka.ssl_certfile or "")
    between = tls.current()
    key.replace(kafka.ssl_keyfile or "")
    after = tls.current()

    assert between is first
    assert after is not first
    assert "connecting with what was read before" in caplog.text


def test_a_mounted_secret_whose_link_is_turned_is_seen(tmp_path: Path) -> None:
    """As Kubernetes replaces mounted secrets: the files are links into a directory that is itself a link."""
    authorities = {name: Authority(tmp_path / name, "ca") for name in ("one", "two")}
    data = tmp_path / "data"
    data.symlink_to(tmp_path / "one")
    (tmp_path / "ca.pem").symlink_to(data / "ca.pem")
    tls = TlsFiles(KafkaSettings(security_protocol="SSL", ssl_cafile=str(tmp_path / "ca.pem")))
    before = tls.current().get_ca_certs(binary_form=True)

    (tmp_path / "turned").symlink_to(tmp_path / "two")
    (tmp_path / "turned").replace(data)

    after = tls.current().get_ca_certs(binary_form=True)
    assert len(before) == len(after) == 1
    assert before != after
    assert after[0] == ssl.PEM_cert_to_DER_cert(authorities["two"].file.read_text())


TLS = Approach("SSL", None, shows_certificate=True, credentials="sasl_password")
SCRAM = Approach("SASL_SSL", "SCRAM-SHA-512", shows_certificate=False, credentials="sasl_password_file")


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "approach", "setting"),
    [
        (of_tls("TLSV1_ALERT_UNKNOWN_CA"), TLS, "ssl_certfile"),
        (of_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), SCRAM, "ssl_certfile"),
        (of_tls("SSLV3_ALERT_HANDSHAKE_FAILURE"), SCRAM, "ssl_certfile"),
        (of_tls("TLSV1_ALERT_PROTOCOL_VERSION"), TLS, "security_protocol"),
        (of_tls("WRONG_VERSION_NUMBER"), TLS, "security_protocol"),
        (kafka_errors.KafkaConnectionError(of_tls("SSLV3_ALERT_BAD_CERTIFICATE")), TLS, "ssl_certfile"),
        (kafka_errors.SaslAuthenticationFailedError("no"), SCRAM, "sasl_password_file"),
        (kafka_errors.UnsupportedSaslMechanismError(), SCRAM, "sasl_mechanism"),
        (kafka_errors.IllegalSaslStateError(), SCRAM, "security_protocol"),
        (kafka_errors.InvalidReceiveError(), TLS, "security_protocol"),
        (ValueError("Server sent wrong signature!"), SCRAM, "sasl_password_file"),
    ],
)
def test_what_no_retry_mends_is_told_from_what_passes(error: Exception, approach: Approach, setting: str) -> None:
    refused = refusal(error, "broker b:9093", approach)

    assert refused is not None
    ours = translated(refused, "poll")
    assert isinstance(ours, (Forbidden, ConfigurationRefused))
    assert ours.setting == setting


@pytest.mark.parametrize(
    "error",
    [
        None,
        ConnectionResetError(),
        of_tls("UNEXPECTED_EOF_WHILE_READING"),
        of_tls("TLSV1_ALERT_INTERNAL_ERROR"),
        kafka_errors.KafkaConnectionError("socket disconnected"),
        kafka_errors.KafkaConnectionError(ConnectionResetError()),
        kafka_errors.RequestTimedOutError(),
    ],
)
def test_a_network_that_fails_is_no_refusal(error: Exception | None) -> None:
    assert refusal(error, "broker b:9093", SCRAM) is None


def test_a_refusal_ends_what_goes_on_polling() -> None:
    connection = Connection(lambda: 0.0)
    connection.check()
    refused = refusal(kafka_errors.SaslAuthenticationFailedError("no"), "broker b:9093", SCRAM)
    assert refused is not None

    connection._note_refusal(refused)

    with pytest.raises(Forbidden, match="does not let us in by SCRAM-SHA-512"):
        connection.check()
    assert not isinstance(translated(refused, "poll"), BrokerUnavailable)


@pytest.mark.parametrize("told", ["payments", ["payments"], {"payments"}])
def test_a_topic_without_a_right_is_named_however_the_client_names_it(told: object) -> None:
    error = translated(kafka_errors.TopicAuthorizationFailedError(told), "publish")

    assert str(error) == "could not publish: no right to topic payments; grant it to our user, or correct topics"


@pytest.mark.parametrize(
    "said",
    [
        b"hush",
        bytearray(b"hush"),
        {"records": b'hush"'},
        ("key", [b"hush"]),
        SaslAuthenticateRequest(b"hush"),
        kafka_errors.KafkaError(b"hush"),
        {"sasl_plain_password": Password("hush")},
    ],
)
def test_the_log_of_the_client_holds_no_contents_of_what_goes_over_the_wire(
    said: object, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("kafka.anything")
    keep_contents_out_of_logs()

    with caplog.at_level(logging.DEBUG, logger="kafka.anything"):
        logger.debug("%s sends %s and %r", "client", said, said)
        logger.error("with %s", said)

    assert "client sends" in caplog.text
    assert "hush" not in caplog.text


def test_what_holds_no_contents_stays_in_the_log_of_the_client(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("kafka.anything")
    keep_contents_out_of_logs()

    with caplog.at_level(logging.DEBUG, logger="kafka.anything"):
        logger.debug("%s has %d: %s", "club's", 3, {"a": ["b"]})

    assert "club's has 3: {'a': ['b']}" in caplog.text


def test_settings_show_no_secret_by_any_way_of_printing_them(tmp_path: Path) -> None:
    kafka: Any = KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauth_token_url": "https://id.example.org/token",
            "sasl_oauth_client_id": "me",
            "sasl_oauth_client_secret": "hush",
            "ssl_password": "hush",
        }
    )

    assert "hush" not in repr(kafka) + str(kafka) + kafka.model_dump_json() + str(kafka.model_dump())
