"""What the demonstration gives up over.

DemoError
├── BrokerNotInstalled    the package with the embedded broker is missing, or has none for this machine
├── ProcessFailed         a process of ours did not start, answer or end as it should
└── PromiseBroken         the tour ran, and what it shows is not what offbeat promises
"""

# The names say what happened.
# ruff: noqa: N818

from __future__ import annotations


class DemoError(Exception):
    """Base of all errors of this room; the message says what to do."""


class BrokerNotInstalled(DemoError):
    """There is no embedded broker to start on this machine."""


class ProcessFailed(DemoError):
    """A process that we started did not start, answer or end as it should; the message ends with its last words."""


class PromiseBroken(DemoError):
    """The figures of a finished tour contradict a promise."""
