"""Whether a command line of documentation or deployment is one that offbeat takes; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
import typer.main

import offbeat
from worker.configuration import configure

_UsageError: Any = typer.BadParameter.__base__  # click's, wherever this version of typer keeps it


def assert_accepted(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Parse the words after `offbeat` as the program would, without the files that they name.

    Raises:
        AssertionError: There is no such command or option, or a required one is missing.
        SettingsRefused: A worker's setting is unknown or wrong.
    """
    command: Any = typer.main.get_command(offbeat.app)
    rest = list(words)
    while hasattr(command, "get_command"):
        assert rest, "the command line ends before it names a command"
        name = rest.pop(0)
        command = command.get_command(None, name)
        assert command is not None, f"offbeat has no command {name!r}"
    if command.name in ("work", "config"):
        configure(rest, environment or {})
        return
    try:
        command.make_context(command.name, rest)
    except _UsageError as error:
        raise AssertionError(f"offbeat {' '.join(words)}: {error.format_message()}") from error
