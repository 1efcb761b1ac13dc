"""Apache Kafka's own server: one node in KRaft mode on loopback, started and stopped as tests and benchmarks need."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from transport import BrokerUnavailable, ConfigurationRefused, KafkaSettings, create_topics, missing_topics

POM = Path(__file__).with_name("pom.xml")

_START_TIMEOUT_S = 60.0
_FENCED_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0
_MAVEN_TIMEOUT_S = 600.0


def why_not() -> str | None:
    """Return what this machine lacks to run the broker, as a sentence that says what to install; None if nothing."""
    if shutil.which("java") is None:
        return "a real broker needs Java 17 or later: install a JRE (Debian: openjdk-17-jre-headless)"
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    match = re.search(r'version "(\d+)', answer.stderr)
    if match is None or int(match[1]) < 17:
        found = match[1] if match else "unknown"
        return f"a real broker needs Java 17 or later and java is version {found}: install openjdk-17-jre-headless"
    if _cached_jars() is None and shutil.which("mvn") is None:
        return "a real broker is fetched by Maven and mvn is not there: install it (Debian: maven)"
    return None


def kafka_version() -> str:
    """Return the version that the pom asks for."""
    match = re.search(r"<kafka.version>(.+?)</kafka.version>", POM.read_text())
    assert match is not None, f"{POM} has no kafka.version"
    return match[1]


def jars() -> Path:
    """Return the directory of the server's jars; fetch them from Maven Central if they were never fetched here."""
    cached = _cached_jars()
    if cached is not None:
        return cached
    home = _cache_home()
    home.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="fetching-", dir=home))
    try:
        subprocess.run(
            [
                "mvn",
                "-q",
                "-B",
                "-Dstyle.color=never",
                "-f",
                str(POM),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={fetched}/libs",
            ],
            check=True,
            timeout=_MAVEN_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        target = home / f"kafka-{kafka_version()}"
        try:
            (fetched / "libs").rename(target)
        except OSError:
            # Another run was faster; what it put there is as good.
            assert _cached_jars() is not None, f"{target} is there and holds no jars: remove it"
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return target


class KafkaBroker:
    """One broker with its data in a directory of its own, which goes with it.

    Use it as a context manager, or call `start` and `close`. `stop`, `kill` and `start` again keep port and data.
    """

    def __init__(
        self,
        *,
        heap_mb: int = 512,
        properties: dict[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
        ports: tuple[int, int] | None = None,
    ) -> None:
        """Prepare it; `start` starts it.

        Args:
            heap_mb: Memory of the JVM.
            properties: Settings of the server, beside those that every test needs.
            listeners: Security protocol of each listener beside the plain one, by its name in capitals.
            scram: Passwords by user, for the SCRAM mechanisms.
            ports: Of clients and of the controller; free ones unless given.
        """
        self._jars = jars()
        self._heap_mb = heap_mb
        self._directory = Path(tempfile.mkdtemp(prefix="offbeat-kafka-"))
        names = list(listeners or {})
        free_port, free_controller_port, *more = _free_ports(2 + len(names))
        self._port, controller_port = ports or (free_port, free_controller_port)
        self._ports = dict(zip(names, more, strict=True))
        self._scram = scram or {}
        self._log = self._directory / "server.log"
        self._configuration = self._directory / "server.properties"
        settings = _properties(self._port, controller_port, self._directory / "data")
        for name, port in self._ports.items():
            settings["listeners"] += f",{name}://127.0.0.1:{port}"
            settings["advertised.listeners"] += f",{name}://localhost:{port}"
            settings["listener.security.protocol.map"] += f",{name}:{(listeners or {})[name]}"
        settings |= properties or {}
        self._configuration.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self._process: subprocess.Popen[bytes] | None = None
        self._formatted = False

    @property
    def bootstrap_servers(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self._port}"

    def address_of(self, listener: str) -> str:
        """Where clients reach one of the listeners, by the name that its certificates bear."""
        return f"localhost:{self._ports[listener]}"

    @property
    def settings(self) -> KafkaSettings:
        """How clients reach it, impatient as tests are."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            connect_timeout_s=5.0,
            request_timeout_s=10.0,
            reconnect_backoff_max_s=0.2,
            metadata_max_age_s=2.0,
        )

    @property
    def pid(self) -> int:
        """The server's process id, while it runs."""
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        assert self._process is None, "the broker runs already"
        if not self._formatted:
            credentials = [
                f"--add-scram={mechanism}=[name={user},password={password}]"
                for user, password in self._scram.items()
                for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            ]
            self._run_tool(
                "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._configuration), *credentials
            )
            self._formatted = True
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java(), "kafka.Kafka", str(self._configuration)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._directory,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the broker did not come up; its last words:\n{self.last_words()}")
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Ask it to shut down (SIGTERM) and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it (SIGKILL): what a power cut is to it."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it hang (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it if it runs, and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def last_words(self, lines: int = 40) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:]) if self._log.exists() else ""

    def create_topic(self, name: str, partitions: int = 1, configuration: dict[str, str] | None = None) -> str:
        """Create a topic and return its name; a broker that stood still is fenced for a moment, and waited for."""
        deadline = time.monotonic() + _FENCED_TIMEOUT_S
        while True:
            try:
                create_topics(self.settings, {name: partitions}, configuration=configuration)
            except ConfigurationRefused as error:
                if "fenced" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return name

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=0.2):
                pass
            missing_topics(self.settings.model_copy(update={"connect_timeout_s": 1.0}), [])
        except (OSError, BrokerUnavailable):
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            if how is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_TIMEOUT_S)

    def _run_tool(self, *arguments: str) -> None:
        done = subprocess.run(
            [*self._java(), *arguments], capture_output=True, text=True, timeout=_START_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{arguments[0]} failed:\n{done.stdout}\n{done.stderr}")

    def _java(self) -> list[str]:
        return [
            "java",
            f"-Xmx{self._heap_mb}m",
            "-XX:TieredStopAtLevel=1" if self._heap_mb <= 512 else "-server",
            "-XX:+UseSerialGC" if self._heap_mb <= 512 else "-XX:+UseG1GC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{self._jars}/*",
        ]


# Any 16 bytes in base64; one cluster never meets another.
_CLUSTER_ID = "b2ZmYmVhdC10ZXN0cy0wMQ"


def _properties(port: int, controller_port: int, data: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        "default.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        # How often it looks for transactions that are too old: a killed worker's holds up its heir meanwhile.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "min.insync.replicas": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
        "log.retention.check.interval.ms": "1000",
        "log.segment.delete.delay.ms": "1000",
        "broker.heartbeat.interval.ms": "300",
        "broker.session.timeout.ms": "1500",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": "2097152",
    }


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "offbeat"


def _cached_jars() -> Path | None:
    directory = _cache_home() / f"kafka-{kafka_version()}"
    return directory if any(directory.glob("kafka_2.13-*.jar")) else None


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; a lock keeps two runs from being given the same ones at once."""
    home = _cache_home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sockets = [socket.socket() for _ in range(count)]
        try:
            for free in sockets:
                free.bind(("127.0.0.1", 0))
            return [int(free.getsockname()[1]) for free in sockets]
        finally:
            for free in sockets:
                free.close()
