"""How kafka-python's clients are set up and listened to. Knows no topic, group or message."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

from kafka import TopicPartition
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.protocol.consumer.fetch import FetchRequest

from transport.errors import ConfigurationRefused
from transport.settings import KafkaSettings


class Connection:
    """Makes the network client that a consumer or producer runs on, and knows when a broker last answered.

    An empty poll looks the same whether the topic is quiet or the broker is gone, so the age of the last answer
    is taken where answers arrive: every response to a request of this client counts (fetches, which a broker
    answers at least twice a second while partitions are assigned, heartbeats, metadata, commits), and nothing
    else does. Connecting does not: a hung broker still accepts connections.

    Give it to a consumer or producer as `kafka_client`.

    Args:
        clock: Seconds that only grow.
        notes_voids: Whether to look into the answers to fetches for what `void` tells. Only a consumer that was told
            to do without incremental fetch sessions gets answers that name every partition asked for.
    """

    def __init__(self, clock: Callable[[], float], *, notes_voids: bool = False) -> None:
        self._clock = clock
        self._notes_voids = notes_voids
        self._voids: dict[TopicPartition, tuple[int, int]] = {}
        self._last_answer_s = clock()
        self._last_question_s = clock()
        self._client: Any = None
        self.answered = False

    def __call__(self, **configuration: Any) -> Any:
        """Make the network client; kafka-python calls this."""
        return self.use(_ListeningClient(self._note_exchange, **configuration))

    def use(self, client: Any) -> Any:
        """Take a network client made elsewhere, which calls `note_answer` itself; return it."""
        self._client = client
        return client

    def note_answer(self, _response: object = None) -> None:
        """Take note that a broker has just answered."""
        self._last_answer_s = self._clock()
        self.answered = True

    def note_void(self, partition: TopicPartition, first: int, end: int) -> None:
        """Take note that a broker had nothing to give between two offsets of a partition, all of which may be read."""
        self._voids[partition] = (first, end)

    def void(self, partition: TopicPartition) -> tuple[int, int]:
        """Return the stretch [first, end) in which the last fetch that gave nothing has found nothing.

        What compaction removed from the end of a log leaves offsets that no message will ever have, and that the
        client's position does not get past.
        """
        return self._voids.get(partition, (0, 0))

    def _note_exchange(self, request: Any, response: Any) -> None:
        self.note_answer(response)
        if self._notes_voids and isinstance(request, FetchRequest):
            for partition, first, end in _voids(request, response):
                self.note_void(partition, first, end)

    @property
    def last_answer_age_s(self) -> float:
        """Seconds since a broker last answered, or since this object was made."""
        return max(0.0, self._clock() - self._last_answer_s)

    def ask_if_silent(self, silence_s: float) -> None:
        """Ask for metadata if nothing was answered for so long, at most once in that time. Does not wait.

        A client that waits for its group to rebalance may have nothing else to say for minutes.
        """
        now = self._clock()
        if self._client is not None and now - max(self._last_answer_s, self._last_question_s) >= silence_s:
            self._last_question_s = now
            self._client.cluster.request_update()

    def partitions_of(self, topic: str) -> set[int]:
        """Return the numbers of a topic's partitions as far as they are known, without asking."""
        return set(self._client.cluster.partitions_for_topic(topic) or ())

    def topic_identity(self, topic: str) -> str | None:
        """Return Kafka's own id of a topic as far as it is known, without asking; older brokers do not tell."""
        identity = self._client.cluster.topic_id(topic)
        return None if identity is None else str(identity)

    async def within(self, timeout_s: float, future: Any) -> Any:
        """Await one of the client's futures on its own thread; KafkaTimeoutError if it takes longer."""
        return await self._client.within(timeout_s, future)

    def close(self) -> None:
        """Close the network client; needed only where the consumer or producer around it was never made."""
        if self._client is not None:
            self._client.close()
            self._client = None


class _ListeningClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's network client, with an ear on the answers."""

    def __init__(self, on_answer: Callable[[Any, Any], None], **configuration: Any) -> None:
        super().__init__(**configuration)
        send = self._manager.send

        def send_and_listen(request: Any, node_id: Any = None, request_timeout_ms: Any = None) -> Future:
            future = send(request, node_id=node_id, request_timeout_ms=request_timeout_ms)
            future.add_callback(on_answer, request)
            return future

        # Consumer, coordinator, fetcher and producer all send through this one method of the manager.
        self._manager.send = send_and_listen

    async def within(self, timeout_s: float, future: Future) -> Any:
        return await self._manager.wait_for(future, milliseconds(timeout_s))


def _voids(request: Any, response: Any) -> Iterator[tuple[TopicPartition, int, int]]:
    """Give the partitions of a fetch in which a broker found nothing: from the offset asked for to the end to read.

    The end is the last stable offset for who reads committed messages only, as the broker saw it before it read.
    """
    asked = {
        TopicPartition(topic.topic, partition.partition): partition.fetch_offset
        for topic in request.topics
        for partition in topic.partitions
    }
    for topic in response.responses:
        for answer in topic.partitions:
            partition = TopicPartition(topic.topic, answer.partition_index)
            # An answer that sends us elsewhere is empty too.
            elsewhere = answer.diverging_epoch is not None or (answer.preferred_read_replica or -1) >= 0
            if answer.error_code == 0 and not answer.records and not elsewhere and partition in asked:
                end = answer.last_stable_offset if request.isolation_level else answer.high_watermark
                yield partition, asked[partition], end


def client_configuration(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the settings under kafka-python's names; holds secrets in the clear, so never log it.

    Raises:
        ConfigurationRefused: A certificate or key cannot be read. kafka-python would count that as a broker that
            is away, and try for ever.
    """
    configuration: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "client_id": kafka.client_id,
        "security_protocol": kafka.security_protocol,
        "bootstrap_timeout_ms": milliseconds(kafka.connect_timeout_s),
        "request_timeout_ms": milliseconds(kafka.request_timeout_s),
        "reconnect_backoff_max_ms": milliseconds(kafka.reconnect_backoff_max_s),
        "metadata_max_age_ms": milliseconds(kafka.metadata_max_age_s),
    }
    if kafka.security_protocol in ("SSL", "SASL_SSL"):
        configuration["ssl_context"] = _tls(kafka)
    if kafka.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        configuration |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        }
    return configuration


def milliseconds(seconds: float) -> int:
    """Return at least one millisecond: kafka-python takes 0 for "do not wait at all"."""
    return max(1, round(seconds * 1000))


def _tls(kafka: KafkaSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = kafka.ssl_check_hostname
    try:
        if kafka.ssl_cafile is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(kafka.ssl_cafile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationRefused(
            f"ssl_cafile {kafka.ssl_cafile!r} holds no certificates that can be read ({error}): give a PEM file",
            setting="ssl_cafile",
        ) from error
    if kafka.ssl_certfile is not None:
        password = kafka.ssl_password.get_secret_value() if kafka.ssl_password else ""
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationRefused(
                f"ssl_certfile {kafka.ssl_certfile!r} and ssl_keyfile {kafka.ssl_keyfile!r} cannot be read together "
                f"({error}): give PEM files that belong together, and ssl_password if the key has one",
                setting="ssl_certfile",
            ) from error
    return context
