"""How kafka-python's clients are set up and listened to. Knows no topic, group or message."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.protocol.consumer.fetch import FetchRequest
from kafka.protocol.metadata import MetadataRequest

from transport.client_logs import keep_contents_out_of_logs
from transport.refusals import Approach, Refused, refusal
from transport.secrets import FilePassword, Password, secret
from transport.settings import KafkaSettings
from transport.tls import TlsFiles
from transport.tokens import token_provider
from transport.translation import translated

keep_contents_out_of_logs()


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
        self._unknown: frozenset[str] = frozenset()
        self._last_answer_s = clock()
        self._last_question_s = clock()
        self._client: Any = None
        self._refusal: Refused | None = None
        self.answered = False

    def __call__(self, **configuration: Any) -> Any:
        """Make the network client; kafka-python calls this."""
        keep_contents_out_of_logs()
        return self.use(_ListeningClient(self._note_exchange, self._note_refusal, **configuration))

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

    def note_unknown(self, topics: Iterable[str]) -> None:
        """Take note of the topics that a broker, asked about topics, did not know."""
        self._unknown = frozenset(topics)

    def is_unknown(self, topic: str) -> bool:
        """Whether a broker has said, when it was asked about topics last, that this one does not exist."""
        return topic in self._unknown

    def _note_exchange(self, request: Any, response: Any) -> None:
        self.note_answer(response)
        if isinstance(request, MetadataRequest):
            self.note_unknown(
                topic.name for topic in response.topics if topic.error_code == UnknownTopicOrPartitionError.errno
            )
        if self._notes_voids and isinstance(request, FetchRequest):
            for partition, first, end in _voids(request, response):
                self.note_void(partition, first, end)

    def _note_refusal(self, refused: Refused) -> None:
        self._refusal = refused

    def check(self) -> None:
        """Raise what no retry mends, of what this client has been told so far.

        kafka-python raises neither to who polls: a refused connection is a broker that is away to it, and topics that
        our user may not see are never assigned.

        Raises:
            Forbidden: Credentials, certificates, or topics that our user may not see.
            ConfigurationRefused: A setting.
        """
        if self._refusal is not None:
            raise self._refusal.ours
        if self._client is not None and self._client.cluster.unauthorized_topics:
            error = TopicAuthorizationFailedError(self._client.cluster.unauthorized_topics)
            raise translated(error, "look at topics") from error

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

    def identity_of(self, topic: str) -> str | None:
        """Return what tells a topic from another of the same name, as far as it is known, without asking."""
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


class _Manager(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's connections, from which a refusal is heard and that wait for no broker without an end.

    In kafka-python 3.0.12, each with a test on a real broker:

    - A sign-in that a broker refuses, and a handshake whose certificates do not hold, count as a broker that is away,
      and are tried for ever.
    - A broker that accepts a connection and then says nothing holds a TLS handshake up for ever.
    - What a broker says before it hangs up is dropped, and with it why it does not let us in.
    - A client that never came to a broker says only that it ran out of time.
    """

    def __init__(self, net: Any, on_refusal: Callable[[Refused], None], **configuration: Any) -> None:
        super().__init__(net, **configuration)
        self._on_refusal = on_refusal
        self._last_failure: BaseException | None = None

    async def _connect(self, node: Any, conn: Any, **arguments: Any) -> None:
        password = conn.config["sasl_plain_password"]
        if isinstance(password, FilePassword):
            conn.config["sasl_plain_password"] = password.again()
        await super()._connect(node, conn, **arguments)
        if not conn.init_future.failed():
            conn.close_future.add_errback(self._note_failure)
            return
        self._note_failure(conn.init_future.exception)
        refused = refusal(self._last_failure, f"broker {node.host}:{node.port}", self._approach)
        if refused is not None:
            # Raised from now on by everything that wants a connection to this broker.
            self._auth_failures[node.node_id] = refused
            self._on_refusal(refused)
        self.update_backoff(node.node_id)

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        sock = await create_connection(
            self._net, node.host, node.port, self.config["socket_options"], timeout_at=timeout_at
        )
        if not self.ssl_enabled:
            return _TcpTransport(self._net, sock, host=node.host)
        transport = None
        try:
            transport = _TlsTransport(self._net, sock, host=node.host, ssl_context=self.config["ssl_context"])
            await transport.shake_hands(timeout_at)
        except (OSError, KafkaTimeoutError) as error:
            if transport is None:
                sock.close()
            else:
                transport.abort(error)
            raise KafkaConnectionError(f"no TLS handshake with {node.host}:{node.port}: {error}") from error
        return transport

    async def _do_bootstrap(self, deadline: float | None) -> Any:
        try:
            return await super()._do_bootstrap(deadline)
        except KafkaTimeoutError as error:
            if self._last_failure is None:
                raise
            raise KafkaTimeoutError(
                f"{error.args[0]}; the last attempt ended with {self._last_failure}: where every attempt ends so, does "
                f"the port speak {self.config['security_protocol']}, as security_protocol says?"
            ) from error

    def _note_failure(self, error: BaseException) -> None:
        self._last_failure = error

    @property
    def _approach(self) -> Approach:
        signs_in = self.config["security_protocol"].startswith("SASL")
        tls = self.config["ssl_context"]
        tokens = self.config["sasl_oauth_token_provider"]
        password = self.config["sasl_plain_password"]
        credentials = (
            ("sasl_password_file" if isinstance(password, FilePassword) else "sasl_password")
            if tokens is None
            else tokens.setting
        )
        return Approach(
            protocol=self.config["security_protocol"],
            mechanism=self.config["sasl_mechanism"] if signs_in else None,
            shows_certificate=isinstance(tls, TlsFiles) and tls.shows_certificate,
            credentials=credentials,
        )


