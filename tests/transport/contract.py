"""What every Kafka client behind `transport` must do: run on a fake cluster here, and on a real broker in tests/kafka.

A second client passes when a `Stage` of its own runs these tests.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from transport import (
    Batch,
    BrokerUnavailable,
    CommitInDoubt,
    CommitRefused,
    MessageTooLarge,
    OffsetOutOfRange,
    OutgoingMessage,
    Partition,
    Publisher,
    PublishFailed,
    RangeReader,
    Source,
    Transactions,
)

#: For messages with timestamps of long ago, which retention would remove at any moment.
FOR_EVER = {"retention.ms": "-1"}


class Stage(ABC):
    """A cluster, and the client under test."""

    #: How many polls a test waits for something to come.
    patience: int

    @abstractmethod
    def topic(self, partitions: int = 1, configuration: Mapping[str, str] | None = None) -> str:
        """Create a topic under a name that no other test has."""

    @abstractmethod
    def add_partitions(self, topic: str, total: int) -> None:
        """Give a topic more partitions."""

    @abstractmethod
    def write(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        """Put messages into one partition."""

    @abstractmethod
    def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove what lies before an offset, as retention does."""

    @abstractmethod
    def commits(self, group: str, topic: str) -> dict[int, int]:
        """Return the committed offsets of a group by partition."""

    @abstractmethod
    def source(self, *topics: str, group: str, **settings: Any) -> Source:
        """Make a source; the stage closes it when the test ends."""

    @abstractmethod
    def publisher(self, **settings: Any) -> Publisher:
        """Make a publisher; the stage closes it when the test ends."""

    @abstractmethod
    def transactions(self, transactional_id: str, **settings: Any) -> Transactions:
        """Make a transactional publisher; the stage closes it when the test ends."""

    @abstractmethod
    def read(self, topic: str, **options: Any) -> Iterator[Batch]:
        """Read a topic without a group."""

    @abstractmethod
    def reader(self, topic: str, start: int, end: int, *, partition: int = 0, **options: Any) -> RangeReader:
        """Make a reader of a range; the stage closes it when the test ends."""

    @abstractmethod
    def bounds(self, topic: str, *numbers: int) -> dict[Partition, tuple[int, int]]:
        """Ask where partitions begin and end."""

    @abstractmethod
    def offset_at(self, topic: str, timestamp_ms: int) -> int:
        """Ask for a time in partition 0."""

    @abstractmethod
    def identity(self, topic: str) -> str | None:
        """Ask for the id of a topic."""

    @abstractmethod
    def configuration(self, topic: str) -> dict[str, str]:
        """Ask for the settings of a topic."""

    @abstractmethod
    def create_again(self, topic: str) -> None:
        """Delete a topic and create it again under the same name."""

    @abstractmethod
    def missing(self, *names: str) -> list[str]:
        """Ask for topics that do not exist."""

    @abstractmethod
    def create(self, **partitions: int) -> list[str]:
        """Create topics."""

    def poll_all(self, sources: Sequence[Source]) -> list[Batch | None]:
        """Poll several members; at once where a rebalance takes them all to be polling."""
        return [source.poll() for source in sources]

    # -- helpers of the tests ---------------------------------------------------------------------------------

    def batches(self, source: Source, messages: int) -> list[Batch]:
        """Poll until so many messages have come."""
        (batches,) = self.gather([source], messages)
        return batches

    def gather(self, sources: Sequence[Source], messages: int) -> list[list[Batch]]:
        """Poll several members in turn until so many messages have come; return each member's batches."""
        gathered: list[list[Batch]] = [[] for _ in sources]
        for _ in range(self.patience):
            for batch, batches in zip(self.poll_all(sources), gathered, strict=True):
                if batch is not None:
                    batches.append(batch)
            if sum(len(batch) for batches in gathered for batch in batches) >= messages:
                break
        got = [value for batches in gathered for value in values(batches)]
        assert len(got) == messages, f"{messages} messages expected, got {got}"
        return gathered

    def settle(self, source: Source, owned: int, *others: Source) -> None:
        """Poll until the source owns so many partitions; the others must go along with the rebalance."""
        for _ in range(self.patience):
            assert self.poll_all([source, *others]) == [None] * (1 + len(others))
            if len(source.assignment()) == owned:
                return
        raise AssertionError(f"{owned} partitions expected, got {sorted(source.assignment())}")

    def position(self, source: Source, partition: Partition) -> int:
        """Poll, finding nothing, until a partition's position is known."""
        for _ in range(self.patience):
            position = source.position(partition)
            if position is not None:
                return position
            assert source.poll() is None
        raise AssertionError(f"no position of {partition}")

    def read_range(self, reader: RangeReader) -> list[Batch]:
        """Poll a reader until it is done."""
        batches = []
        for _ in range(self.patience):
            before = reader.position
            batch = reader.poll(0.5)
            assert reader.position >= before
            if batch is not None:
                assert before <= batch.offsets.min() <= batch.offsets.max() < reader.position
                batches.append(batch)
            if reader.done:
                return batches
        raise AssertionError(f"the reader stays at {reader.position}")

    def quiet(self, source: Source, polls: int = 5) -> None:
        """Poll a few times and find nothing."""
        for _ in range(polls):
            batch = source.poll()
            assert batch is None, f"nothing expected, got {values([batch])}"


