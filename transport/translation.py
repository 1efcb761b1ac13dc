"""What kafka-python's errors mean to those who can act on them. Decides nothing about retries."""

from __future__ import annotations

from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from transport.errors import BrokerUnavailable, ConfigurationRefused, Forbidden, TransportError
from transport.refusals import Refused

# A member that the group has put out or is moving: the next poll joins again.
_MEMBERSHIP = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.MemberIdRequiredError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.UnknownMemberIdError,
)

# kafka-python calls this one not retriable, but all it says is that the metadata is older than the cluster.
_STALE = (kafka_errors.UnknownBrokerIdError,)

_SETTINGS: tuple[tuple[type[KafkaError], str, str], ...] = (
    (
        kafka_errors.FencedInstanceIdError,
        "group_instance_id",
        "another member of the group has the same group_instance_id: give each its own",
    ),
    (
        kafka_errors.InvalidSessionTimeoutError,
        "session_timeout_s",
        "the broker does not allow it: stay between its group.min.session.timeout.ms and group.max.session.timeout.ms",
    ),
    (
        kafka_errors.InconsistentGroupProtocolError,
        "group_id",
        "members of the group assign partitions in another way than cooperative-sticky: stop them, or change group_id",
    ),
    (kafka_errors.InvalidGroupIdError, "group_id", "the broker does not accept this group_id"),
    (kafka_errors.GroupMaxSizeReachedError, "group_id", "the group has as many members as the broker allows"),
    (kafka_errors.InvalidTopicError, "topics", "the broker does not accept the topic's name"),
    (
        kafka_errors.UnsupportedSaslMechanismError,
        "sasl_mechanism",
        "the broker does not offer this sasl_mechanism",
    ),
    (
        kafka_errors.IllegalSaslStateError,
        "security_protocol",
        "the broker did not expect us to sign in on this port: check security_protocol",
    ),
    (
        kafka_errors.UnsupportedVersionError,
        "bootstrap_servers",
        "the broker is too old for what we ask of it: Kafka 2.5 or later is needed",
    ),
    (
        kafka_errors.UnsupportedCodecError,
        "topics",
        "the topic is compressed with a codec that is not installed here: install kafka-python[lz4,snappy,zstd]",
    ),
)


def is_membership(error: KafkaError) -> bool:
    """Whether the group has put this member out, or is moving its partitions."""
    return isinstance(error, _MEMBERSHIP)


def is_passing(error: KafkaError) -> bool:
    """Whether it passes by itself: the network's, the cluster's or the group's, not the operator's."""
    return bool(error.retriable) or isinstance(error, _STALE) or is_membership(error)


def translated(error: KafkaError, doing: str) -> TransportError:
    """Return our own error for one of kafka-python's.

    Args:
        error: What kafka-python raised.
        doing: What we were about to do, as in "could not ...".
    """
    if isinstance(error, Refused):
        return error.ours
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        named = error.args[0] if error.args else ()
        topics = named if isinstance(named, str) else ", ".join(sorted(map(str, named)))
        topics = topics or "a topic"
        return Forbidden(
            f"could not {doing}: no right to topic {topics}; grant it to our user, or correct topics", setting="topics"
        )
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        return Forbidden(
            f"could not {doing}: no right to the consumer group; grant it to our user, or correct group_id",
            setting="group_id",
        )
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return Forbidden(
            f"could not {doing}: the broker refused sasl_username and sasl_password ({error}); correct them",
            setting="sasl_username",
        )
    if isinstance(error, kafka_errors.AuthorizationError):
        return Forbidden(f"could not {doing}: our user has no right to it ({error!r})", setting="sasl_username")
    for kind, setting, advice in _SETTINGS:
        if isinstance(error, kind):
            return ConfigurationRefused(f"could not {doing}: {advice} ({error!r})", setting=setting)
    if is_passing(error):
        return BrokerUnavailable(f"could not {doing}: {error!r}; trying again can help")
    return TransportError(f"could not {doing}: {error!r}; trying again will not help by itself")
