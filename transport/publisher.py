"""Publishing over kafka-python: returns when acknowledged. Knows nothing about what is in a message."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from transport.connection import Connection, client_configuration, milliseconds
from transport.errors import MessageTooLarge, PublishFailed, TransportError
from transport.messages import OutgoingMessage
from transport.settings import KafkaSettings, PublisherSettings
from transport.translation import is_passing, translated

logger = logging.getLogger(__name__)

_BATCH_BYTES = 128 * 2**10

# How long to wait for a broken producer's thread to end; nothing of it is delivered after that it is told to.
_FAREWELL_S = 1.0

# The broker's view of an idempotent producer and the producer's own no longer agree: a new producer begins anew.
_BROKEN_STATE = (
    kafka_errors.DuplicateSequenceNumberError,
    kafka_errors.IllegalStateError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.InvalidProducerIdMappingError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.ProducerFencedError,
    kafka_errors.UnknownProducerIdError,
)

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class KafkaPublisher:
    """The publisher over kafka-python: idempotent, acknowledged by all in-sync replicas.

    Making it needs no broker; `publish` connects. A producer that failed is thrown away, with all that it still
    held, and the next `publish` begins with a new one: messages of a failed call never arrive after messages of
    a later one. It never holds more than `max_unacknowledged_bytes` that were sent and not acknowledged, unless a
    single message is larger; `unacknowledged_bytes`, how many these are, may be read from any thread.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: PublisherSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., Any] = KafkaProducer,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._clock = clock
        self._connect = connect
        self._connection = Connection(clock)
        self._producer: Any = None
        self._closed = False
        self.unacknowledged_bytes = 0

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """See `Publisher.publish`."""
        if not messages:
            return
        if self._closed:
            raise ValueError("the publisher is closed: make a new one to go on publishing")
        sizes = self._check(messages)
        deadline = self._clock() + self._settings.publish_timeout_s
        topic = messages[0].topic
        knows_partitions_afresh = self._producer is None
        try:
            producer = self._connected(deadline)
            waiting: deque[tuple[str, int, Any]] = deque()  # topic, size and acknowledgement
            for message, size_bytes in zip(messages, sizes, strict=True):
                # The producer itself keeps all that it is given, however much that is.
                while waiting and self.unacknowledged_bytes + size_bytes > self._settings.max_unacknowledged_bytes:
                    topic = waiting[0][0]
                    self._await_oldest(waiting, deadline)
                topic = message.topic
                # Sending waits for nothing but what is known about the topic.
                producer.config["max_block_ms"] = milliseconds(self._remaining_s(deadline))
                try:
                    waiting.append((topic, size_bytes, producer.send(**_arguments(message))))
                    self.unacknowledged_bytes += size_bytes
                except ValueError as error:
                    if message.partition is None:
                        raise
                    raise self._no_such_partition(message, retriable=not knows_partitions_afresh) from error
            while waiting:
                topic = waiting[0][0]
                self._await_oldest(waiting, deadline)
        except KafkaError as error:
            failure = self._failure(error, topic)
            self._drop()
            raise failure from error
        except BaseException:
            self._drop()
            raise

    def _await_oldest(self, waiting: deque[tuple[str, int, Any]], deadline: float) -> None:
        """Wait for the acknowledgement of the message that was sent first."""
        _, size_bytes, acknowledgement = waiting[0]
        acknowledgement.get(timeout=self._remaining_s(deadline))
        waiting.popleft()
        self.unacknowledged_bytes -= size_bytes

    def close(self) -> None:
        """See `Publisher.close`."""
        self._closed = True
        self._drop()

    def _check(self, messages: Sequence[OutgoingMessage]) -> list[int]:
        """The messages' sizes, all of which are right."""
        limit = self._settings.max_message_bytes
        sizes = [message.size_bytes for message in messages]
        for index, message in enumerate(messages):
            if sizes[index] > limit:
                raise MessageTooLarge(index=index, topic=message.topic, size_bytes=sizes[index], limit_bytes=limit)
            if message.key is None and message.value is None:
                raise ValueError(f"message {index} for topic {message.topic!r} has neither key nor value: give one")
            if message.partition is not None and message.partition < 0:
                raise ValueError(
                    f"message {index} for topic {message.topic!r} names partition {message.partition}: give a number "
                    f"from 0 on, or None to leave it to the key"
                )
        return sizes

    def _connected(self, deadline: float) -> Any:
        if self._producer is None:
            self._connection = Connection(self._clock)
            try:
                self._producer = self._connect(**self._configuration(deadline), kafka_client=self._connection)
            except KafkaError:
                self._connection.close()
                raise
        return self._producer

    def _configuration(self, deadline: float) -> dict[str, Any]:
        settings = self._settings
        linger_ms = round(settings.linger_s * 1000)
        request_ms = milliseconds(min(self._kafka.request_timeout_s, settings.publish_timeout_s))
        connect_s = min(self._kafka.connect_timeout_s, self._remaining_s(deadline))
        return client_configuration(self._kafka) | {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "linger_ms": linger_ms,
            "batch_size": _BATCH_BYTES,
            "max_request_size": max(settings.max_message_bytes, 2**20),
            "request_timeout_ms": request_ms,
            "delivery_timeout_ms": linger_ms + request_ms + milliseconds(settings.publish_timeout_s),
            "bootstrap_timeout_ms": milliseconds(connect_s),
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }

    def _remaining_s(self, deadline: float) -> float:
        return max(0.0, deadline - self._clock())

    def _failure(self, error: KafkaError, topic: str) -> TransportError:
        doing = f"publish to topic {topic!r}"
        if isinstance(error, kafka_errors.KafkaTimeoutError) and self._is_unknown(topic):
            return PublishFailed(
                f"could not {doing}: the broker answers and knows no such topic, and topics are not created by "
                f"themselves; create it, or correct its name",
                retriable=False,
                topic=topic,
            )
        if isinstance(error, _TOO_LARGE):
            return PublishFailed(
                f"could not {doing}: the broker takes only smaller messages there ({error!r}); raise the topic's "
                f"max.message.bytes, or lower max_message_bytes below it",
                retriable=False,
                topic=topic,
            )
        if isinstance(error, kafka_errors.InvalidTimestampError):
            return PublishFailed(
                f"could not {doing}: the broker does not take our timestamps ({error!r}), as this machine's clock is "
                f"further from the broker's than message.timestamp.after.max.ms allows; set it right, and trying "
                f"again helps",
                retriable=True,
                topic=topic,
            )
        if is_passing(error) or isinstance(error, _BROKEN_STATE):
            return PublishFailed(
                f"could not {doing} within {self._settings.publish_timeout_s:g} s: {error!r}; trying again can help",
                retriable=True,
                topic=topic,
            )
        ours = translated(error, doing)
        if type(ours) is TransportError:
            return PublishFailed(str(ours), retriable=False, topic=topic)
        return ours

    def _no_such_partition(self, message: OutgoingMessage, *, retriable: bool) -> PublishFailed:
        # What a producer knows of its topics may be older than the partition; the next one asks first.
        return PublishFailed(
            f"could not publish to partition {message.partition} of topic {message.topic!r}: the topic has only "
            f"partitions {sorted(self._connection.partitions_of(message.topic))}; add partitions to it",
            retriable=retriable,
            topic=message.topic,
        )

    def _is_unknown(self, topic: str) -> bool:
        """Whether the broker has told this producer that it has no such topic."""
        return self._producer is not None and self._connection.is_unknown(topic)

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        self.unacknowledged_bytes = 0
        if producer is None:
            return
        # Closing alone would first wait for all that is still on its way, and leave it on its way when it gives up.
        producer._sender.force_close()  # noqa: SLF001
        with contextlib.suppress(KafkaError):
            producer.close(timeout=_FAREWELL_S)


def _arguments(message: OutgoingMessage) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "key": message.key,
        "value": message.value,
        "headers": list(message.headers),
        "timestamp_ms": message.timestamp_ms,
        "partition": message.partition,
    }
