"""Dead letters sent back to where they came from, each once; it decides which, and knows no command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from transport import OutgoingMessage, Publisher
from worker.letters import ATTEMPTS, REDRIVE_OF, Letter, Letters, Redriven, Selection, mark_message

MOST_ATTEMPTS = 3
"""How often a record is redriven before it takes force."""

_CHUNK_LETTERS = 500
_CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Orders:
    """What is to be done.

    Attributes:
        selection: Which letters.
        to: Where to; None for the topic that each came from.
        limit: Redrive at most so many; None for all.
        max_attempts: Refuse records that were redriven so often already, and failed again.
        force: Redrive these as well.
        keep_timestamps: Give messages the timestamps that the records had, instead of the time of redriving.
    """

    selection: Selection = field(default_factory=Selection)
    to: str | None = None
    limit: int | None = None
    max_attempts: int = MOST_ATTEMPTS
    force: bool = False
    keep_timestamps: bool = False

    def target(self, letter: Letter) -> str:
        """Where a letter goes."""
        return self.to or letter.original.topic


@dataclass
class Tally:
    """What would be redriven, or was.

    Attributes:
        letters: Letters by where they go; of a run, those that were acknowledged and marked.
        already: Selected letters that had been redriven before.
        refused: Selected letters that are not redriven, by why.
        passed_over: Messages that are no dead letters of ours.
        size_bytes: Bytes of the letters.
        stopped: Whether somebody asked to stop before the end.
    """

    letters: Counter[str] = field(default_factory=Counter)
    already: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    passed_over: int = 0
    size_bytes: int = 0
    stopped: bool = False


def refusal(letter: Letter, orders: Orders, dead_letter_topic: str) -> str | None:
    """Why a letter is not redriven, None where it is."""
    if letter.truncated:
        return f"truncated: the {letter.truncated.replace(',', ' and the ')} did not fit the topic, and is gone"
    if orders.target(letter) == dead_letter_topic:
        return "its target is the dead-letter topic itself"
    # The first failure was no redrive.
    if letter.attempts > orders.max_attempts and not orders.force:
        return f"redriven {letter.attempts - 1} times already (--max-attempts {orders.max_attempts}, or --force)"
    return None


def message_of(letter: Letter, orders: Orders) -> OutgoingMessage:
    """The record as it came, to be read once more.

    Key, value and headers are the original's. Back to its own topic it goes to its own partition, whatever partitioner
    its sender used, so that it stays with the others of its entity; to another topic as its key says.
    """
    first = letter.redrive_of or letter.original
    counted = ((ATTEMPTS, str(letter.attempts).encode()), (REDRIVE_OF, str(first).encode()))
    target = orders.target(letter)
    timestamp_ms = letter.original_timestamp_ms
    return OutgoingMessage(
        target,
        letter.key,
        letter.value,
        (*letter.own_headers, *counted),
        timestamp_ms=timestamp_ms if orders.keep_timestamps and timestamp_ms >= 0 else None,
        partition=letter.original.partition if target == letter.original.topic else None,
    )


def plan(letters: Letters, orders: Orders) -> Tally:
    """What `redrive` would do.

    Raises:
        TransportError: The broker does not answer, or refuses.
    """
    tally = Tally()
    for letter in _waiting(letters, orders, letters.redriven(), tally):
        tally.letters[orders.target(letter)] += 1
        tally.size_bytes += letter.size_bytes
    return tally


def redrive(
    letters: Letters,
    orders: Orders,
    publisher: Publisher,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    stopped: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Publish letters as they came, and note on their topic which were, after each few hundred.

    A letter that was redriven to a topic is not sent there again. Where this dies between the acknowledgement of some
    and their mark, these few hundred are sent again by the next run, with equal `dlq.redrive_of`.

    Args:
        letters: The dead-letter topic.
        orders: What is to be done.
        publisher: Publishes records and marks.
        now: The time.
        stopped: Whether to end after what is in hand.
        on_progress: Called after each few hundred letters with all so far.

    Raises:
        PublishFailed: Something was not acknowledged. `on_progress` has told what was, and another run goes on there.
        TransportError: The broker does not answer, or refuses.
    """
    tally = Tally()
    waiting = _waiting(letters, orders, letters.redriven(), tally)
    checked: set[str] = set()
    for chunk in _chunks(waiting):
        if stopped():
            return replace(tally, stopped=True)
        targets = {orders.target(letter) for letter in chunk}
        # Where marks cannot be written, nothing may be sent: each run would send it again.
        publisher.publish(
            [mark_message(letters.topic, chunk[0].partition, to, [], now=now()) for to in sorted(targets - checked)]
        )
        checked |= targets
        publisher.publish([message_of(letter, orders) for letter in chunk])
        publisher.publish(_marks(letters.topic, chunk, orders, now()))
        tally.letters.update(orders.target(letter) for letter in chunk)
        tally.size_bytes += sum(letter.size_bytes for letter in chunk)
        on_progress(tally)
    return tally


def _marks(topic: str, chunk: Sequence[Letter], orders: Orders, now: datetime) -> list[OutgoingMessage]:
    offsets: dict[tuple[int, str], list[int]] = {}
    for letter in chunk:
        offsets.setdefault((letter.partition, orders.target(letter)), []).append(letter.offset)
    return [mark_message(topic, partition, to, found, now=now) for (partition, to), found in offsets.items()]


def _waiting(letters: Letters, orders: Orders, redriven: Redriven, tally: Tally) -> Iterator[Letter]:
    """The letters to redrive; the others are counted."""
    given = 0
    for letter in letters:
        if letter is None:
            tally.passed_over += 1
        elif orders.selection.takes(letter):
            if redriven.has(letter, orders.target(letter)):
                tally.already += 1
            elif (why := refusal(letter, orders, letters.topic)) is not None:
                tally.refused[why] += 1
            elif orders.limit is None or given < orders.limit:
                given += 1
                yield letter
            else:
                return


def _chunks(letters: Iterator[Letter]) -> Iterator[list[Letter]]:
    chunk: list[Letter] = []
    size_bytes = 0
    for letter in letters:
        chunk.append(letter)
        size_bytes += letter.size_bytes
        if len(chunk) >= _CHUNK_LETTERS or size_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk
