"""Proves from what was read that every record got its outcome once; pure functions, which know neither Kafka nor time.

What goes in is the history of a run, as Jepsen has it: what a run without any disturbance would have published about
each record (`Expected`), what readers found on the output topics (`Delivery`), and what the group had committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Outcome = Literal["normal", "alert", "suppressed", "dead_letter", "tombstone"]
Output = Literal["score", "alert", "dead_letter"]
Promise = Literal["at_least_once", "exactly_once"]

_MOST_TOLD = 5


class Place(NamedTuple):
    """Which message of the input a record is: what `alert_id` is made of.

    Attributes:
        partition: Partition of the input topic.
        offset: Offset in it.
        timestamp_ms: The message's timestamp, which tells a topic from one that was created anew under its name.
    """

    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True)
class Expected:
    """What must come of one record.

    Attributes:
        place: Where it stands.
        incarnation: Which topic of that name it stands in, counted from 0.
        number: Its number in the recording.
        key: Its message key.
        outcome: What becomes of it.
        contents: What each output topic must say of it; an output that is not here must be silent about it.
    """

    place: Place
    incarnation: int
    number: int
    key: bytes | None
    outcome: Outcome
    contents: Mapping[Output, Hashable]


@dataclass(frozen=True)
class Delivery:
    """One message of an output topic.

    Attributes:
        output: Which output.
        place: The record that it is about.
        content: What it says, to be compared with what it must say.
        appended_ms: Its timestamp, milliseconds since 1970: of scores when the broker took it, by the broker's clock.
    """

    output: Output
    place: Place
    content: Hashable
    appended_ms: int


@dataclass(frozen=True)
class Findings:
    """What became of all records of a run.

    Attributes:
        records: Records of the input.
        outcomes: Records by what became of them, as the outputs tell; tombstones leave no trace and are taken as done
            where the committed offset is past them.
        lost: Messages that must be there and are not.
        duplicated: Messages beyond the first about the same record on the same output.
        longest_gap_s: Longest time between two first deliveries of scores of one partition while a record waited.
        moved_entities: Entities whose records stand in more than one partition or incarnation: their history began
            again there, in the run and in what was expected of it.
        violations: Each broken promise, in words; none where all was kept.
    """

    records: int
    outcomes: Counter[str]
    lost: int
    duplicated: int
    longest_gap_s: float
    moved_entities: int
    violations: tuple[str, ...]


def check(
    expected: Sequence[Expected],
    delivered: Sequence[Delivery],
    *,
    committed: Mapping[int, int],
    ends: Mapping[int, int],
    promise: Promise,
) -> Findings:
    """Compare what came of a run with what had to.

    Args:
        expected: Every record of the input.
        delivered: Every message of the outputs, those of one output partition in its order.
        committed: The group's committed offset of each partition.
        ends: The end of each partition of the input.
        promise: What was promised of repeats.
    """
    wanted = {each.place: each for each in expected}
    first, duplicated = _first_deliveries(delivered)
    missing = [(each, output) for each in expected for output in each.contents if (each.place, output) not in first]
    violations = [
        *_told("lost", [f"{output} of record {each.number} at {_shown(each.place)}" for each, output in missing]),
        *_told("not the record's", _misplaced(wanted, delivered)),
        *_told("different from the offline scorer", _different(wanted, delivered)),
        *_told("out of order", _out_of_order(wanted, delivered)),
        *_told("committed offsets", _uncommitted(committed, ends)),
    ]
    if duplicated and promise == "exactly_once":
        violations += _told("duplicated", _repeated(delivered))
    outcomes = _outcomes(wanted, first, committed, ends)
    if outcomes.total() != len(expected):
        violations.append(f"outcomes: {outcomes.total()} of {len(expected)} records have exactly one: {dict(outcomes)}")
    return Findings(
        records=len(expected),
        outcomes=outcomes,
        lost=len(missing),
        duplicated=duplicated,
        longest_gap_s=longest_gap_s(expected, first),
        moved_entities=_moved(expected),
        violations=tuple(violations),
    )


def longest_gap_s(expected: Iterable[Expected], first: Mapping[tuple[Place, Output], Delivery]) -> float:
    """The longest time in which a partition's records waited and none of them got its first score.

    Args:
        expected: The records; their timestamps say since when each waited.
        first: The first delivery of each record on each output.
    """
    by_partition: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for each in expected:
        delivery = first.get((each.place, "score"))
        if delivery is not None:
            times = (delivery.appended_ms, each.place.timestamp_ms)
            by_partition.setdefault((each.incarnation, each.place.partition), []).append(times)
    longest_ms = 0
    for deliveries in by_partition.values():
        before_ms = 0
        for appended_ms, arrived_ms in sorted(deliveries):
            longest_ms = max(longest_ms, appended_ms - max(before_ms, arrived_ms))
            before_ms = appended_ms
    return longest_ms / 1000


def _first_deliveries(delivered: Iterable[Delivery]) -> tuple[dict[tuple[Place, Output], Delivery], int]:
    first: dict[tuple[Place, Output], Delivery] = {}
    repeats = 0
    for delivery in delivered:
        repeats += (delivery.place, delivery.output) in first
        first.setdefault((delivery.place, delivery.output), delivery)
    return first, repeats


def _repeated(delivered: Iterable[Delivery]) -> list[str]:
    """Messages that were delivered before, and how long before: a zombie's come late, those of two owners together."""
    first_ms: dict[tuple[Place, Output], int] = {}
    repeats = []
    for delivery in delivered:
        which = (delivery.place, delivery.output)
        if which in first_ms:
            late_s = (delivery.appended_ms - first_ms[which]) / 1000
            repeats.append(f"{delivery.output} at {_shown(delivery.place)}, {late_s:.3f} s after the first")
        first_ms.setdefault(which, delivery.appended_ms)
    return repeats