def values(batches: list[Batch]) -> list[bytes | None]:
    """Return the values of batches."""
    return [value for batch in batches for value in batch.values]


def places(batches: list[Batch]) -> list[tuple[int, int]]:
    """Return partition number and offset of each message."""
    return [
        (batch.partitions[index].number, int(offset))
        for batch in batches
        for index, offset in zip(batch.partition_index, batch.offsets, strict=True)
    ]


def finish(source: Source, batches: list[Batch]) -> None:
    """Finish and commit batches."""
    for batch in batches:
        source.done(batch)
    source.commit(source.committable())


class TransportContract:
    """The tests; subclass it where there is a `stage`."""

    # -- where reading starts ---------------------------------------------------------------------------------

    def test_a_new_group_reads_every_message_in_order_with_all_that_it_carries(self, stage: Stage) -> None:
        topic = stage.topic(configuration=FOR_EVER)
        stage.publisher().publish(
            [
                OutgoingMessage(topic, b"a", b"1", (("h", b"x"), ("h", b"\xff")), 1_700_000_000_000),
                OutgoingMessage(topic, b"a", None, (), 1_700_000_000_001),
                OutgoingMessage(topic, None, b"", (), 1_700_000_000_002),
            ]
        )
        source = stage.source(topic, group="g")

        (batch,) = stage.batches(source, 3)

        assert batch.partitions == (Partition(topic, 0),)
        assert batch.partition_index.tolist() == [0, 0, 0]
        assert batch.offsets.tolist() == [0, 1, 2]
        assert batch.timestamps_ms.tolist() == [1_700_000_000_000, 1_700_000_000_001, 1_700_000_000_002]
        assert batch.keys == [b"a", b"a", None]
        assert batch.values == [b"1", None, b""]
        assert [list(headers) for headers in batch.headers] == [[("h", b"x"), ("h", b"\xff")], [], []]
        assert batch.first_offsets() == {Partition(topic, 0): 0}
        assert batch.next_offsets() == {Partition(topic, 0): 3}
        assert (str(batch.offsets.dtype), str(batch.partition_index.dtype)) == ("int64", "int32")

    def test_a_new_group_that_starts_at_the_latest_gets_only_what_comes_later(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"old")
        source = stage.source(topic, group="g", start_at="latest")
        stage.settle(source, 1)
        for _ in range(stage.patience):
            if source.committable():
                break
            assert source.poll() is None

        assert source.committable() == {Partition(topic, 0): 1}
        stage.write(topic, b"new")

        assert values(stage.batches(source, 1)) == [b"new"]

    def test_a_start_at_the_latest_is_pinned_by_the_first_commit(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"old")
        first = stage.source(topic, group="g", start_at="latest")
        stage.settle(first, 1)
        stage.quiet(first, 2)
        first.commit(first.committable())
        first.close()
        stage.write(topic, b"while away")

        second = stage.source(topic, group="g", start_at="latest")

        assert values(stage.batches(second, 1)) == [b"while away"]

    def test_members_that_start_together_at_the_latest_do_not_jump_to_the_beginning(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"old", partition=0)
        stage.write(topic, b"old", partition=1)
        one = stage.source(topic, group="g", start_at="latest")
        two = stage.source(topic, group="g", start_at="latest")
        for _ in range(stage.patience):
            assert stage.poll_all([one, two]) == [None, None]
            for source in (one, two):
                with contextlib.suppress(CommitRefused):
                    source.commit(source.committable())
            if len(one.assignment()) == len(two.assignment()) == 1:
                break

        stage.write(topic, b"new", partition=0)
        stage.write(topic, b"new", partition=1)

        assert [values(batches) for batches in stage.gather([one, two], 2)] == [[b"new"], [b"new"]]

    def test_a_partition_added_later_starts_at_its_beginning_whatever_the_setting(self, stage: Stage) -> None:
        topic = stage.topic(1)
        stage.write(topic, b"old")
        source = stage.source(topic, group="g", start_at="latest")
        stage.settle(source, 1)
        stage.quiet(source, 2)
        source.commit(source.committable())
        stage.add_partitions(topic, 2)
        stage.write(topic, b"into the new one", partition=1)

        assert values(stage.batches(source, 1)) == [b"into the new one"]

    def test_a_group_goes_on_behind_what_it_committed(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        first = stage.source(topic, group="g", max_batch_records=2)
        finish(first, stage.batches(first, 2))
        assert stage.commits("g", topic) == {0: 2}
        first.close()

        second = stage.source(topic, group="g")

        assert values(stage.batches(second, 1)) == [b"3"]

    def test_an_offset_that_no_longer_exists_stops_the_source_and_is_never_jumped_over(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3", b"4")
        first = stage.source(topic, group="g", max_batch_records=1)
        finish(first, stage.batches(first, 1))
        first.close()
        stage.trim(topic, 0, 3)
        source = stage.source(topic, group="g")

        for _ in range(2):
            with pytest.raises(OffsetOutOfRange, match=r"holds 3 to 4.*reset-offsets") as refusal:
                stage.batches(source, 1)
            assert (refusal.value.partition, refusal.value.offset) == (Partition(topic, 0), 1)

    @pytest.mark.parametrize(("choice", "read", "skipped"), [("earliest", [b"4"], 2), ("latest", [], 3)])
    def test_a_lost_offset_is_left_for_the_one_that_was_chosen_and_what_is_skipped_is_counted(
        self, stage: Stage, choice: str, read: list[bytes], skipped: int
    ) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3", b"4")
        first = stage.source(topic, group="g", max_batch_records=1)
        finish(first, stage.batches(first, 1))
        first.close()
        stage.trim(topic, 0, 3)
        source = stage.source(topic, group="g", on_offset_out_of_range=choice)

        batches: list[Batch] = []
        for _ in range(stage.patience):
            batch = source.poll()
            batches += [] if batch is None else [batch]
            if source.skipped and values(batches) == read:
                break

        assert values(batches) == read
        assert dict(source.skipped) == {topic: skipped}
        finish(source, batches)
        stage.write(topic, b"5")
        finish(source, stage.batches(source, 1))
        assert stage.commits("g", topic) == {0: 5}

    def test_a_topic_created_anew_is_read_from_its_beginning_and_not_where_the_former_was_left(
        self, stage: Stage
    ) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2")
        source = stage.source(topic, group="g", on_offset_out_of_range="earliest")
        for batch in stage.batches(source, 2):
            source.done(batch)
        before = source.generations()

        stage.create_again(topic)
        stage.write(topic, b"a", b"b", b"c", b"d")  # more than were read of the former: its next offset exists
        batches: list[Batch] = []
        for _ in range(stage.patience):  # until the source hears of it, it may read on where the former was left
            batches += [polled for polled in stage.poll_all([source]) if polled is not None]
            if values(batches)[-4:] == [b"a", b"b", b"c", b"d"]:
                break

        assert values(batches)[-4:] == [b"a", b"b", b"c", b"d"]
        assert source.generations() != before
        finish(source, batches)
        assert stage.commits("g", topic) == {0: 4}

    # -- done, committed, gone back to ------------------------------------------------------------------------

    def test_only_what_is_done_is_committable_and_only_until_it_is_committed(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"1", b"2", partition=0)
        stage.write(topic, b"3", partition=1)
        source = stage.source(topic, group="g")
        batches = stage.batches(source, 3)

        assert source.committable() == {}
        for batch in batches:
            source.done(batch)
        assert source.committable() == {Partition(topic, 0): 2, Partition(topic, 1): 1}
        source.commit(source.committable())

        assert source.committable() == {}
        assert stage.commits("g", topic) == {0: 2, 1: 1}

    def test_a_batch_is_finished_once(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1")
        source = stage.source(topic, group="g")
        (batch,) = stage.batches(source, 1)
        source.done(batch)

        with pytest.raises(ValueError, match="not open"):
            source.done(batch)

    def test_going_back_reads_again_what_is_not_done_and_nothing_else(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"1", b"2", partition=0)
        source = stage.source(topic, group="g", max_batch_records=2)
        finish(source, stage.batches(source, 2))
        stage.write(topic, b"3", b"4", partition=1)
        (lost,) = stage.batches(source, 2)

        source.go_back()

        assert places(stage.batches(source, 2)) == [(1, 0), (1, 1)]
        with pytest.raises(ValueError, match="not open"):
            source.done(lost)
        assert source.committable() == {}

    def test_going_back_with_several_open_batches_goes_to_the_first(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        source = stage.source(topic, group="g", max_batch_records=1)
        _one, two, _three = stage.batches(source, 3)
        source.done(two)
        assert source.committable() == {}

        source.go_back()

        again = stage.batches(source, 3)
        assert values(again) == [b"1", b"2", b"3"]
        for batch in again:
            source.done(batch)
        assert source.committable() == {Partition(topic, 0): 3}

    def test_going_back_with_nothing_open_changes_nothing(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1")
        source = stage.source(topic, group="g")
        source.go_back()
        finish(source, stage.batches(source, 1))

        source.go_back()

        stage.quiet(source)

    def test_closing_commits_what_is_done_and_leaves_what_is_not(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2")
        first = stage.source(topic, group="g", max_batch_records=1)
        one, _two = stage.batches(first, 2)
        first.done(one)

        first.close()
        first.close()

        assert stage.commits("g", topic) == {0: 1}
        assert values(stage.batches(stage.source(topic, group="g"), 1)) == [b"2"]

    def test_where_offsets_travel_otherwise_giving_up_partitions_commits_nothing(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1")
        first = stage.source(topic, group="g", commit_on_release=False)
        (batch,) = stage.batches(first, 1)
        first.done(batch)

        first.close()

        assert stage.commits("g", topic) == {}
        assert values(stage.batches(stage.source(topic, group="g"), 1)) == [b"1"]

    def test_offsets_committed_otherwise_are_no_longer_committable(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2")
        source = stage.source(topic, group="g")
        for batch in stage.batches(source, 2):
            source.done(batch)
        source.committed({Partition(topic, 0): 1})
        assert source.committable() == {Partition(topic, 0): 2}

        source.committed({Partition(topic, 0): 2})

        assert source.committable() == {}

    # -- groups -----------------------------------------------------------------------------------------------

    def test_a_partition_that_moves_is_committed_first_and_read_on_by_its_new_owner(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"1", partition=0)
        stage.write(topic, b"2", partition=1)
        one = stage.source(topic, group="g")
        for batch in stage.batches(one, 2):
            one.done(batch)
        assert stage.commits("g", topic) == {}

        two = stage.source(topic, group="g")
        stage.settle(two, 1, one)

        (moved,) = two.assignment()
        assert one.assignment() == {Partition(topic, 1 - moved.number)}
        assert stage.commits("g", topic)[moved.number] == 1
        assert one.committable() == {Partition(topic, 1 - moved.number): 1}
        assert (one.rebalances.revoked, one.rebalances.lost) == (1, 0)
        assert two.rebalances.assigned >= 1
        stage.write(topic, b"3", partition=0)
        stage.write(topic, b"4", partition=1)
        of_one, of_two = (values(batches) for batches in stage.gather([one, two], 2))
        assert (of_one, of_two) == (([b"3"], [b"4"]) if moved.number == 1 else ([b"4"], [b"3"]))

    def test_offsets_of_partitions_that_are_not_owned_are_left_out_of_a_commit(self, stage: Stage) -> None:
        topic, other = stage.topic(), stage.topic()
        stage.write(topic, b"1")
        source = stage.source(topic, group="g")
        stage.batches(source, 1)

        source.commit({Partition(topic, 0): 1, Partition(other, 0): 7})
        source.commit({Partition(other, 0): 7})

        assert stage.commits("g", topic) == {0: 1}
        assert stage.commits("g", other) == {}

    # -- partitions that begin paused -------------------------------------------------------------------------

    def test_a_newly_assigned_partition_gives_nothing_until_it_is_resumed(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"0", partition=0)
        stage.write(topic, b"1", partition=1)
        source = stage.source(topic, group="g", start_paused=True)
        stage.settle(source, 2)
        stage.quiet(source)
        source.resume([Partition(topic, 1), Partition("not ours", 0)])

        assert values(stage.batches(source, 1)) == [b"1"]
        stage.quiet(source)
        source.resume([Partition(topic, 0)])

        assert values(stage.batches(source, 1)) == [b"0"]

    @pytest.mark.parametrize("start_at", ["earliest", "latest"])
    def test_a_partition_that_begins_paused_without_a_commit_has_the_position_of_its_start(
        self, stage: Stage, start_at: str
    ) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2")
        source = stage.source(topic, group="g", start_paused=True, start_at=start_at)
        stage.settle(source, 1)

        assert stage.position(source, Partition(topic, 0)) == (0 if start_at == "earliest" else 2)
        assert source.committable() == ({} if start_at == "earliest" else {Partition(topic, 0): 2})
        stage.write(topic, b"3")
        source.resume([Partition(topic, 0)])
        expected = [b"1", b"2", b"3"] if start_at == "earliest" else [b"3"]
        assert values(stage.batches(source, len(expected))) == expected

    def test_a_partition_that_begins_paused_has_its_committed_offset_as_position(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        first = stage.source(topic, group="g", max_batch_records=2)
        finish(first, stage.batches(first, 2))
        first.close()
        second = stage.source(topic, group="g", start_paused=True)
        stage.settle(second, 1)

        assert stage.position(second, Partition(topic, 0)) == 2
        second.resume([Partition(topic, 0)])
        assert values(stage.batches(second, 1)) == [b"3"]

    def test_a_partition_that_comes_back_is_paused_again_and_of_another_generation(self, stage: Stage) -> None:
        topic = stage.topic(2)
        one = stage.source(topic, group="g", start_paused=True)
        stage.settle(one, 2)
        one.resume(one.assignment())
        before = one.generations()
        assert set(before) == one.assignment()
        two = stage.source(topic, group="g", start_paused=True)
        stage.settle(two, 1, one)
        (moved,) = two.assignment()
        (stayed,) = one.assignment()
        assert one.generations() == {stayed: before[stayed]}

        two.close()
        stage.settle(one, 2)
        stage.write(topic, b"to the one that stayed", partition=stayed.number)
        stage.write(topic, b"to the one that came back", partition=moved.number)

        assert values(stage.batches(one, 1)) == [b"to the one that stayed"]
        stage.quiet(one)
        assert one.generations()[stayed] == before[stayed]
        assert one.generations()[moved] != before[moved]
        one.resume([moved])
        assert values(stage.batches(one, 1)) == [b"to the one that came back"]

    def test_the_position_is_the_first_offset_that_is_not_done(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        source = stage.source(topic, group="g", max_batch_records=1)
        assert source.position(Partition(topic, 0)) is None
        one, two, three = stage.batches(source, 3)

        positions = [source.position(Partition(topic, 0))]
        for batch in (two, one, three):
            source.done(batch)
            positions.append(source.position(Partition(topic, 0)))

        assert positions == [0, 0, 2, 3]
        assert source.position(Partition("not ours", 0)) is None
        source.close()
        assert source.position(Partition(topic, 0)) is None

    def test_going_back_brings_the_position_back(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2")
        source = stage.source(topic, group="g", max_batch_records=1)
        one, _two = stage.batches(source, 2)
        source.done(one)

        source.go_back()

        assert source.position(Partition(topic, 0)) == 1

    def test_a_partition_that_is_paused_in_the_midst_of_a_fetch_is_read_on_when_it_is_resumed(
        self, stage: Stage
    ) -> None:
        topic = stage.topic(2)
        stage.write(topic, *(b"%d" % number for number in range(6)), partition=0)
        source = stage.source(topic, group="g", max_batch_records=2)
        assert values(stage.batches(source, 2)) == [b"0", b"1"]
        source.pause([Partition(topic, 0)])
        stage.quiet(source, 2)
        stage.write(topic, b"of the other", partition=1)
        assert values(stage.batches(source, 1)) == [b"of the other"]

        source.resume([Partition(topic, 0)])

        assert values(stage.batches(source, 4)) == [b"2", b"3", b"4", b"5"]

    # -- bounds and looking -----------------------------------------------------------------------------------

    def test_a_batch_holds_at_most_so_many_messages(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, *(b"%d" % number for number in range(7)))
        source = stage.source(topic, group="g", max_batch_records=3)

        assert [len(batch) for batch in stage.batches(source, 7)] == [3, 3, 1]

    def test_lag_counts_what_is_not_done_without_asking(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        source = stage.source(topic, group="g", max_batch_records=2)
        assert source.lag() == {}
        (batch,) = stage.batches(source, 2)

        assert source.lag() == {Partition(topic, 0): 3}
        source.done(batch)
        assert source.lag() == {Partition(topic, 0): 1}

    def test_a_paused_partition_is_passed_over_until_it_is_resumed(self, stage: Stage) -> None:
        topic = stage.topic(2)
        source = stage.source(topic, group="g")
        stage.settle(source, 2)
        source.pause([Partition(topic, 0), Partition("not ours", 0)])
        stage.write(topic, b"0", partition=0)
        stage.write(topic, b"1", partition=1)

        assert values(stage.batches(source, 1)) == [b"1"]
        stage.quiet(source, 3)
        source.resume([Partition(topic, 0), Partition("not ours", 0)])

        assert values(stage.batches(source, 1)) == [b"0"]

    def test_a_broker_that_answers_has_answered_lately(self, stage: Stage) -> None:
        source = stage.source(stage.topic(), group="g")
        stage.settle(source, 1)
        stage.quiet(source, 2)

        assert 0.0 <= source.last_answer_age_s < 3.0

    # -- ranges -----------------------------------------------------------------------------------------------

    def test_a_range_gives_its_offsets_and_no_other_with_all_that_they_carry(self, stage: Stage) -> None:
        topic = stage.topic(2, FOR_EVER)
        stage.publisher().publish(
            [OutgoingMessage(topic, b"k", b"%d" % n, (("h", b"x"),), 1_700_000_000_000 + n, 1) for n in range(7)]
        )
        reader = stage.reader(topic, 2, 5, partition=1, max_batch_records=2)
        assert (reader.position, reader.done, reader.skipped) == (2, False, 0)

        batches = stage.read_range(reader)

        assert places(batches) == [(1, 2), (1, 3), (1, 4)]
        assert [len(batch) for batch in batches] == [2, 1]
        assert all(batch.partitions == (Partition(topic, 1),) for batch in batches)
        assert values(batches) == [b"2", b"3", b"4"]
        assert batches[0].keys == [b"k", b"k"]
        assert [list(headers) for headers in batches[0].headers] == [[("h", b"x")], [("h", b"x")]]
        assert batches[0].timestamps_ms.tolist() == [1_700_000_000_002, 1_700_000_000_003]
        assert (reader.position, reader.done, reader.skipped) == (5, True, 0)
        assert reader.poll(0.1) is None

    def test_an_empty_range_is_done_at_once(self, stage: Stage) -> None:
        reader = stage.reader(stage.topic(), 0, 0)

        assert reader.done
        assert reader.poll(0.1) is None

    def test_a_range_whose_start_retention_has_removed_begins_at_what_exists_and_counts_what_is_gone(
        self, stage: Stage
    ) -> None:
        topic = stage.topic()
        stage.write(topic, b"0", b"1", b"2", b"3")
        stage.trim(topic, 0, 3)
        reader = stage.reader(topic, 1, 4)

        assert values(stage.read_range(reader)) == [b"3"]
        assert (reader.position, reader.skipped) == (4, 2)

    def test_a_range_that_retention_has_removed_as_a_whole_is_done_and_counts_all(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"0", b"1", b"2", b"3")
        stage.trim(topic, 0, 3)
        reader = stage.reader(topic, 0, 2)

        assert stage.read_range(reader) == []
        assert (reader.position, reader.skipped) == (2, 2)

    def test_a_range_is_read_without_touching_the_group_that_reads_the_topic(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"0", b"1", b"2")
        source = stage.source(topic, group="g", start_paused=True)
        stage.settle(source, 1)
        stage.position(source, Partition(topic, 0))
        rebalances = source.rebalances

        assert values(stage.read_range(stage.reader(topic, 0, 2))) == [b"0", b"1"]

        stage.quiet(source, 2)
        assert (source.position(Partition(topic, 0)), source.rebalances) == (0, rebalances)
        assert stage.commits("g", topic) == {}

    def test_an_end_that_does_not_exist_yet_is_waited_for(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"0")
        reader = stage.reader(topic, 0, 2)
        while reader.position < 1:
            reader.poll(0.5)
        assert reader.poll(0.3) is None
        assert not reader.done

        stage.write(topic, b"1")

        assert values(stage.read_range(reader)) == [b"1"]

    def test_an_offset_behind_the_end_of_the_log_is_an_error_and_no_hole(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"0")

        with pytest.raises(OffsetOutOfRange, match="holds no longer") as refusal:
            stage.read_range(stage.reader(topic, 5, 6))

        assert (refusal.value.partition, refusal.value.offset) == (Partition(topic, 0), 5)

    def test_a_closed_reader_says_so(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"0")
        reader = stage.reader(topic, 0, 1)
        reader.close()
        reader.close()

        with pytest.raises(ValueError, match="closed"):
            reader.poll(0.1)

    def test_bounds_are_those_of_each_partition_as_retention_left_it(self, stage: Stage) -> None:
        topic = stage.topic(3)
        stage.write(topic, b"0", b"1", b"2", partition=0)
        stage.write(topic, b"0", partition=1)
        stage.trim(topic, 0, 2)

        assert stage.bounds(topic, 0, 1, 2) == {
            Partition(topic, 0): (2, 3),
            Partition(topic, 1): (0, 1),
            Partition(topic, 2): (0, 0),
        }
        assert stage.bounds(topic) == {}

    @pytest.mark.parametrize(("topic", "number"), [(None, 1), ("unheard.of", 0)])
    def test_bounds_of_what_does_not_exist_say_so(self, stage: Stage, topic: str | None, number: int) -> None:
        topic = topic or stage.topic()

        with pytest.raises(BrokerUnavailable, match=rf"there is no {topic}\[{number}\]"):
            stage.bounds(topic, number)

    def test_the_offset_at_a_time_is_that_of_the_first_message_as_young_and_else_the_end(self, stage: Stage) -> None:
        topic = stage.topic(configuration=FOR_EVER)
        times = [1_700_000_000_000, 1_700_000_002_000, 1_700_000_001_000, 1_700_000_003_000]
        stage.publisher().publish([OutgoingMessage(topic, None, b"", (), time_ms) for time_ms in times])

        asked = [-1, 1_700_000_000_000, 1_700_000_000_001, 1_700_000_002_001, 1_700_000_003_001]
        assert [stage.offset_at(topic, time_ms) for time_ms in asked] == [0, 0, 1, 3, 4]

    # -- publishing -------------------------------------------------------------------------------------------

    def test_messages_with_the_same_key_stay_in_order(self, stage: Stage) -> None:
        topic = stage.topic(3)
        stage.publisher().publish([OutgoingMessage(topic, b"k%d" % (n % 5), b"%d" % n) for n in range(50)])

        by_key: dict[bytes | None, list[int]] = {}
        for batch in stage.read(topic, timeout_s=10.0):
            for key, value in zip(batch.keys, batch.values, strict=True):
                assert value is not None
                by_key.setdefault(key, []).append(int(value))
        assert by_key == {b"k%d" % n: list(range(n, 50, 5)) for n in range(5)}

    def test_a_message_goes_to_the_partition_that_it_names_whatever_its_key(self, stage: Stage) -> None:
        topic = stage.topic(4)

        stage.publisher().publish([OutgoingMessage(topic, b"same", None, partition=n) for n in (3, 0, 2, 3)])

        assert sorted(places(list(stage.read(topic, timeout_s=10.0)))) == [(0, 0), (2, 0), (3, 0), (3, 1)]

    def test_a_partition_that_the_topic_does_not_have_is_named_and_the_publisher_goes_on(self, stage: Stage) -> None:
        topic = stage.topic(2)
        publisher = stage.publisher()

        with pytest.raises(PublishFailed, match=r"only partitions \[0, 1\]") as failure:
            publisher.publish([OutgoingMessage(topic, None, b"1", partition=2)])
        publisher.publish([OutgoingMessage(topic, None, b"2", partition=1)])

        assert (failure.value.retriable, failure.value.topic) == (False, topic)
        assert values(list(stage.read(topic, timeout_s=10.0))) == [b"2"]

    def test_a_message_that_is_too_large_is_known_before_anything_is_sent(self, stage: Stage) -> None:
        topic = stage.topic()
        publisher = stage.publisher(max_message_bytes=10_000)

        with pytest.raises(MessageTooLarge, match="max_message_bytes is 10000") as refusal:
            publisher.publish([OutgoingMessage(topic, None, b"fits"), OutgoingMessage(topic, None, bytes(10_000))])

        assert (refusal.value.index, refusal.value.topic, refusal.value.limit_bytes) == (1, topic, 10_000)
        assert refusal.value.size_bytes > 10_000
        assert values(list(stage.read(topic, timeout_s=10.0))) == []

    def test_a_topic_that_does_not_exist_is_named_and_the_publisher_goes_on(self, stage: Stage) -> None:
        topic = stage.topic()
        publisher = stage.publisher(publish_timeout_s=2.0)

        with pytest.raises(PublishFailed, match=r"'no\.such\.topic'") as failure:
            publisher.publish([OutgoingMessage("no.such.topic", None, b"1")])
        publisher.publish([OutgoingMessage(topic, None, b"2")])

        assert (failure.value.retriable, failure.value.topic) == (False, "no.such.topic")
        assert values(list(stage.read(topic, timeout_s=10.0))) == [b"2"]

    def test_a_message_without_key_and_value_is_refused_before_anything_is_sent(self, stage: Stage) -> None:
        topic = stage.topic()

        with pytest.raises(ValueError, match=r"message 1 .* neither key nor value"):
            stage.publisher().publish([OutgoingMessage(topic, None, b"1"), OutgoingMessage(topic, None, None)])

        assert values(list(stage.read(topic, timeout_s=10.0))) == []

    def test_publishing_nothing_and_closing_twice_need_no_broker(self, stage: Stage) -> None:
        publisher = stage.publisher()

        publisher.publish([])
        publisher.close()
        publisher.close()

    # -- transactions -----------------------------------------------------------------------------------------

    def test_messages_and_offsets_of_a_transaction_are_seen_with_its_commit(self, stage: Stage) -> None:
        topic, out = stage.topic(), stage.topic()
        stage.write(topic, b"1", b"2")
        source, transactions = stage.source(topic, group="g", commit_on_release=False), stage.transactions("t")
        batches = stage.batches(source, 2)
        transactions.publish([OutgoingMessage(out, None, b"of 1"), OutgoingMessage(out, None, b"of 2")])
        for batch in batches:
            source.done(batch)
        assert (list(stage.read(out, timeout_s=20)), stage.commits("g", topic)) == ([], {})

        source.commit(source.committable(), through=transactions)

        assert values(list(stage.read(out, timeout_s=20))) == [b"of 1", b"of 2"]
        assert stage.commits("g", topic) == {0: 2}
        assert source.committable() == {}

    def test_of_an_aborted_transaction_nothing_is_seen_and_its_records_are_read_again(self, stage: Stage) -> None:
        topic, out = stage.topic(), stage.topic()
        stage.write(topic, b"1", b"2", b"3")
        source = stage.source(topic, group="g", max_batch_records=1, commit_on_release=False)
        transactions = stage.transactions("t")
        first, second, _ = stage.batches(source, 3)
        source.done(first)
        source.commit(source.committable(), through=transactions)
        transactions.publish([OutgoingMessage(out, None, b"void")])
        source.done(second)

        transactions.abort()
        source.go_back_to_commit()

        assert values(stage.batches(source, 2)) == [b"2", b"3"]
        transactions.publish([OutgoingMessage(out, None, b"valid")])
        source.commit({Partition(topic, 0): 1}, through=transactions)
        assert values(list(stage.read(out, timeout_s=20))) == [b"valid"]
        assert stage.commits("g", topic) == {0: 1}

    def test_the_next_publisher_of_an_id_ends_what_the_one_before_left_open(self, stage: Stage) -> None:
        topic, out = stage.topic(), stage.topic()
        stage.write(topic, b"1")
        source = stage.source(topic, group="g", commit_on_release=False)
        (batch,) = stage.batches(source, 1)
        former, heir = stage.transactions("t"), stage.transactions("t")
        former.publish([OutgoingMessage(out, None, b"left open")])

        heir.settle()
        heir.publish([OutgoingMessage(out, None, b"the heir's")])
        source.done(batch)
        source.commit(source.committable(), through=heir)

        assert values(list(stage.read(out, timeout_s=20))) == [b"the heir's"]
        with contextlib.suppress(PublishFailed):
            former.publish([OutgoingMessage(out, None, b"late")])
        with contextlib.suppress(CommitInDoubt):
            source.commit({Partition(topic, 0): 1}, through=former)
        assert values(list(stage.read(out, timeout_s=20))) == [b"the heir's"]

    def test_what_a_group_has_committed_can_be_asked_for(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"1", b"2", partition=0)
        source = stage.source(topic, group="g")
        finish(source, stage.batches(source, 2))

        assert source.is_committed({Partition(topic, 0): 2})
        assert source.is_committed({Partition(topic, 0): 1})
        assert not source.is_committed({Partition(topic, 0): 3})
        assert not source.is_committed({Partition(topic, 0): 2, Partition(topic, 1): 1})

    def test_a_transaction_is_committed_before_its_partitions_are_given_up(self, stage: Stage) -> None:
        topic, out = stage.topic(2), stage.topic()
        stage.write(topic, b"1", partition=0)
        stage.write(topic, b"2", partition=1)
        one, transactions = stage.source(topic, group="g", commit_on_release=False), stage.transactions("t")
        for batch in stage.batches(one, 2):
            transactions.publish([OutgoingMessage(out, None, b"of one")])
            one.done(batch)
        one.before_release = lambda: one.commit(one.committable(), through=transactions)
        two = stage.source(topic, group="g", commit_on_release=False)

        stage.settle(two, 1, one)

        assert stage.commits("g", topic) == {0: 1, 1: 1}
        assert set(values(list(stage.read(out, timeout_s=20)))) == {b"of one"}

    # -- topics -----------------------------------------------------------------------------------------------

    def test_reading_a_topic_ends_where_the_topic_ended_when_it_was_asked_for(self, stage: Stage) -> None:
        topic = stage.topic(2)
        stage.write(topic, b"1", b"2", partition=0)
        stage.write(topic, b"3", partition=1)

        batches = stage.read(topic, timeout_s=10.0)
        stage.write(topic, b"later", partition=0)

        assert sorted(places(list(batches))) == [(0, 0), (0, 1), (1, 0)]

    def test_reading_an_empty_topic_gives_nothing(self, stage: Stage) -> None:
        assert list(stage.read(stage.topic(2), timeout_s=10.0)) == []

    def test_following_a_topic_from_its_end_gives_what_comes_until_nothing_comes(self, stage: Stage) -> None:
        topic = stage.topic()
        stage.write(topic, b"old")

        batches = stage.read(topic, timeout_s=1.0, from_beginning=False, follow=True)
        stage.write(topic, b"new")

        assert values(list(batches)) == [b"new"]

    def test_topics_are_created_once_and_missing_until_then(self, stage: Stage) -> None:
        existing = stage.topic()
        wanted = existing + ".more"

        assert stage.missing(wanted, existing) == [wanted]
        assert stage.create(**{wanted: 2, existing: 1}) == [wanted]
        assert stage.missing(wanted, existing) == []
        assert stage.create(**{wanted: 2}) == []

    def test_a_topic_created_again_under_its_name_has_another_identity(self, stage: Stage) -> None:
        topic, other = stage.topic(), stage.topic()
        first = stage.identity(topic)

        assert first is not None
        assert first not in (stage.identity(other), None)
        assert stage.identity(topic) == first
        stage.create_again(topic)

        assert stage.identity(topic) not in (first, None)

    def test_of_a_topic_that_does_not_exist_nothing_is_told(self, stage: Stage) -> None:
        assert stage.identity("unheard.of") is None
        assert stage.configuration("unheard.of") == {}

    def test_a_topics_configuration_holds_what_it_was_created_with_and_the_brokers_defaults(self, stage: Stage) -> None:
        topic = stage.topic(configuration={"cleanup.policy": "compact"})

        configuration = stage.configuration(topic)

        assert (configuration["cleanup.policy"], configuration["retention.ms"]) == ("compact", "604800000")
