"""Tokens: kept while they are valid, renewed before their end, never waited for without an end, and never shown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError

from tests.certificates import Authority
from tests.fakes import FakeClock
from tests.tokens import CLIENT_SECRET, TokenEndpoint
from transport import ConfigurationRefused, Forbidden, KafkaSettings
from transport.refusals import Refused
from transport.tokens import EndpointTokens, FileTokens


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    numbers = itertools.count(1)
    with TokenEndpoint(lambda: f"token-{next(numbers)}", life_s=100.0) as endpoint:
        yield endpoint


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def tokens(endpoint: TokenEndpoint, clock: FakeClock | None = None, **more: Any) -> EndpointTokens:
    kafka = KafkaSettings.model_validate({"security_protocol": "SASL_SSL"} | endpoint.settings(**more))
    return EndpointTokens(kafka, clock=clock or FakeClock())


def test_a_token_is_kept_for_four_fifths_of_its_life_and_then_renewed(
    endpoint: TokenEndpoint, clock: FakeClock
) -> None:
    provider = tokens(endpoint, clock, sasl_oauth_scope="kafka:read kafka:write")

    first = [provider.token(), provider.token()]
    clock.advance(79)
    still = provider.token()
    clock.advance(2)
    renewed = provider.token()

    assert [*first, still, renewed] == ["token-1", "token-1", "token-1", "token-2"]
    assert endpoint.asked[0] == {"grant_type": ["client_credentials"], "scope": ["kafka:read kafka:write"]}


def test_a_token_that_is_still_valid_goes_on_being_used_while_the_endpoint_is_away(
    endpoint: TokenEndpoint, clock: FakeClock
) -> None:
    provider = tokens(endpoint, clock)
    provider.token()
    endpoint.answer = lambda: (503, {})

    clock.advance(90)
    assert provider.token() == "token-1"
    clock.advance(11)
    with pytest.raises(KafkaConnectionError, match="answered 503; trying again can help"):
        provider.token()


def test_an_endpoint_that_says_nothing_is_not_waited_for_beyond_the_limit(endpoint: TokenEndpoint) -> None:
    provider = tokens(endpoint, sasl_oauth_timeout_s=0.05)
    endpoint.gate.clear()

    for _ in range(3):
        with pytest.raises(KafkaConnectionError, match=r"has not answered in 0\.05 s|is away"):
            provider.token()


def test_a_token_without_an_end_is_asked_for_each_time(endpoint: TokenEndpoint) -> None:
    endpoint.answer = lambda: (200, {"access_token": f"token-{len(endpoint.asked)}"})
    provider = tokens(endpoint)

    assert [provider.token(), provider.token()] == ["token-1", "token-2"]


@pytest.mark.parametrize(
    ("status", "content", "setting"),
    [
        (401, {"error": "invalid_client"}, "sasl_oauth_client_id"),
        (401, b"<html>", "sasl_oauth_client_id"),
        (400, {"error": "invalid_scope"}, "sasl_oauth_scope"),
        (400, {"error": "unauthorized_client"}, "sasl_oauth_client_id"),
        (404, b"", "sasl_oauth_token_url"),
        (302, b"", "sasl_oauth_token_url"),
    ],
)
def test_a_refusal_of_the_endpoint_names_the_setting(
    endpoint: TokenEndpoint, status: int, content: Any, setting: str
) -> None:
    endpoint.answer = lambda: (status, content)

    with pytest.raises(Refused) as refused:
        tokens(endpoint).token()

    assert isinstance(refused.value.ours, Forbidden)
    assert refused.value.ours.setting == setting


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"not json", {"access_token": ""}, {"access_token": 7}, {"access_token": "a\x01b"}]
)
def test_an_answer_that_is_no_token_is_not_sent_to_a_broker(endpoint: TokenEndpoint, content: Any) -> None:
    endpoint.answer = lambda: (200, content)

    with pytest.raises(KafkaConnectionError, match="the token endpoint"):
        tokens(endpoint).token()


def test_a_wrong_secret_is_refused_and_not_repeated(endpoint: TokenEndpoint) -> None:
    with pytest.raises(Refused) as refused:
        tokens(endpoint, sasl_oauth_client_secret="not the secret").token()

    assert "sasl_oauth_client_secret" in str(refused.value)
    assert "not the secret" not in str(refused.value)


def test_the_secret_of_a_file_is_read_for_every_token(endpoint: TokenEndpoint, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old\n")
    provider = tokens(endpoint, sasl_oauth_client_secret=None, sasl_oauth_client_secret_file=str(file))

    with pytest.raises(Refused):
        provider.token()
    file.write_text(f"{CLIENT_SECRET}\n")

    assert provider.token() == "token-1"


def test_an_endpoint_whose_certificate_nobody_vouches_for_gets_no_secret(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with TokenEndpoint(lambda: "token", certificate=theirs.server("endpoint")) as endpoint:
        with pytest.raises(Refused) as refused:
            tokens(endpoint, sasl_oauth_cafile=str(ours.file)).token()

        assert isinstance(refused.value.ours, Forbidden)
        assert refused.value.ours.setting == "sasl_oauth_cafile"
        assert endpoint.asked == []
        assert tokens(endpoint, sasl_oauth_cafile=str(theirs.file)).token() == "token"


def test_the_token_of_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    provider = FileTokens(str(file))

    first = provider.token()
    file.write_text("two\n")

    assert (first, provider.token()) == ("one", "two")


def test_a_token_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationRefused, match="sasl_oauth_token_file") as refused:
        FileTokens(str(tmp_path / "missing"))

    assert refused.value.setting == "sasl_oauth_token_file"
