"""What can go wrong between us and the broker, by who can act on it. Knows no client library.

TransportError
 ├── BrokerUnavailable      the network's: wait and try again, nothing is lost
 ├── CommitRefused          the group's: another member may own the partitions by now; they will be read again
 ├── CommitInDoubt          the network's: a transaction is committed or not, and only the broker knows
 ├── PublishFailed          some message is not acknowledged; `retriable` says whether the same call can succeed later
 ├── MessageTooLarge        the caller's: known before anything was sent, so that the message can be cut
 ├── Forbidden              the operator's: credentials or access rights, with the setting to look at
 ├── ConfigurationRefused   the operator's: a setting that client or broker does not accept
 └── OffsetOutOfRange       the operator's: the committed offset no longer exists; never a silent jump
"""

# The names say what happened, as the broker would put it: "publish failed", "commit refused".
# ruff: noqa: N818

from __future__ import annotations

from transport.messages import Partition


class TransportError(Exception):
    """Whatever the broker or its client refused."""


class BrokerUnavailable(TransportError):
    """No broker answered in time, or one asked to be asked again; trying again can help."""


class CommitRefused(TransportError):
    """The group did not take the offsets; they are not committed.

    Attributes:
        evicted: True where this member was put out of the group, so that its partitions are lost with the
            next poll. False where the group is only moving partitions about: what stays here stays committable.
    """

    def __init__(self, message: str, *, evicted: bool) -> None:
        super().__init__(message)
        self.evicted = evicted


class CommitInDoubt(TransportError):
    """A transaction was asked to end and nobody said how it did: ask again with `settle` before anything else."""


class PublishFailed(TransportError):
    """At least one message was not acknowledged; any of the others may have been delivered.

    Attributes:
        retriable: Whether publishing the same messages again can succeed without anybody's help.
        topic: The topic of the first message that failed, where one is known.
    """

    def __init__(self, message: str, *, retriable: bool, topic: str | None = None) -> None:
        super().__init__(message)
        self.retriable = retriable
        self.topic = topic


class MessageTooLarge(TransportError):
    """A message is larger than `max_message_bytes`; nothing of its batch was sent.

    Attributes:
        index: Which of the messages given to `publish`.
        topic: Where it was to go.
        size_bytes: Its size on the wire, uncompressed.
        limit_bytes: The limit that it breaks.
    """

    def __init__(self, *, index: int, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"message {index} for topic {topic!r} has {size_bytes} bytes and max_message_bytes is {limit_bytes}: "
            f"cut the message, or raise max_message_bytes together with the topic's max.message.bytes"
        )
        self.index = index
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class Forbidden(TransportError):
    """The broker knows us and says no, or does not know us.

    Attributes:
        setting: The setting to look at first, by the name it has in this package.
    """

    def __init__(self, message: str, *, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class ConfigurationRefused(TransportError):
    """Client or broker does not accept a setting.

    Attributes:
        setting: The setting's name in this package.
    """

    def __init__(self, message: str, *, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class OffsetOutOfRange(TransportError):
    """The position in a partition does not exist (any more).

    Attributes:
        partition: Where.
        offset: The position that the broker does not have.
    """

    def __init__(self, message: str, *, partition: Partition, offset: int) -> None:
        super().__init__(message)
        self.partition = partition
        self.offset = offset
