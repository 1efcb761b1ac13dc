"""What the rest of the project asks of a Kafka client: a source of batches and a publisher. Knows no client library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from transport.messages import Batch, OutgoingMessage, Partition, RebalanceCounts


class Source(Protocol):
    """One member of a consumer group, polled from one thread.

    Partitions come and go only inside `poll` and `close`. A batch is open from its poll until it is `done` or
    gone back to; several may be open at once, and a partition's committable offset never passes an open batch.
    """

    start_paused: bool
    """Whether partitions that are newly assigned wait for `resume`; may be changed between two polls."""

    before_release: Callable[[], None] | None
    """What commits instead, where offsets travel in transactions: called before partitions with offsets to commit are
    given up, on a thread of the client, while `poll` or `close` waits. Must end in bounded time, and never raise."""

    def poll(self, *, within_s: float | None = None) -> Batch | None:
        """Return the next messages, or None where there are none.

        Waits at most `poll_timeout_s`, or `within_s` where that is less, plus `connect_timeout_s` while there is no
        connection yet, plus `commit_timeout_s` where partitions have to be given up. A broker that is away is no error:
        it looks like a quiet topic, and `last_answer_age_s` grows.

        Raises:
            Forbidden: The operator must see to access rights or credentials.
            ConfigurationRefused: The operator must see to a setting.
            OffsetOutOfRange: The committed offset does not exist (any more).
            TransportError: Anything else that polling again will not mend.
        """

    def done(self, batch: Batch) -> None:
        """Declare a batch finished: its offsets may be committed. Partitions that were lost meanwhile are passed over.

        Raises:
            ValueError: The batch is not open: it was done or gone back to before.
        """

    def go_back(self) -> None:
        """Close every open batch and read again, in each partition still owned, from the first offset that is not done.

        Partitions without an open batch stay where they are. Needs no broker.
        """

    def go_back_to_commit(self) -> None:
        """The same from the first offset that is not committed: batches that are done are not done any more."""

    def committable(self) -> dict[Partition, int]:
        """Return the offsets that are done and not yet committed, of partitions still owned."""

    def commit(self, offsets: Mapping[Partition, int], through: Transactions | None = None) -> None:
        """Commit offsets through the group, in at most `commit_timeout_s`; partitions not owned are left out.

        Args:
            offsets: What is done.
            through: Commit them in the open transaction and end it, instead: see `Transactions.commit`.

        Raises:
            CommitRefused: The group is moving, or has put this member out.
            BrokerUnavailable: No answer in time; the offsets stay committable.
            Forbidden: The operator must see to access rights.
            ConfigurationRefused: Another process has taken over this member's static name. This is the only sign of
                it: the client goes on reading partitions that are no longer its own.
        """

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of offsets that were committed by other means, such as a transaction that was in doubt."""

    def is_committed(self, offsets: Mapping[Partition, int]) -> bool:
        """Ask the broker whether the group has committed all of these offsets, or later ones.

        Raises:
            BrokerUnavailable: No answer in time.
        """

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions owned since the last poll."""

    def lag(self) -> dict[Partition, int]:
        """Return how many offsets lie between the first not done and the end, as of the last fetch, without asking."""

    def generations(self) -> dict[Partition, int]:
        """Return for each owned partition a number that changes whenever it is newly assigned, and only then.

        A partition that was lost and came back between two looks has another number than before.
        """

    def position(self, partition: Partition) -> int | None:
        """Return the offset from which on nothing is done, without asking: where reading goes on after `go_back`.

        That is the first offset of the first open batch, else what the next poll would read first: of a partition
        newly assigned its committed offset, or where `start_at` put it. Paused partitions have one like all others.

        Returns:
            None where the partition is not owned, or where its position is not found yet: the polls find it.
        """

    def pause(self, partitions: Collection[Partition]) -> None:
        """Let `poll` pass over these partitions, as long as they stay owned; those not owned are left out."""

    def resume(self, partitions: Collection[Partition]) -> None:
        """Undo `pause`, or `start_paused` until the partition is newly assigned; those not owned are left out."""

    @property
    def last_answer_age_s(self) -> float:
        """Seconds since the broker last answered anything; since the source was made, where it never did."""

    @property
    def rebalances(self) -> RebalanceCounts:
        """How often partitions came and went."""

    def close(self) -> None:
        """Commit what is done (unless `commit_on_release` is off) and leave the group, each in bounded time.

        Never raises because of the broker, and may be called again.
        """


class Publisher(Protocol):
    """Something that messages can be given to, and that says when the broker has them."""

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """Return when every message is acknowledged by all in-sync replicas; nothing to do for no messages.

        Waits at most `publish_timeout_s` in all. After a failure, nothing of this call is still on its way when
        the next one begins.

        Raises:
            MessageTooLarge: One is larger than `max_message_bytes`; nothing was sent.
            PublishFailed: At least one is not acknowledged. Others may be delivered.
            Forbidden: The operator must see to access rights or credentials.
            ConfigurationRefused: The operator must see to a setting.
        """

    def close(self) -> None:
        """Let go of the connection in bounded time; may be called again."""


class Transactions(Publisher, Protocol):
    """A publisher whose messages are seen, by readers of committed messages, when a transaction is committed.

    A transaction begins with the first message after the last one ended, and is open until it is committed or
    aborted; a message that is not acknowledged has spoilt it, and all that can be done is `abort`.
    """

    def commit(self, offsets: Mapping[Any, Any], group: Any) -> None:
        """Commit the open transaction with offsets in the client's own form: `Source.commit` calls this."""

    def settle(self) -> None:
        """Let the broker end a transaction that is in doubt, one way or the other, in at most `publish_timeout_s`.

        Raises:
            BrokerUnavailable: No answer in time; it is still in doubt.
            Forbidden: The operator must see to access rights.
        """

    def abort(self) -> None:
        """Abort the open transaction, if there is one, in bounded time.

        Where no broker answers, it is aborted before the next one begins, or when `transaction_timeout_s` is over.
        """
