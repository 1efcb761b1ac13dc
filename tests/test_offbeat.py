"""The front door: every room's commands, the public names, and a `--help` that does not wait for torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import offbeat

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_help_lists_the_commands_of_every_room() -> None:
    result = CliRunner().invoke(offbeat.app, ["--help"], env={"COLUMNS": "200"})

    assert result.exit_code == 0
    for command in ("init", "train", "score", "models", "work", "config", "status", "demo"):
        assert f" {command} " in result.stdout, command


@pytest.mark.parametrize("command", ["list", "show", "verify", "promote", "rollback"])
def test_models_has_every_command_of_a_versions_life(command: str) -> None:
    result = CliRunner().invoke(offbeat.app, ["models", command, "--help"])

    assert result.exit_code == 0


def test_version_is_printed() -> None:
    result = CliRunner().invoke(offbeat.app, ["--version"])

    assert result.exit_code == 0
    assert result.stdout.startswith("offbeat ")


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(offbeat.app, ["frobnicate"]).exit_code == 2


def test_help_and_import_do_not_wait_for_torch() -> None:
    loaded = python("import sys, offbeat; print('torch' in sys.modules)")

    assert loaded == "False"


def test_the_trainers_commands_load_what_they_need_only_when_they_run() -> None:
    loaded = python("import sys, trainer.commands; print(sorted({'torch', 'pyarrow', 'scipy'} & set(sys.modules)))")

    assert loaded == "[]"


def test_the_public_names_are_those_of_the_rooms() -> None:
    from detector import Detector
    from trainer.estimator import OffbeatDetector, fit

    assert offbeat.Detector is Detector
    assert offbeat.OffbeatDetector is OffbeatDetector
    assert offbeat.fit is fit
    assert {"Detector", "OffbeatDetector", "fit"} <= set(dir(offbeat))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        offbeat.fitt  # noqa: B018
