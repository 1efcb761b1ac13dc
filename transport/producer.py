"""kafka-python's producer, whose transactions end in bounded time. Knows nothing about what is in a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.structs import OffsetAndMetadata

from transport.connection import milliseconds

# As in Kafka's own client, where kafka-python waits .1 s: while the end of a transaction is still being written, the
# broker refuses the first message of the next one, and no other message of this producer is sent in the meantime.
_RETRY_MS = 20


class Producer(KafkaProducer):  # type: ignore[misc]  # kafka-python has no types
    """`kafka.KafkaProducer` with time limits where it has none.

    `send_offsets_to_transaction`, `commit_transaction` and `abort_transaction` of kafka-python 3.0.12 wait for ever for
    a broker that is away. What they wait for can be waited for with a limit.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._sender.config["retry_backoff_ms"] = _RETRY_MS

    def send_offsets(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: Any, *, timeout_s: float
    ) -> None:
        """Make offsets a part of the open transaction.

        Args:
            offsets: What the group is to commit.
            group: The membership, as the consumer's `group_metadata()` gives it.
            timeout_s: Wait at most so long.

        Raises:
            KafkaError: They are not a part of it, or no broker answered in time.
        """
        self._wait(self._transaction_manager.send_offsets_to_transaction(offsets, group), timeout_s)

    def end(self, *, commit: bool, timeout_s: float) -> None:
        """Commit or abort the open transaction.

        Raises:
            KafkaError: It did not end, or ended otherwise, or no broker said in time.
        """
        manager = self._transaction_manager
        self._wait(manager.begin_commit() if commit else manager.begin_abort(), timeout_s)

    @property
    def cause(self) -> Exception | None:
        """What the open transaction failed of: later errors only say that it failed."""
        error: Exception | None = self._transaction_manager.last_error
        return error

    def _wait(self, result: Any, timeout_s: float) -> None:
        self._sender.wakeup()
        if not result.wait(timeout_ms=milliseconds(timeout_s)):
            raise KafkaTimeoutError(f"no answer within {timeout_s:.1f} s")
