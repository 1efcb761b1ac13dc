"""Publishing in transactions over kafka-python: messages and offsets that become valid together, or never."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from transport.connection import milliseconds
from transport.errors import BrokerUnavailable, CommitInDoubt, CommitRefused, Forbidden, PublishFailed, TransportError
from transport.messages import OutgoingMessage
from transport.producer import Producer
from transport.publisher import KafkaPublisher
from transport.settings import KafkaSettings, PublisherSettings
from transport.translation import is_membership, translated

# How long to wait for an abort: readers of committed messages are free a little sooner, that is all.
_ABORT_S = 1.0

# The broker has ended the transaction by itself, for its age or with its coordinator.
_ABORTED = (kafka_errors.InvalidTxnStateError, kafka_errors.TransactionAbortedError)


class KafkaTransactions(KafkaPublisher):
    """The transactional publisher over kafka-python.

    A producer that failed is thrown away, and the next one with the same transactional id ends whatever the broker
    still holds open of it before it begins: what was not asked to be committed is aborted.

    Args:
        transactional_id: Unique to this process: a second one with the same id ends the transactions of the first.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: PublisherSettings,
        transactional_id: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., Any] = Producer,
    ) -> None:
        super().__init__(kafka, settings, clock=clock, connect=connect)
        self._transactional_id = transactional_id
        self._initialised = False
        self._open = False

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """See `Transactions.publish`."""
        super().publish(messages)

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: Any) -> None:
        """Commit the open transaction, or one that holds nothing but these offsets; `Source.commit` calls this.

        Waits at most twice `commit_timeout_s`, and where there is no producer as long as connecting takes.

        Raises:
            CommitRefused: The group did not take the offsets. Nothing of the transaction is committed.
            BrokerUnavailable: No answer in time. Nothing of the transaction is committed.
            CommitInDoubt: No answer in time, and it may be committed or not: see `settle`.
            Forbidden: The operator must see to access rights.
            ConfigurationRefused: Another process has taken over this member's static name.
        """
        if self._closed:
            raise ValueError("the publisher is closed: what was published in the open transaction is aborted")
        doing = f"commit offsets of group {group.group_id!r} in a transaction"
        try:
            producer = self._connected(self._clock() + self._settings.publish_timeout_s)
            producer.send_offsets(offsets, group, timeout_s=self._settings.commit_timeout_s)
        except KafkaError as error:
            refusal = self._refusal(error, doing)
            self.abort()
            raise refusal from error
        self._open = False
        try:
            producer.end(commit=True, timeout_s=self._settings.commit_timeout_s)
        except KafkaError as error:
            # Even a refusal may be the answer to a second attempt of the client, whose first one succeeded.
            self._drop()
            raise CommitInDoubt(
                f"could not learn whether the transaction that was to {doing} is committed ({error!r}): "
                "the broker is asked before anything else is done"
            ) from error

    def settle(self) -> None:
        """See `Transactions.settle`."""
        self._drop()
        try:
            self._initialise(self._clock() + self._settings.publish_timeout_s)
        except KafkaError as error:
            refusal = self._refusal(error, "end the transaction before")
            self._drop()
            raise refusal from error

    def abort(self) -> None:
        """See `Transactions.abort`."""
        if self._open and self._producer is not None:
            with contextlib.suppress(KafkaError):
                self._producer.end(commit=False, timeout_s=_ABORT_S)
                self._open = False
                return
        self._drop()

    def close(self) -> None:
        """See `Publisher.close`."""
        if self._open:
            self.abort()
        super().close()

    def _connected(self, deadline: float) -> Any:
        producer = self._initialise(deadline)
        if not self._open:
            producer.begin_transaction()
            self._open = True
        return producer

    def _initialise(self, deadline: float) -> Any:
        producer = super()._connected(deadline)
        if not self._initialised:
            producer.config["max_block_ms"] = milliseconds(self._remaining_s(deadline))
            producer.init_transactions()
            self._initialised = True
        return producer

    def _configuration(self, deadline: float) -> dict[str, Any]:
        return super()._configuration(deadline) | {
            "transactional_id": self._transactional_id,
            "transaction_timeout_ms": milliseconds(self._settings.transaction_timeout_s),
        }

    def _failure(self, error: KafkaError, topic: str) -> TransportError:
        error = self._cause(error)
        if isinstance(error, kafka_errors.TransactionalIdAuthorizationFailedError):
            return self._forbidden(f"publish to topic {topic!r}")
        if type(error) is KafkaError or isinstance(error, _ABORTED):
            return PublishFailed(
                f"could not publish to topic {topic!r}: the transaction was aborted ({error!r}); trying again can help",
                retriable=True,
                topic=topic,
            )
        return super()._failure(error, topic)

    def _refusal(self, error: KafkaError, doing: str) -> TransportError:
        error = self._cause(error)
        if isinstance(error, kafka_errors.TransactionalIdAuthorizationFailedError):
            return self._forbidden(doing)
        if is_membership(error):
            return CommitRefused(
                f"could not {doing} ({error!r}): the group has moved on, and nothing of the transaction is valid",
                evicted=kafka_errors.UnknownMemberIdError.__name__ in str(error),
            )
        ours = translated(error, doing)
        if type(ours) is TransportError:
            # Whatever state the client or the broker is in: the next producer begins anew.
            return BrokerUnavailable(f"could not {doing}: {error!r}; nothing of the transaction is valid")
        return ours

    def _cause(self, error: KafkaError) -> KafkaError:
        """What a transaction failed of, where an error only says that it did."""
        cause = None if self._producer is None or type(error) is not KafkaError else self._producer.cause
        return cause if isinstance(cause, KafkaError) else error

    def _forbidden(self, doing: str) -> Forbidden:
        return Forbidden(
            f"could not {doing}: no right to the transactional id {self._transactional_id!r}; grant Write and Describe "
            "on transactional ids that begin with the name of the group to our user, or set delivery to at_least_once",
            setting="delivery",
        )

    def _drop(self) -> None:
        self._initialised = self._open = False
        super()._drop()
