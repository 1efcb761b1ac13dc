"""The tour: history, training, a worker, a live stream, alerts, and an account of it all, in one command."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from demo.broker import EmbeddedBroker, broker_binary
from demo.children import DemoWorker, run_command
from demo.comparison import alerts_of, fit_without_history
from demo.errors import PromiseBroken
from demo.files import write_days
from demo.reader import AlertReader
from demo.show import Show, truth_of
from demo.simulator import Simulator
from demo.tally import broken_promises, detection, latency_quantiles
from demo.wire import deliveries, feed, first_messages
from transport import KafkaPublisher, PublisherSettings, create_topics
from transport.groups import committed_offsets

if TYPE_CHECKING:
    from detector import Detector

TOPIC = "transactions"
ALERT_TOPIC = f"{TOPIC}.alerts"
DEAD_LETTER_TOPIC = f"{TOPIC}.dlq"
PARTITIONS = 3
DAMAGED_SHARE = 0.002
STREAM_DEFINITION = Path(__file__).with_name("stream.toml")

_READY_WITHIN_S = 90.0
_DRAINED_WITHIN_S = 60.0
_ALERTS_WITHIN_S = 15.0
_COMMITTED_WITHIN_S = 5.0
_STOPPED_WITHIN_S = 30.0


@dataclass(frozen=True)
class TourSettings:
    """How long and how fast the tour is, and where it leaves its files."""

    seconds: float = 40.0
    rate: float = 1_000.0  # live records a second
    seed: int = 0
    customers: int = 2_500
    history_days: int = 28
    directory: Path | None = None  # a temporary one, removed at the end, where None
    keep: bool = False  # leave broker and worker running until Ctrl-C


def run_tour(settings: TourSettings, console: Console) -> None:
    """Run the tour; return when all its promises held, with every process that it started ended.

    Raises:
        BrokerNotInstalled: The embedded broker is not there.
        ProcessFailed: The trainer, the worker or the broker did not do their part.
        PromiseBroken: The figures contradict a promise.
        TransportError: The embedded broker refused something.
        KeyboardInterrupt: Somebody ended the tour; nothing is left running.
    """
    show = Show(console)
    broker_binary()  # before minutes are spent on what needs it
    with _ended_by_signals(), _directory(settings) as directory:
        simulator = Simulator(settings.seed, settings.customers)
        without_history = _train(show, simulator, settings, directory)
        show.step("Start an embedded broker and the worker, each a process of its own")
        with EmbeddedBroker(directory / "broker.log") as broker:
            create_topics(broker.kafka, {TOPIC: PARTITIONS, ALERT_TOPIC: 1, DEAD_LETTER_TOPIC: 1}, replication_factor=1)
            show.note(f"broker on {broker.address}, memory only, loopback only; log in {directory / 'broker.log'}")
            worker = DemoWorker(directory, bootstrap_servers=broker.address, topic=TOPIC, models=directory / "models")
            with worker:
                show.note(f"worker: offbeat work --config {worker.settings}; metrics on {worker.address}/metrics")
                worker.wait_until_ready(_READY_WITHIN_S)
                _Live(show, simulator, settings, broker, worker, without_history).run()


class _Live:
    """The live part of the tour: feed, watch, stop, account."""

    def __init__(
        self,
        show: Show,
        simulator: Simulator,
        settings: TourSettings,
        broker: EmbeddedBroker,
        worker: DemoWorker,
        without_history: Detector,
    ) -> None:
        self._show, self._settings, self._broker, self._worker = show, settings, broker, worker
        self._without_history = without_history
        self._first_day = settings.history_days
        stream = deliveries(simulator, self._first_day, damaged_share=DAMAGED_SHARE)
        self._delivery = first_messages(stream, max(1, round(settings.seconds * settings.rate)))
        self._kinds = dict(zip(self._delivery.transaction_ids, self._delivery.fraud_kinds, strict=True))

    def run(self) -> None:
        """Feed the stream, show what comes of it, and hold it against the promises."""
        delivery, worker = self._delivery, self._worker
        with AlertReader(self._broker.kafka, ALERT_TOPIC) as reader:
            seconds = self._feed(reader)
            worker.wait_until_consumed(len(delivery), _DRAINED_WITHIN_S)
            account = worker.account()
            self._read_the_rest(reader, account.outcomes.get("alert", 0))
        exit_code = None if self._settings.keep else self._stop()
        committed = self._committed(len(delivery))
        self._show.summary(
            sent=len(delivery),
            seconds=seconds,
            account=account,
            committed=committed,
            latency=latency_quantiles(reader.seen),
            detection=detection(delivery, reader.seen, alerts_of(self._without_history, delivery)),
        )
        broken = broken_promises(delivery, account, reader.seen, committed)
        if not broken:
            self._show.note("Every record is accounted for: sent = consumed = sum of all outcomes = committed.")
        if exit_code is None:
            self._stay()
            exit_code = self._stop()
        if exit_code != 0:
            broken.append(f"the worker exited with {exit_code}; {worker.process.last_words()}")
        if broken:
            raise PromiseBroken("\n".join(broken))

    def _feed(self, reader: AlertReader) -> float:
        delivery, show, rate = self._delivery, self._show, self._settings.rate
        days = int(delivery.transaction_ids[-1][:4]) - self._first_day + 1
        show.step(f"Feed {len(delivery):,} live payments at {rate:,.0f} a second: {days} days pass in time lapse")
        publisher = KafkaPublisher(self._broker.kafka, PublisherSettings())
        began = time.monotonic()
        try:
            with show.sending(len(delivery)) as advance:

                def sent(count: int) -> bool:
                    self._worker.process.check()
                    self._show_alerts(reader)
                    advance(count, len(reader.seen))
                    return True

                feed(publisher, TOPIC, delivery, rate=rate, clock=time.monotonic, sleep=time.sleep, sent=sent)
        finally:
            publisher.close()
        return time.monotonic() - began

    def _read_the_rest(self, reader: AlertReader, expected: int) -> None:
        """Wait for the alerts that the worker has published and we have not read yet."""
        until = time.monotonic() + _ALERTS_WITHIN_S
        while len({alert.alert_id for alert in reader.seen}) < expected and time.monotonic() < until:
            self._show_alerts(reader)
            time.sleep(0.05)
        self._show_alerts(reader)

    def _show_alerts(self, reader: AlertReader) -> None:
        for alert in reader.take():
            self._show.alert(alert, truth_of(self._kinds.get(alert["record_id"])))

    def _committed(self, expected: int) -> int:
        """Return what the group has committed, which a worker that runs on does within moments of having done it."""
        until = time.monotonic() + _COMMITTED_WITHIN_S
        while True:
            committed = sum(committed_offsets(self._broker.kafka, self._worker.group_id, TOPIC).values())
            if committed == expected or time.monotonic() > until:
                return committed
            time.sleep(0.2)

    def _stop(self) -> int:
        self._show.step("Stop the worker (SIGTERM)")
        exit_code = self._worker.stop(_STOPPED_WITHIN_S)
        self._show.note(f"exit code {exit_code}")
        return exit_code

    def _stay(self) -> None:
        """Leave all running, say how to use it, and return at Ctrl-C."""
        broker, worker = self._broker.address, self._worker.address
        next_day = int(self._delivery.transaction_ids[-1][:4]) + 1
        more = (
            f"offbeat simulate --topic {TOPIC} --bootstrap-servers {broker} "
            f"--seed {self._settings.seed} --first-day {next_day} --rate 200"
        )
        self._show.step("All is left running; Ctrl-C ends it")
        self._show.addresses(
            [
                ("broker", broker),
                ("topics", f"{TOPIC}, {ALERT_TOPIC}, {DEAD_LETTER_TOPIC}"),
                ("worker", f"{worker}/metrics /livez /readyz /statusz"),
                ("log", str(self._worker.process.log)),
                ("status", f"offbeat status --url {worker}"),
                ("read alerts", f"kcat -b {broker} -t {ALERT_TOPIC}  # or any other Kafka consumer"),
                ("send more", more),
            ]
        )
        try:
            while True:
                self._worker.process.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return


def _train(show: Show, simulator: Simulator, settings: TourSettings, directory: Path) -> Detector:
    """Leave history and models in the directory; return a detector without history to compare with."""
    show.step(f"Simulate {settings.history_days} days of card payments of {settings.customers:,} customers")
    history, stream, models = directory / "history.parquet", directory / "stream.toml", directory / "models"
    count = write_days(history, simulator.days(0, settings.history_days))
    shutil.copyfile(STREAM_DEFINITION, stream)
    show.note(f"{count:,} payments, about six in a thousand a fraud; the trainer keeps those out of the fit")
    show.step("Train an autoencoder on the normal ones")
    command = ["train", str(history), "--stream", str(stream), "--models", str(models), "--promote", "--with-state"]
    show.note(f"offbeat {' '.join(command)}")
    run_command(command)
    show.step("Train another that remembers nothing of a customer's earlier payments, to compare")
    return fit_without_history(history, stream)


@contextmanager
def _directory(settings: TourSettings) -> Iterator[Path]:
    """The given directory; else a temporary one that goes away, unless something failed and it can tell why."""
    if settings.directory is not None:
        settings.directory.mkdir(parents=True, exist_ok=True)
        yield settings.directory.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="offbeat-demo-"))
    try:
        yield directory
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the tour as Ctrl-C does, so that no process of ours stays behind."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
