"""Settings that contradict themselves are refused by name; secrets do not leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from transport import ConfigurationRefused, KafkaSettings, SourceSettings
from transport.connection import client_configuration

PLAIN = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me"}
BEARER = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bootstrap_servers": "localhost"}, "host:port"),
        ({"bootstrap_servers": "a:9092,b:99999"}, "'b:99999' is no address"),
        ({"security_protocol": "SASL_SSL"}, "sasl_mechanism is missing"),
        ({"sasl_username": "me"}, "nobody would sign in"),
        ({"security_protocol": "SSL", "ssl_certfile": "c.pem"}, "belong together"),
        ({"ssl_cafile": "ca.pem"}, "nothing would be encrypted: set security_protocol to SSL"),
        (PLAIN | {"sasl_password": "p", "sasl_password_file": "f"}, "are both set"),
        (PLAIN, "sasl_password or sasl_password_file is missing"),
        (
            PLAIN | {"sasl_password": "p", "sasl_oauth_scope": "s"},
            "sasl_oauth_scope is set and sasl_mechanism is PLAIN",
        ),
        (BEARER, "sasl_oauth_token_file or sasl_oauth_token_url is missing"),
        (BEARER | {"sasl_oauth_token_url": "https://a/b"}, "sasl_oauth_client_id is missing"),
        (BEARER | {"sasl_oauth_token_url": "http://a/b"}, "unencrypted"),
        (BEARER | {"sasl_oauth_token_url": "ftp://a/b"}, "no address of a token endpoint"),
        (BEARER | {"sasl_oauth_token_url": "https://me:hush@a/b"}, "sasl_oauth_client_secret instead"),
        (BEARER | {"sasl_oauth_token_file": "t", "sasl_username": "me"}, "has no use for it"),
        ({"bootstrap_server": "a:9092"}, "Extra inputs"),
    ],
)
def test_connection_settings_that_cannot_work_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        KafkaSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"topics": ()}, "at least 1"),
        ({"topics": ("a", "a")}, "once each"),
        ({"heartbeat_interval_s": 20.0}, "at most a third of session_timeout_s"),
        ({"max_poll_interval_s": 10.0}, "at least session_timeout_s"),
        (
            {"poll_timeout_s": 50.0, "max_poll_interval_s": 45.0},
            r"poll_timeout_s \(50\) must be below max_poll_interval_s",
        ),
        ({"group_instance_id": "a b"}, "pattern"),
    ],
)
def test_source_settings_that_cannot_work_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SourceSettings(**({"topics": ("t",), "group_id": "g"} | settings))


def test_passwords_are_shown_to_the_client_and_to_nobody_else() -> None:
    kafka = KafkaSettings(
        bootstrap_servers="a:1, b:2",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=SecretStr("hush"),
    )

    told = client_configuration(kafka)

    assert "hush" not in repr(kafka) + kafka.model_dump_json()
    assert told["sasl_plain_password"] == "hush"
    assert told["bootstrap_servers"] == ["a:1", "b:2"]


@pytest.mark.parametrize(
    ("files", "setting"),
    [
        ({"ssl_cafile": "missing.pem"}, "ssl_cafile"),
        ({"ssl_cafile": "rubbish.pem"}, "ssl_cafile"),
        ({"ssl_certfile": "rubbish.pem", "ssl_keyfile": "missing.pem"}, "ssl_keyfile"),
        ({"ssl_certfile": "rubbish.pem", "ssl_keyfile": "rubbish.pem"}, "ssl_certfile"),
    ],
)
def test_a_certificate_that_cannot_be_read_is_no_broker_that_is_away(
    tmp_path: Path, files: dict[str, str], setting: str
) -> None:
    (tmp_path / "rubbish.pem").write_text("no certificate")
    paths = {name: str(tmp_path / file) for name, file in files.items()}
    kafka = KafkaSettings.model_validate({"security_protocol": "SSL"} | paths)

    with pytest.raises(ConfigurationRefused) as refusal:
        client_configuration(kafka)

    assert refusal.value.setting == setting


def test_tls_checks_certificates_and_host_names_unless_told_otherwise() -> None:
    strict = client_configuration(KafkaSettings(security_protocol="SSL"))["ssl_context"].current()
    lax = client_configuration(KafkaSettings(security_protocol="SSL", ssl_check_hostname=False))[
        "ssl_context"
    ].current()

    assert (strict.check_hostname, lax.check_hostname) == (True, False)
    assert strict.verify_mode == lax.verify_mode == 2
