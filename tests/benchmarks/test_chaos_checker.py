"""The checker of the fault harness: histories with one thing wrong each, and whether it is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.chaos.checker import Delivery, Expected, Findings, Outcome, Output, Place, Promise, check

START_MS = 1_000_000

OUTCOMES: list[Outcome] = ["normal", "alert", "dead_letter", "tombstone", "suppressed", "normal", "alert"]


def expected(partition: int = 0, incarnation: int = 0, count: int = 7) -> list[Expected]:
    """Records of two entities, one a second."""
    records = []
    for offset, outcome in enumerate(OUTCOMES[:count]):
        place = Place(partition, offset, START_MS + 1000 * offset + 100_000 * incarnation)
        contents: dict[Output, object] = {}
        if outcome in ("normal", "alert", "suppressed"):
            contents["score"] = (outcome, 0.1 + offset)
        if outcome == "alert":
            contents["alert"] = (f"id-{incarnation}-{partition}-{offset}", 0.1 + offset)
        if outcome == "dead_letter":
            contents["dead_letter"] = ("not_json", b"{")
        records.append(
            Expected(place, incarnation, 10 * partition + offset, b"even" if offset % 2 == 0 else b"odd", outcome,
                     contents)
        )  # fmt: skip
    return records


def delivered(records: list[Expected]) -> list[Delivery]:
    """What an undisturbed run leaves on the outputs: each message half a second after its record."""
    return [
        Delivery(output, each.place, content, each.place.timestamp_ms + 500)
        for output in ("score", "alert", "dead_letter")
        for each in records
        for name, content in each.contents.items()
        if name == output
    ]


def checked(
    records: list[Expected], found: list[Delivery], *, promise: Promise = "exactly_once",
    committed: dict[int, int] | None = None,
) -> Findings:  # fmt: skip
    ends = {each.place.partition: len(OUTCOMES) for each in records}
    return check(records, found, committed=ends if committed is None else committed, ends=ends, promise=promise)


def test_an_undisturbed_run_breaks_no_promise() -> None:
    records = expected()

    findings = checked(records, delivered(records))

    assert findings.violations == ()
    assert (findings.records, findings.lost, findings.duplicated) == (7, 0, 0)
    assert findings.outcomes == {"normal": 2, "alert": 2, "dead_letter": 1, "tombstone": 1, "suppressed": 1}
    assert findings.longest_gap_s == 0.5


@pytest.mark.parametrize("output", ["score", "alert", "dead_letter"])
def test_a_message_that_is_not_there_is_lost(output: Output) -> None:
    records = expected()
    found = delivered(records)
    found.remove(next(each for each in found if each.output == output))

    findings = checked(records, found, promise="at_least_once")

    assert findings.lost == 1
    assert any(violation.startswith("lost: 1: ") for violation in findings.violations)


def test_a_repeat_is_excused_at_least_once_and_not_exactly_once() -> None:
    records = expected()
    found = delivered(records)
    found.append(replace(found[0], appended_ms=found[0].appended_ms + 9000))

    assert checked(records, found, promise="at_least_once").violations == ()
    assert checked(records, found, promise="at_least_once").duplicated == 1
    (violation,) = checked(records, found, promise="exactly_once").violations
    assert violation.startswith("duplicated: 1")


def test_a_repeat_under_another_id_is_never_excused() -> None:
    records = expected()
    found = delivered(records)
    alert = next(each for each in found if each.output == "alert")
    found.append(replace(alert, content=("another id", 1.1)))

    (violation,) = checked(records, found, promise="at_least_once").violations

    assert violation.startswith("different from the offline scorer: 1")


def test_a_score_that_differs_in_its_last_bit_is_seen() -> None:
    records = expected()
    found = delivered(records)
    found[0] = replace(found[0], content=("normal", 0.1 + 2**-56))

    (violation,) = checked(records, found).violations

    assert "different from the offline scorer: 1: score of record 0 at 0@0" in violation


def test_first_deliveries_out_of_order_are_seen_within_an_entity_only() -> None:
    records = expected()
    scores = [each for each in delivered(records) if each.output == "score"]
    rest = [each for each in delivered(records) if each.output != "score"]
    offsets = {each.place.offset: each for each in scores}
    of_two_entities = [offsets[1], offsets[0], offsets[4], offsets[5], offsets[6]]
    of_one = [offsets[0], offsets[1], offsets[6], offsets[5], offsets[4]]

    assert checked(records, [*of_two_entities, *rest]).violations == ()
    (violation,) = checked(records, [*of_one, *rest]).violations
    assert violation.startswith("out of order: 1: score at 0@4 after that of offset 6")


def test_repeats_may_come_in_any_order() -> None:
    records = expected()
    found = delivered(records)

    findings = checked(records, [*found, *found], promise="at_least_once")

    assert findings.violations == ()
    assert findings.duplicated == len(found)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: replace(found[0], place=Place(0, 99, START_MS)),
        lambda found: replace(found[0], place=found[0].place._replace(timestamp_ms=7)),
        lambda found: Delivery("alert", found[0].place, ("id-0-0-0", 0.1), 0),
        lambda found: Delivery("score", Place(0, 3, START_MS + 3000), ("normal", 0.0), 0),
    ],
)
def test_a_message_about_no_record_or_with_another_outcome_is_seen(spoil: Callable[[list[Delivery]], Delivery]) -> None:
    records = expected()
    found = delivered(records)

    findings = checked(records, [*found, spoil(found)], promise="at_least_once")

    assert any(violation.startswith("not the record's: 1") for violation in findings.violations)


@pytest.mark.parametrize("offset", [6, 8])
def test_a_commit_that_is_not_the_end_is_seen(offset: int) -> None:
    records = expected()

    (violation,) = checked(records, delivered(records), committed={0: offset}).violations

    assert violation.startswith(f"committed offsets: 1: partition 0: {offset} where the topic ends at 7")


def test_a_record_with_two_outcomes_does_not_sum_up() -> None:
    records = expected()
    both = Delivery("dead_letter", records[0].place, ("not_json", b"{"), START_MS)

    findings = checked(records, [*delivered(records), both])

    assert findings.outcomes.total() == 6
    assert any(violation.startswith("outcomes: 6 of 7") for violation in findings.violations)


def test_a_tombstone_before_which_commits_end_has_no_outcome() -> None:
    records = expected()

    findings = checked(records, delivered(records), committed={0: 3})

    assert findings.outcomes["tombstone"] == 0


def test_a_topic_created_anew_is_another_history_of_the_same_entities() -> None:
    records = expected() + expected(incarnation=1)

    findings = checked(records, delivered(records))

    assert findings.violations == ()
    assert findings.moved_entities == 2


def test_entities_that_an_added_partition_moved_are_counted() -> None:
    assert checked(expected(), delivered(expected())).moved_entities == 0
    records = expected() + expected(partition=1, count=1)

    assert checked(records, delivered(records), committed={0: 7, 1: 7}).moved_entities == 1


def test_a_gap_is_the_time_in_which_a_record_waited() -> None:
    records = expected()
    found = delivered(records)
    late = [
        replace(each, appended_ms=each.place.timestamp_ms + 8000) if each.place.offset >= 5 else each for each in found
    ]

    assert checked(records, late).longest_gap_s == 8.0


def test_a_quiet_partition_has_no_gap() -> None:
    records = [
        replace(each, place=each.place._replace(timestamp_ms=START_MS + 600_000 * number))
        for number, each in enumerate(expected())
    ]

    assert checked(records, delivered(records)).longest_gap_s == 0.5


def test_a_repeat_ends_no_gap() -> None:
    records = expected()
    found = delivered(records)
    late = [
        replace(each, appended_ms=each.place.timestamp_ms + 8000) if each.place.offset >= 5 else each for each in found
    ]
    repeat = replace(found[0], appended_ms=START_MS + 9000)

    assert checked(records, [*late, repeat], promise="at_least_once").longest_gap_s == 8.0
