"""Workers that are broken on purpose, as the harness's checker has to see: `python -m tests.kafka.sabotage`.

CHAOS_SABOTAGE names what is broken.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence

from transport import Batch, KafkaPublisher, KafkaSource, OutgoingMessage
from transport.errors import TransportError
from worker.commands import work_command

# So that a fault finds a batch in hand.
_HESITATION_S = 0.5


def commit_before_publishing() -> None:
    """Each batch is committed when it is polled: a crash before it is published loses it."""
    poll = KafkaSource.poll

    def poll_and_commit(self: KafkaSource, *, within_s: float | None = None) -> Batch | None:
        batch = poll(self, within_s=within_s)
        if batch is not None:
            self.commit(batch.next_offsets())
            time.sleep(_HESITATION_S)
        return batch

    KafkaSource.poll = poll_and_commit  # type: ignore[method-assign]


def skip_a_failed_batch() -> None:
    """A batch whose publishing failed counts as published."""
    publish = KafkaPublisher.publish

    def publish_or_not(self: KafkaPublisher, messages: Sequence[OutgoingMessage]) -> None:
        time.sleep(_HESITATION_S)
        try:
            publish(self, messages)
        except TransportError:
            return

    KafkaPublisher.publish = publish_or_not  # type: ignore[method-assign]


def drop_a_dead_letter() -> None:
    """The third dead letter of each worker is not sent, nor is any third one after it."""
    publish = KafkaPublisher.publish
    seen = 0

    def is_kept(message: OutgoingMessage) -> bool:
        nonlocal seen
        seen += message.topic.endswith(".dlq")
        return not (message.topic.endswith(".dlq") and seen % 3 == 0)

    def publish_most(self: KafkaPublisher, messages: Sequence[OutgoingMessage]) -> None:
        publish(self, [message for message in messages if is_kept(message)])

    KafkaPublisher.publish = publish_most  # type: ignore[method-assign]


SABOTAGES: dict[str, Callable[[], None]] = {
    "commit_before_publishing": commit_before_publishing,
    "skip_a_failed_batch": skip_a_failed_batch,
    "drop_a_dead_letter": drop_a_dead_letter,
}

if __name__ == "__main__":
    SABOTAGES[os.environ["CHAOS_SABOTAGE"]]()
    sys.exit(work_command(sys.argv[1:]))