class _LastWords:
    """Hears out who speaks and hangs up at once, as brokers do that refuse: kafka-python drops the last words."""

    def _sock_recv(self) -> tuple[bytes, Any]:
        data, error = super()._sock_recv()  # type: ignore[misc]  # of the transport
        return (data, None) if data else (data, error)  # the next call meets the end again


class _TcpTransport(_LastWords, KafkaTCPTransport):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's connection without encryption."""


class _TlsTransport(_LastWords, KafkaSSLTransport):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's connection with TLS, whose handshake has a time limit."""

    async def shake_hands(self, timeout_at: float | None) -> None:
        while True:
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, timeout_at)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, timeout_at)
            else:
                return


class _ListeningClient(KafkaNetClient):  # type: ignore[misc]  # kafka-python has no types
    """kafka-python's network client, with an ear on the answers."""

    def __init__(
        self, on_answer: Callable[[Any, Any], None], on_refusal: Callable[[Refused], None], **configuration: Any
    ) -> None:
        net = NetworkSelector(**configuration)
        super().__init__(net, _Manager(net, on_refusal, **configuration))
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
        ConfigurationRefused: A certificate, a key or a file with a secret cannot be read. kafka-python would count
            that as a broker that is away, and try for ever.
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
        configuration["ssl_context"] = TlsFiles(kafka)
    if kafka.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        configuration |= {"sasl_mechanism": kafka.sasl_mechanism} | _credentials(kafka)
    return configuration


def check_files(kafka: KafkaSettings) -> None:
    """Read what the settings name, certificates and files with secrets, without going anywhere.

    Raises:
        ConfigurationRefused: One of them cannot be read; says which.
    """
    client_configuration(kafka)


def _credentials(kafka: KafkaSettings) -> dict[str, Any]:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return {"sasl_oauth_token_provider": token_provider(kafka)}
    password = (
        Password(secret(kafka, "sasl_password"))
        if kafka.sasl_password_file is None
        else FilePassword.read(kafka.sasl_password_file, setting="sasl_password_file")
    )
    return {"sasl_plain_username": kafka.sasl_username, "sasl_plain_password": password}


def milliseconds(seconds: float) -> int:
    """Return at least one millisecond: kafka-python takes 0 for "do not wait at all"."""
    return max(1, round(seconds * 1000))