def _misplaced(wanted: Mapping[Place, Expected], delivered: Iterable[Delivery]) -> list[str]:
    """Messages about records that do not exist, or that should have had another outcome."""
    wrong = []
    for delivery in delivered:
        expected = wanted.get(delivery.place)
        if expected is None:
            wrong.append(f"{delivery.output} at {_shown(delivery.place)}, where no record stands")
        elif delivery.output not in expected.contents:
            wrong.append(
                f"{delivery.output} of record {expected.number} at {_shown(delivery.place)}, "
                f"which is {expected.outcome}"
            )
    return wrong


def _different(wanted: Mapping[Place, Expected], delivered: Iterable[Delivery]) -> list[str]:
    """Messages, repeats included, that say anything else than an undisturbed run would, to the last bit."""
    return [
        f"{delivery.output} of record {expected.number} at {_shown(delivery.place)}: "
        f"{delivery.content} instead of {expected.contents[delivery.output]}"
        for delivery in delivered
        if (expected := wanted.get(delivery.place)) is not None
        and delivery.output in expected.contents
        and expected.contents[delivery.output] != delivery.content
    ]


def _out_of_order(wanted: Mapping[Place, Expected], delivered: Iterable[Delivery]) -> list[str]:
    """First deliveries behind that of a later record of the same key, partition and incarnation."""
    newest: dict[tuple[Output, bytes | None, int, int], int] = {}
    seen: set[tuple[Place, Output]] = set()
    wrong = []
    for delivery in delivered:
        expected = wanted.get(delivery.place)
        if expected is None or (delivery.place, delivery.output) in seen:
            continue
        seen.add((delivery.place, delivery.output))
        line = (delivery.output, expected.key, expected.incarnation, delivery.place.partition)
        before = newest.get(line, -1)
        if delivery.place.offset < before:
            wrong.append(f"{delivery.output} at {_shown(delivery.place)} after that of offset {before}")
        newest[line] = max(before, delivery.place.offset)
    return wrong


def _uncommitted(committed: Mapping[int, int], ends: Mapping[int, int]) -> list[str]:
    return [
        f"partition {partition}: {committed.get(partition, 0)} where the topic ends at {end}"
        for partition, end in sorted(ends.items())
        if committed.get(partition, 0) != end
    ]


def _outcomes(
    wanted: Mapping[Place, Expected],
    first: Mapping[tuple[Place, Output], Delivery],
    committed: Mapping[int, int],
    ends: Mapping[int, int],
) -> Counter[str]:
    """Records that have exactly one outcome, by which."""
    newest = max((each.incarnation for each in wanted.values()), default=0)
    outcomes: Counter[str] = Counter()
    for place, expected in wanted.items():
        is_scored, is_dead = (place, "score") in first, (place, "dead_letter") in first
        alerts = (place, "alert") in first
        if is_scored and not is_dead and alerts == (expected.outcome == "alert"):
            outcomes[expected.outcome] += 1
        elif is_dead and not is_scored and not alerts:
            outcomes["dead_letter"] += 1
        elif expected.outcome == "tombstone" and not (is_scored or is_dead or alerts):
            is_past = expected.incarnation < newest or place.offset < committed.get(place.partition, 0)
            outcomes["tombstone"] += is_past and place.partition in ends
    return outcomes


def _moved(expected: Iterable[Expected]) -> int:
    homes: dict[bytes | None, set[tuple[int, int]]] = {}
    for each in expected:
        homes.setdefault(each.key, set()).add((each.incarnation, each.place.partition))
    return sum(len(places) > 1 for places in homes.values())


def _told(what: str, wrong: Sequence[str]) -> list[str]:
    """One violation in words: how many, and the first few of them."""
    if not wrong:
        return []
    more = f"; and {len(wrong) - _MOST_TOLD} more" if len(wrong) > _MOST_TOLD else ""
    return [f"{what}: {len(wrong)}: " + "; ".join(wrong[:_MOST_TOLD]) + more]


def _shown(place: Place) -> str:
    return f"{place.partition}@{place.offset}"
