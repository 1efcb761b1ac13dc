"""`offbeat train --with-state`: the histories at the end of training, published beside the version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector import ModelDirectory, read_state
from offbeat import app
from tests.payments import HISTORY_STREAM, decoded, message


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "payments.jsonl"
    file.write_bytes(b"\n".join(message(number) for number in range(1500)) + b"\n")
    return file


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    file = tmp_path / "stream.toml"
    file.write_text(HISTORY_STREAM.to_toml())
    return file


def train(data: Path, stream: Path, models: Path, *more: str) -> str:
    words = ["train", str(data), "--stream", str(stream), "--models", str(models), "--steps", "50", *more]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_who_begins_with_the_published_state_goes_on_where_training_ended(
    data: Path, stream: Path, tmp_path: Path
) -> None:
    train(data, stream, tmp_path / "models", "--with-state")
    registry = ModelDirectory(tmp_path / "models" / "remembering")
    [version] = registry.versions()
    detector = registry.load(version)
    assert detector.history is not None

    base = read_state(detector.history, registry.state_path(version))

    live = [message(number) for number in range(1450, 1700)]
    found = detector.features(decoded(live, HISTORY_STREAM), detector.history.new_state(base=base))
    whole = detector.features(decoded([message(number) for number in range(1700)], HISTORY_STREAM))
    assert {name: column[50:].tobytes() for name, column in found.items()} == {
        name: column[1500:].tobytes() for name, column in whole.items()
    }


def test_no_state_is_published_unasked(data: Path, stream: Path, tmp_path: Path) -> None:
    train(data, stream, tmp_path / "models")

    assert not list((tmp_path / "models" / "remembering").glob("*.state"))


def test_a_stream_without_history_says_that_it_has_no_state(data: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    plain.write_text(HISTORY_STREAM.model_copy(update={"feature": HISTORY_STREAM.field_features}).to_toml())

    said = train(data, plain, tmp_path / "models", "--with-state")

    assert "no features from history" in said


def test_explain_begins_with_the_published_state_where_it_is_asked_to(data: Path, stream: Path, tmp_path: Path) -> None:
    train(data, stream, tmp_path / "models", "--with-state")
    registry = ModelDirectory(tmp_path / "models" / "remembering")
    [version] = registry.versions()
    detector = registry.load(version)
    whole, _ = detector.judge(decoded([message(number) for number in range(1510)], HISTORY_STREAM))
    live = tmp_path / "live.jsonl"
    live.write_bytes(b"\n".join(message(number) for number in range(1500, 1510)))
    words = ["explain", str(live), "--models", str(tmp_path / "models"), "--json"]

    known, unknown = (CliRunner().invoke(app, [*words, *more]) for more in (["--with-state"], []))

    assert [facts["score"] for facts in json.loads(known.stdout)] == whole.scores[1500:].tolist()
    assert [facts["score"] for facts in json.loads(unknown.stdout)] != whole.scores[1500:].tolist()


def test_explain_says_that_no_state_was_published(data: Path, stream: Path, tmp_path: Path) -> None:
    train(data, stream, tmp_path / "models")

    result = CliRunner().invoke(
        app, ["explain", "-", "--models", str(tmp_path / "models"), "--with-state"], input=message(1)
    )

    assert result.exit_code == 2
    assert "has no histories beside it: train with --with-state" in result.output
