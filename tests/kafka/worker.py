"""The worker as a process of its own against a real broker, seen from outside: metrics, health, exit code, log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from prometheus_client.parser import text_string_to_metric_families

from demo.processes import OwnProcess, free_port

ROOT = Path(__file__).resolve().parent.parent.parent

QUICK = {
    "poll_timeout_s": 0.5,  # kafka-python begins a join again that ends between two polls: leave it time within one
    "session_timeout_s": 6.0,
    "heartbeat_interval_s": 0.5,
    "reload_interval_s": 0.2,
    "commit_interval_s": 0.2,
    "retry_max_s": 1.0,
}
"""Settings under which joins, retries and reloads take tenths of a second."""


class WorkerProcess:
    """`python -m worker` with the given settings. Use as a context manager, so that it never outlives us."""

    def __init__(
        self,
        directory: Path,
        *,
        bootstrap_servers: str,
        topic: str,
        models: Path,
        name: str = "worker",
        command: tuple[str, ...] = ("-m", "worker"),
        variables: Mapping[str, str] | None = None,
        processes: Callable[..., OwnProcess] = OwnProcess,
        **settings: Any,
    ) -> None:
        """Start it. Settings become OFFBEAT_ variables; `kafka__...` reaches a nested one, None leaves the default.

        `command` is Python's and may run the worker in another way, `variables` are what that reads from its
        environment beside the settings, and `processes` starts it.
        """
        self.port = free_port()
        chosen = QUICK | settings
        chosen |= {"input_topics": topic, "models": models, "http__port": self.port}
        chosen |= {"kafka__bootstrap_servers": bootstrap_servers}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OFFBEAT_")}
        environment |= {f"OFFBEAT_{key.upper()}": str(value) for key, value in chosen.items() if value is not None}
        environment |= {"PYTHONPATH": str(ROOT), **(variables or {})}
        self.log = directory / f"{name}-{self.port}.log"
        self.process = processes(name, [sys.executable, *command], self.log, environment=environment)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """What `/statusz` says."""
        content: dict[str, Any] = json.loads(self.get("/statusz")[1])
        return content

    def samples(self) -> dict[tuple[str, Mapping[str, str]], float]:
        """Every sample of `/metrics`, by name and labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {(s.name, _Labels(s.labels)): s.value for family in families for s in family.samples}

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name that carry these labels."""
        return sum(
            value for (found, own), value in self.samples().items() if found == name and labels.items() <= own.items()
        )

    def outcomes(self) -> Counter[str]:
        """Records by what became of them."""
        return Counter(
            {
                labels["outcome"]: int(value)
                for (name, labels), value in self.samples().items()
                if name == "offbeat_records_total"
            }
        )

    def peak_memory_bytes(self) -> int:
        """Most resident memory that it has had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    def cpu_s(self) -> float:
        """Processor time that it has used so far, all its threads together."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def wait_until(self, ready: Callable[[Self], bool], what: str, timeout_s: float = 120.0) -> Self:
        """Return when `ready` says so.

        Raises:
            AssertionError: It ended, or that did not happen in time.
        """
        until = time.monotonic() + timeout_s
        while not ready(self):
            if self.process.exit_code is not None or time.monotonic() > until:
                end = f"exit code {self.process.exit_code}" if self.process.exit_code is not None else "still running"
                raise AssertionError(f"no {what} within {timeout_s:g} s ({end}); {self.process.last_words()}")
            time.sleep(0.05)
        return self

    def wait_until_ready(self) -> Self:
        """Return when `/readyz` says so."""
        return self.wait_until(lambda worker: worker.get("/readyz")[0] == 200, "readiness")

    def wait_until_accounted(self, records: int, timeout_s: float = 120.0) -> Self:
        """Return when it has accounted for that many records, or more."""
        return self.wait_until(lambda worker: worker.outcomes().total() >= records, f"{records} outcomes", timeout_s)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL."""
        os.kill(self.process.pid, signal.SIGKILL)
        while self.process.exit_code is None:
            time.sleep(0.01)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ask it to end as an operator would (SIGTERM) and return its exit code."""
        return self.process.stop(timeout_s)

    def wait_for_exit(self, timeout_s: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        until = time.monotonic() + timeout_s
        while self.process.exit_code is None:
            if time.monotonic() > until:
                raise AssertionError(f"the worker did not exit within {timeout_s:g} s; {self.process.last_words()}")
            time.sleep(0.05)
        return self.process.exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.stop(timeout_s=10.0)


class _Labels(dict[str, str]):
    """Labels of a sample, as part of a key."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))
