"""offbeat's own commands as child processes, started as a user would start them, and seen only from outside."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from demo.errors import ProcessFailed
from demo.processes import OwnProcess, free_port
from demo.tally import Account

_ROOT = Path(__file__).parent.parent
_POLL_S = 0.1


def run_command(arguments: Sequence[str]) -> None:
    """Run `offbeat ARGUMENTS` with our terminal and wait for its end.

    Raises:
        ProcessFailed: It did not exit with 0.
    """
    done = subprocess.run([sys.executable, "-m", "offbeat", *arguments], env=_environment(), check=False)
    if done.returncode != 0:
        raise ProcessFailed(f"`offbeat {' '.join(arguments)}` exited with {done.returncode}: see what it said above")


class DemoWorker:
    """`offbeat work` as a process of its own. Use as a context manager, so that it never outlives us."""

    def __init__(self, directory: Path, *, bootstrap_servers: str, topic: str, models: Path) -> None:
        """Write its settings to `directory`/worker.toml and start it; what it logs goes to worker.log beside them."""
        self.port = free_port()
        self.settings = directory / "worker.toml"
        self.group_id = f"offbeat-{topic}"
        self.settings.write_text(
            _SETTINGS.format(
                topic=topic,
                group_id=self.group_id,
                models=_toml_text(str(models)),
                bootstrap_servers=bootstrap_servers,
                port=self.port,
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "offbeat", "work", "--config", str(self.settings)]
        self.process = OwnProcess("worker", command, directory / "worker.log", environment=_environment())

    @property
    def address(self) -> str:
        """Where its metrics and health are served."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when `/readyz` says so.

        Raises:
            ProcessFailed: It ended, or did not become ready in time.
        """
        self._wait(self._is_ready, timeout_s, "become ready")

    def wait_until_consumed(self, records: int, timeout_s: float) -> None:
        """Return when it has accounted for that many records, or more.

        Raises:
            ProcessFailed: It ended, or did not get that far in time.
        """
        self._wait(lambda: self.account().consumed >= records, timeout_s, f"get through {records} records")

    def account(self) -> Account:
        """Return what became of the records so far, by its metrics.

        Raises:
            ProcessFailed: It has ended, or does not answer.
        """
        status, body = self._get("/metrics")
        if status != http.HTTPStatus.OK:
            self.process.check()
            raise ProcessFailed(f"the worker does not serve its metrics on {self.address}; {self.process.last_words()}")
        return account_of(body)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end as an operator would (SIGTERM) and return its exit code."""
        return self.process.stop(timeout_s)

    def _is_ready(self) -> bool:
        return self._get("/readyz")[0] == http.HTTPStatus.OK

    def _wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        until = time.monotonic() + timeout_s
        while not ready():
            self.process.check()
            if time.monotonic() > until:
                raise ProcessFailed(f"the worker did not {what} within {timeout_s:g} s; {self.process.last_words()}")
            time.sleep(_POLL_S)

    def _get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(timeout_s=10.0)


def account_of(exposition: str) -> Account:
    """Read the worker's account of its records from what `/metrics` says."""
    counts: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            label = _BY_LABEL.get(sample.name)
            if label is not None:
                by_label = counts.setdefault(sample.name, {})
                by_label[sample.labels[label]] = by_label.get(sample.labels[label], 0) + int(sample.value)
    consumed, outcomes, dead_letters, suppressed = (counts.get(name, {}) for name in _BY_LABEL)
    return Account(
        consumed=sum(consumed.values()),
        outcomes=outcomes,
        dead_letters={reason: count for reason, count in dead_letters.items() if count},
        suppressed={reason: count for reason, count in suppressed.items() if count},
    )


_BY_LABEL = {
    "offbeat_records_consumed_total": "topic",
    "offbeat_records_total": "outcome",
    "offbeat_dead_letters_total": "reason",
    "offbeat_records_suppressed_total": "reason",
}

_SETTINGS = """\
# Settings of the tour's worker: `offbeat work --config worker.toml`. `offbeat config` lists all there are.

input_topics = ["{topic}"]
group_id = "{group_id}"
models = {models}
poll_timeout_s = 0.1
session_timeout_s = 6           # low, so that joining the group takes seconds
heartbeat_interval_s = 0.5

[kafka]
bootstrap_servers = "{bootstrap_servers}"

[http]
port = {port}
"""


def _toml_text(text: str) -> str:
    escaped = "".join(f"\\u{ord(c):04x}" if c in '"\\' or ord(c) < 32 else c for c in text)
    return f'"{escaped}"'


def _environment() -> dict[str, str]:
    """Our environment for a child: it finds offbeat where we did, and no OFFBEAT_ variable bends the tour."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFBEAT_")}
    path = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
