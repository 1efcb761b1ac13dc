"""Starts workers by forking a process that has imported all libraries: importing takes most of a worker's start.

A child is a process like any other: it has an environment, a log and an end of its own, and shares nothing that it
changes. All children end with the nursery, and the nursery with whoever started it.

`python -m benchmarks.chaos.nursery` is the nursery; it is told what to do on its standard input, a JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from demo.processes import OwnProcess
from tests.kafka.worker import ROOT

_TICK_S = 0.02


class Nursery:
    """The nursery as whoever starts workers sees it. Use as a context manager; for one thread."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
                cwd=ROOT, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def start(self, name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str]) -> OwnProcess:
        """Start `python -m MODULE`, as `OwnProcess` would."""
        return _Child(self, name, command, log, environment)

    def ask(self, **question: Any) -> Any:
        """One question, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End all children that still run, and the nursery."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Child(OwnProcess):
    """A process of the nursery."""

    def __init__(
        self, nursery: Nursery, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name, self.log = name, log
        pid = nursery.ask(start=command[-1], log=str(log), environment=dict(environment))
        self._process = _Handle(nursery, pid)  # type: ignore[assignment]


class _Handle:
    """What `OwnProcess` needs of a process that is not a child of ours."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        if self._exit_code is None:
            self._exit_code = self._nursery.ask(poll=self.pid)
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        until_s = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until_s is not None and time.monotonic() > until_s:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_TICK_S)
        return code

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)  # it is not waited for before `poll` has told its end

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _serve() -> None:
    """Do as told, until nobody tells any more."""
    import worker.commands
    import worker.service  # noqa: F401 - what children need not import again

    running: set[int] = set()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        answer: int | None
        if "start" in question:
            answer = _fork(question["start"], question["log"], question["environment"])
            running.add(answer)
        else:
            answer = _exit_code(question["poll"])
            if answer is not None:
                running.discard(question["poll"])
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _fork(module: str, log: str, environment: dict[str, str]) -> int:
    pid = os.fork()
    return pid or _run(module, log, environment)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(module: str, log: str, environment: dict[str, str]) -> NoReturn:
    """Be a process of its own."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(number, target)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module]
    code = 70
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of the process, as the interpreter has it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
