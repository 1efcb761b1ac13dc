"""How messages and offsets become valid: one after the other, or together in transactions. Knows no record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transport import (
    Batch,
    CommitInDoubt,
    OutgoingMessage,
    Partition,
    Publisher,
    Source,
    Transactions,
    TransportError,
)
from worker.histories import Applied
from worker.outcomes import Outcomes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Finished:
    """A batch that is done: what became of its records, and what it changed of what is remembered."""

    batch: Batch
    outcomes: Outcomes
    applied: Applied


@dataclass(frozen=True)
class Settlement:
    """What has become of finished batches since the last look.

    Attributes:
        valid: Batches whose messages and offsets are valid for good, in their order.
        void: Batches whose messages nobody will see, in their order; the source reads their records again.
        went_back: Whether the source has gone back, so that a batch that it gave since is not open any more.
    """

    valid: Sequence[Finished] = ()
    void: Sequence[Finished] = ()
    went_back: bool = False


class Delivery(Protocol):
    """How a worker publishes, and what it waits for before it takes a batch for done for good."""

    publishes_late: bool
    """Whether a batch that may have to be given back unpublished must not be published before it is done."""

    @property
    def holds(self) -> bool:
        """Whether some finished batches are not valid yet."""

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """Return when every message is acknowledged; see `Publisher.publish` for what it raises."""

    def hold(self, batch: Batch) -> None:
        """Take note of a batch that is judged, and finished later."""

    def finish(self, finished: Sequence[Finished]) -> Sequence[Finished]:
        """Take batches for done, whose messages are acknowledged; return those that are valid by now."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit what is done; see `Source.commit` for what it raises. `settle` tells what became of the batches."""

    def settle(self) -> Settlement:
        """Find out, asking the broker only where it must be asked, what has become of finished batches.

        To be called after each poll and each commit.

        Raises:
            BrokerUnavailable: It is not known yet, and nothing may be done before it is.
        """

    def go_back(self) -> Settlement:
        """Give back what is polled and not valid, after a publish failed."""


class AtLeastOnce:
    """Messages first, offsets later: what is published before a crash and not committed is published again."""

    publishes_late = False
    holds = False

    def __init__(self, source: Source, publisher: Publisher) -> None:
        self._source = source
        self._publisher = publisher

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """See `Delivery.publish`."""
        self._publisher.publish(messages)

    def hold(self, batch: Batch) -> None:
        """See `Delivery.hold`: whatever becomes of its partitions, what it published is published."""

    def finish(self, finished: Sequence[Finished]) -> Sequence[Finished]:
        """See `Delivery.finish`: acknowledged is valid."""
        for each in finished:
            self._source.done(each.batch)
        return finished

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """See `Delivery.commit`."""
        self._source.commit(offsets)

    def settle(self) -> Settlement:
        """See `Delivery.settle`."""
        return Settlement()

    def go_back(self) -> Settlement:
        """See `Delivery.go_back`."""
        self._source.go_back()
        return Settlement(went_back=True)


@dataclass
class ExactlyOnce:
    """Messages and offsets in one transaction for all batches since the last: they become valid together, or never.

    A transaction is void with any of its messages, with any of its partitions (another owner reads their records
    again from the last commit), and when the group or the broker refuses it: the source then goes back to the last
    commit. One whose end nobody told is in doubt until the broker is asked.
    """

    source: Source
    transactions: Transactions
    publishes_late: bool = True
    _open: list[Finished] = field(default_factory=list)
    _valid: list[Finished] = field(default_factory=list)
    _generations: dict[Partition, int] = field(default_factory=dict)  # of the partitions of open batches
    _held: dict[Partition, int] = field(default_factory=dict)  # of those of batches that are not finished yet
    _in_doubt: Mapping[Partition, int] | None = None
    _is_void: bool = False

    def __post_init__(self) -> None:
        self.source.before_release = self._commit_before_release

    @property
    def holds(self) -> bool:
        """See `Delivery.holds`."""
        return bool(self._open)

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        """See `Delivery.publish`: acknowledged, and seen by nobody who reads committed messages only."""
        try:
            self.transactions.publish(messages)
        except BaseException:
            self._is_void = True
            raise

    def hold(self, batch: Batch) -> None:
        """See `Delivery.hold`."""
        generations = self.source.generations()
        for partition in batch.partitions:
            self._held.setdefault(partition, generations.get(partition, -1))

    def finish(self, finished: Sequence[Finished]) -> Sequence[Finished]:
        """See `Delivery.finish`: none is valid before the commit."""
        for each in finished:
            self.source.done(each.batch)
            each.batch.drop_contents()  # to give it back the places of its messages are enough
            each.outcomes.messages.clear()
        self._open.extend(finished)
        self._generations = self._held | self._generations
        self._held = {}
        return ()

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """See `Delivery.commit`."""
        try:
            self.source.commit(offsets, through=self.transactions)
        except CommitInDoubt:
            self._in_doubt = offsets
            raise
        except BaseException:
            self._is_void = True
            raise
        self._now_valid()

    def settle(self) -> Settlement:
        """See `Delivery.settle`."""
        if self._in_doubt is not None:
            self.transactions.settle()
            if self.source.is_committed(self._in_doubt):
                self.source.committed(self._in_doubt)
                self._now_valid()
            else:
                self._is_void = True
            self._in_doubt = None
        if self._is_void or self._has_moved():
            return self.go_back()
        valid, self._valid = self._valid, []
        return Settlement(valid=valid)

    def go_back(self) -> Settlement:
        """See `Delivery.go_back`: to the last commit; while that is in doubt, only to what is finished."""
        if self._in_doubt is not None:
            self.source.go_back()
            return Settlement(went_back=True)
        self.transactions.abort()
        self.source.go_back_to_commit()
        valid, void = self._valid, self._open
        self._valid, self._open, self._is_void = [], [], False
        self._generations, self._held = {}, {}
        return Settlement(valid=valid, void=void, went_back=True)

    def _has_moved(self) -> bool:
        """Whether a partition of a finished or held batch is not owned any more, or newly assigned since."""
        owned = self.source.generations()
        noted = [*self._generations.items(), *self._held.items()]
        return any(owned.get(partition) != generation for partition, generation in noted)

    def _now_valid(self) -> None:
        self._valid.extend(self._open)
        self._open, self._generations = [], {}

    def _commit_before_release(self) -> None:
        """Commit in the middle of a poll, on a thread of the client: what is given up is read on by its new owner."""
        if self._is_void or self._in_doubt is not None or self._has_moved():
            return  # the offsets that are done are those of messages that may never be seen
        offsets = self.source.committable()
        try:
            self.commit(offsets)
        except TransportError as error:
            logger.warning(
                "partitions are given up and their transaction is not committed: %s; their new owner scores these "
                "records again, and nobody has seen what was published about them. offsets=%s",
                error,
                {str(partition): offset for partition, offset in offsets.items()},
            )
