"""Every error that stops the worker on purpose, and the code that its process ends with.

WorkerError
├── SettingsRefused     a setting is wrong, unknown or contradicts another: exit 1
├── NoModel             no version of the detector could be loaded in time: exit 1
└── PoisonStream        most records are poison; nothing of it was committed: exit 3
"""

# The names say what happened.
# ruff: noqa: N818

from __future__ import annotations

EXIT_CLEAN = 0
EXIT_OPERATOR = 1
EXIT_POISON = 3
EXIT_BUG = 70
EXIT_CODES: dict[int, str] = {
    EXIT_CLEAN: "clean stop after SIGTERM or SIGINT: batch finished, offsets committed, group left",
    EXIT_OPERATOR: "an operator must change something: a setting, a permission, a model, an offset out of range",
    EXIT_POISON: "most records are poison: stopped before the topic is emptied into dead letters, uncommitted",
    EXIT_BUG: "a bug: the batch in hand was given back and nothing of it is committed; the log has the traceback",
    128 + 2: "a second SIGINT: left at once; what was not committed is read again",
    128 + 15: "a second SIGTERM: left at once; what was not committed is read again",
}


class WorkerError(Exception):
    """Base of all errors of this room; `exit_code` is what the process ends with."""

    exit_code = EXIT_OPERATOR


class SettingsRefused(WorkerError, ValueError):
    """A setting is wrong, unknown or contradicts another; the message names source, key and remedy."""


class NoModel(WorkerError):
    """No version of the detector could be loaded in time; the message says where it was looked for."""


class PoisonStream(WorkerError):
    """So many records are poison that the sender or the deployment is broken, not the records."""

    exit_code = EXIT_POISON
