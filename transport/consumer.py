"""kafka-python's consumer with three faults mended and one question added. Knows no batch and no detector."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition

from transport.header_names import read_any_header_name


class Consumer(KafkaConsumer):  # type: ignore[misc]  # kafka-python has no types
    """`kafka.KafkaConsumer`, from whom a paused partition comes back, and a lost one is heard of and given up.

    The faults are those of kafka-python 3.0.12, and each has a test on a real broker:

    - What a poll has left over of a partition is parked when the partition is paused, and brought back only while
      no other partition has been read since: after that, a resumed partition is never fetched again.
    - A member that is put out while it joins again keeps its partitions and their positions without a word to its
      listener, although another member may have read on in them meanwhile.
    - A member that was put out goes on claiming its partitions when it joins again. Where the leader believes it, it
      gets them while their owner, who was not asked to give them up yet, reads and commits on in them.
    """

    def __init__(self, **configuration: Any) -> None:
        read_any_header_name()
        super().__init__(**configuration)
        coordinator = self._coordinator
        reset = coordinator.reset_generation

        def reset_and_prepare_again(*arguments: Any, **named: Any) -> None:
            reset(*arguments, **named)
            # Preparing to join tells the listener what was lost, and is left out while this is True.
            coordinator.rejoining = False
            for assignor in coordinator._assignors.values():  # noqa: SLF001
                assignor.member_assignment = None

        coordinator.reset_generation = reset_and_prepare_again

    def resume(self, *partitions: TopicPartition) -> None:
        """Resume partitions; what was left over of them is fetched again from their positions."""
        super().resume(*partitions)
        for partition in partitions:
            self._fetcher._paused_partition_records.pop(partition, None)  # noqa: SLF001

    def known_position(self, partition: TopicPartition) -> int | None:
        """Return a position as it is now, or None where there is none; unlike `position`, ask nobody and raise nothing.

        What `position` raises, such as that a log was cut back, it raises only once: the next poll would not know.
        """
        state = self._subscription.assignment.get(partition)
        position = None if state is None else state.position
        return None if position is None else int(position.offset)
