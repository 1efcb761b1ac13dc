"""The life of a worker process: settings in, parts made and joined, the loop run, everything closed again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

import torch
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from detector import Detector
from transport import (
    BrokerUnavailable,
    KafkaPublisher,
    KafkaSource,
    KafkaTransactions,
    Publisher,
    PublisherSettings,
    Source,
    SourceSettings,
    Transactions,
    missing_topics,
)
from worker.broker import Broker
from worker.clock import Clock, Stop
from worker.delivery import AtLeastOnce, Delivery, ExactlyOnce
from worker.errors import NoModel, SettingsRefused
from worker.health import HealthServer
from worker.histories import Histories
from worker.loop import Worker
from worker.metrics import WorkerMetrics
from worker.models import Model, Models
from worker.settings import WorkerSettings
from worker.status import Status

logger = logging.getLogger(__name__)

_LOOK_FOR_FIRST_MODEL_S = 1.0


def serve(settings: WorkerSettings, *, stop: Stop, clock: Clock | None = None) -> None:
    """Run a worker until `stop` is requested: finish the batch, commit, leave the group.

    Raises:
        NoModel: No version of the detector could be loaded within `model_wait_s`.
        SettingsRefused: The address for metrics is taken, `detector` is ambiguous, or a topic to publish to is missing.
        PoisonStream: Most records are poison.
        TransportError: Something that only an operator can mend.
    """
    clock = clock or Clock()
    torch.set_num_threads(1)  # what scoring asks for; set here, it need not be set and reset around every batch
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second sample for every counter, which nobody asked for
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    metrics = WorkerMetrics(registry)
    metrics.build.labels(worker_version()).set(1)
    status = Status(clock, stall_limit_s=settings.max_poll_interval_s, silence_limit_s=settings.http.silence_limit_s)
    models = Models(settings.models, settings.detector, clock=clock, metrics=metrics)

    with ExitStack() as parts:
        try:
            health = HealthServer(settings.http.host, settings.http.port, registry=registry, status=status)
        except OSError as error:
            raise SettingsRefused(
                f"http.host {settings.http.host}, http.port {settings.http.port}: cannot listen there ({error}): "
                "give another port, or 0 for a free one"
            ) from error
        health.start()
        parts.callback(health.close)
        logger.info("metrics and health are served. address=%s", health.address)

        model = wait_for_model(models, settings, status=status, stop=stop, clock=clock)
        if model is None:
            return  # asked to stop before there was anything to do
        parts.callback(models.close)
        models.start(settings.reload_interval_s)
        group_id = settings.group_id or f"offbeat-{model.detector.name}"
        check_topics(settings)
        # Closed in the opposite order: the source first, which may still commit.
        publisher = KafkaPublisher(settings.kafka, publisher_settings(settings))
        parts.callback(publisher.close)
        transactions = KafkaTransactions(
            settings.kafka, publisher_settings(settings), transactional_id(settings, group_id)
        )
        parts.callback(transactions.close)
        source = KafkaSource(settings.kafka, source_settings(settings, group_id))
        parts.callback(source.close)
        worker = Worker(
            source=source,
            delivery=delivery_of(settings, source, publisher, transactions),
            models=models,
            histories_of=histories_of(
                settings,
                state_topic(settings),
                publisher=publisher,
                metrics=metrics,
                clock=clock,
                version_of=models.version,
            ),
            settings=settings,
            group_id=group_id,
            version=worker_version(),
            metrics=metrics,
            status=status,
            clock=clock,
            stop=stop,
        )
        gc.collect()
        gc.freeze()  # the model and the libraries stay: no collection has to look at them again
        logger.info(
            "the worker reads %s and alerts on %s. group=%s detector=%s version=%s",
            ", ".join(settings.input_topics),
            settings.alerts_to,
            group_id,
            model.detector.name,
            model.version,
        )
        with _farewell(status):
            worker.run()


def wait_for_model(
    models: Models, settings: WorkerSettings, *, status: Status, stop: Stop, clock: Clock
) -> Model | None:
    """Wait until a first model is in use; None when asked to stop meanwhile.

    Raises:
        NoModel: There is none after `model_wait_s`.
        SettingsRefused: There are several detectors and `detector` does not say which.
    """
    status.state = "waiting_for_model"
    deadline_s = clock.monotonic_s() + settings.model_wait_s
    told = False
    while not stop.is_set():
        models.refresh()
        models.swap()
        if models.current is not None:
            status.model = models.current.describe()
            status.state = "starting"
            return models.current
        if clock.monotonic_s() >= deadline_s:
            raise NoModel(
                f"models: no version of a detector could be loaded from {models.place} within model_wait_s "
                f"({settings.model_wait_s:g} s): `offbeat train DATA --stream stream.toml --models {settings.models}` "
                "publishes one, `offbeat models list` shows what there is"
            )
        if not told:
            logger.warning("there is no model yet; no record is read before there is one. place=%s", models.place)
            told = True
        stop.wait(_LOOK_FOR_FIRST_MODEL_S)
        status.tick()
    return None


def check_topics(settings: WorkerSettings, *, missing_of: Callable[..., list[str]] = missing_topics) -> None:
    """Look for topics that do not exist, before anything is read: they are not created by themselves.

    An input topic may come later, and is waited for; without one of the others the first message would end the worker.
    Where no broker answers, the worker goes on and waits for it.

    Raises:
        SettingsRefused: A topic to publish to does not exist.
    """
    outputs = {"alert_topic": settings.alerts_to, "dead_letter_topic": settings.dead_letters_to}
    if settings.score_topic is not None:
        outputs["score_topic"] = settings.score_topic
    try:
        missing = set(missing_of(settings.kafka, [*settings.input_topics, *outputs.values()]))
    except BrokerUnavailable as error:
        logger.warning("topics could not be checked: %s; the worker goes on and waits for the broker", error)
        return
    if wrong := [f"{name}: topic {topic!r} does not exist" for name, topic in outputs.items() if topic in missing]:
        raise SettingsRefused(
            f"{'; '.join(wrong)}: none is created by itself: create it (kafka-topics.sh --create), or mend the name"
        )
    for topic in sorted(missing):
        logger.warning(
            "input topic %s does not exist yet; nothing is read from it before it does. topic=%s", topic, topic
        )


def histories_of(
    settings: WorkerSettings, state_topic: str | None, *, publisher: Publisher, metrics: WorkerMetrics, clock: Clock,
    broker: Broker | None = None, version_of: Callable[[str], Detector | None] = lambda _: None,
) -> Callable[[Model, bool], Histories]:  # fmt: skip
    """Makes the histories of a model: of the one in use, or (False) of one that is coming."""
    broker = broker or Broker(settings.kafka, max_batch_records=settings.max_batch_records)

    def make(model: Model, runs: bool) -> Histories:  # noqa: FBT001 - the loop's signature
        return Histories(
            model.detector, begin=model.begin, settings=settings, state_topic=state_topic, broker=broker,
            publisher=publisher, metrics=metrics,
            clock=clock, runs=runs, version_of=version_of,
        )  # fmt: skip

    return make


def state_topic(settings: WorkerSettings, *, broker: Broker | None = None) -> str | None:
    """The topic of histories where it exists, None where a worker does without; says what is odd about its settings.

    Raises:
        SettingsRefused: `state.topic` names a topic that does not exist.
    """
    topic = settings.state_to
    broker = broker or Broker(settings.kafka)
    try:
        if missing_topics(settings.kafka, [topic], **broker.admin):
            if settings.state.topic is not None:
                raise SettingsRefused(
                    f"state.topic: topic {topic!r} does not exist: create it, compacted and with as many partitions as "
                    "the input topic (kafka-topics.sh --create --config cleanup.policy=compact), or mend the name"
                )
            logger.warning(
                "topic %s does not exist, so histories of entities are not written: where the model has any, a restart "
                "replays the input as far as state.warm_up says. topic=%s",
                topic, topic,
            )  # fmt: skip
            return None
        configuration = broker.configuration(topic)
        retentions_ms = {
            name: int(broker.configuration(name).get("retention.ms", "-1")) for name in settings.input_topics
        }
    except BrokerUnavailable as error:
        logger.warning(
            "the topic of histories could not be checked: %s; the worker goes on with it. topic=%s", error, topic
        )
        return topic
    if "compact" not in configuration.get("cleanup.policy", "compact"):
        logger.warning(
            "topic %s is not compacted: it grows without end, or loses histories: set cleanup.policy=compact. topic=%s",
            topic, topic,
        )  # fmt: skip
    needed_s = max(2 * settings.state.rotation_s, settings.state.warm_up_s or 0)
    for name, retention_ms in retentions_ms.items():
        if 0 <= retention_ms < needed_s * 1000:
            logger.warning(
                "topic %s keeps records for %.0f s, and a restart may want to replay %.0f s of them (state.rotation_s, "
                "state.warm_up): keep records longer, or write histories more often. topic=%s",
                name, retention_ms / 1000, needed_s, name,
            )  # fmt: skip
    return topic


def delivery_of(settings: WorkerSettings, source: Source, publisher: Publisher, transactions: Transactions) -> Delivery:
    """How the worker publishes, as the settings say; of the two publishers only those that are used connect."""
    if settings.delivery == "exactly_once":
        return ExactlyOnce(source, transactions)
    return AtLeastOnce(source, publisher)


def transactional_id(settings: WorkerSettings, group_id: str) -> str:
    """Unique to this process, and beginning with the group's name; a static member's next process has the same.

    So a static member that comes back ends what its predecessor left open, and any other waits for the broker to.
    """
    return f"{group_id}-{settings.group_instance_id or uuid4()}"


def source_settings(settings: WorkerSettings, group_id: str) -> SourceSettings:
    """The part of the settings that the source needs."""
    shared = SourceSettings.model_fields.keys() & WorkerSettings.model_fields.keys()
    values = {name: getattr(settings, name) for name in shared}
    own = {"topics": settings.input_topics, "group_id": group_id}
    return SourceSettings(**values | own, commit_on_release=settings.delivery == "at_least_once")


def publisher_settings(settings: WorkerSettings) -> PublisherSettings:
    """The part of the settings that the publisher needs."""
    shared = PublisherSettings.model_fields.keys() & WorkerSettings.model_fields.keys()
    return PublisherSettings(**{name: getattr(settings, name) for name in shared})


def worker_version() -> str:
    """The version of offbeat that runs."""
    try:
        return version("offbeat")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


@contextmanager
def _farewell(status: Status) -> Iterator[None]:
    try:
        yield
    finally:
        counts = " ".join(f"{name}={count}" for name, count in status.counts.items())
        logger.info("the worker leaves the group. %s", counts)
