"""How to reach a Kafka cluster, and how to read from and write to it. Reads neither environment nor files."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
StartAt = Literal["earliest", "latest"]


class KafkaSettings(BaseModel):
    """How to reach the cluster and who we are to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = Field(
        "127.0.0.1:9092",
        min_length=1,
        examples=["broker-1:9092,broker-2:9092"],
        description="Brokers to ask first, host:port, separated by commas; the others are learned from them.",
    )
    client_id: str = Field("offbeat", min_length=1, description="Our name in the broker's logs and quotas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Whether the connection is encrypted (SSL) and signs in (SASL)."
    )
    ssl_cafile: str | None = Field(
        None,
        description="PEM file of the authorities that sign the brokers' certificates; the system's where not given.",
    )
    ssl_certfile: str | None = Field(None, description="PEM file of our own certificate, where brokers ask for one.")
    ssl_keyfile: str | None = Field(None, description="PEM file of our certificate's private key.")
    ssl_password: SecretStr | None = Field(None, description="Password of the private key.")
    ssl_check_hostname: bool = Field(True, description="Whether a broker's certificate must bear its host name.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="How to sign in; needed by the SASL protocols."
    )
    sasl_username: str | None = Field(None, description="Who signs in.")
    sasl_password: SecretStr | None = Field(None, description="Password of who signs in.")
    connect_timeout_s: PositiveFloat = Field(
        5.0, description="Give up one attempt to reach any broker after this; the next attempt is the caller's."
    )
    request_timeout_s: float = Field(
        30.0, gt=1.0, le=300.0, description="Count a request as lost and its connection as broken after this."
    )
    reconnect_backoff_max_s: PositiveFloat = Field(
        2.0, description="Longest pause between two attempts to reach a broker that is away."
    )
    metadata_max_age_s: PositiveFloat = Field(
        60.0, description="Ask for topics and partitions again after this: how soon added partitions are noticed."
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, value: str) -> str:
        for server in value.split(","):
            host, separator, port = server.strip().rpartition(":")
            if not host or not separator or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"{server.strip()!r} is no address of a broker: write host:port, separated by commas")
        return value

    @model_validator(mode="after")
    def _security_is_complete(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            for name in ("sasl_mechanism", "sasl_username", "sasl_password"):
                if getattr(self, name) is None:
                    raise ValueError(f"security_protocol is {self.security_protocol} and {name} is missing: set {name}")
        elif self.sasl_username is not None or self.sasl_mechanism is not None:
            raise ValueError(
                f"sasl_* is set and security_protocol is {self.security_protocol}, so nobody would sign in: "
                f"set security_protocol to SASL_SSL (or SASL_PLAINTEXT), or drop the sasl_* settings"
            )
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile belong together: set both or neither")
        return self


class SourceSettings(BaseModel):
    """How one member of a consumer group reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: tuple[str, ...] = Field(min_length=1, description="Topics to read.")
    group_id: str = Field(min_length=1, description="The consumer group: its members share the partitions.")
    group_instance_id: str | None = Field(
        None,
        min_length=1,
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Static membership: a member that comes back under this name within session_timeout_s gets its "
        "partitions back without a rebalance. Must be unique in the group.",
    )
    start_at: StartAt = Field(
        "earliest",
        description="Where a group without any committed offset for a topic starts. Partitions added later always "
        "start at their beginning.",
    )
    isolation_level: Literal["read_committed", "read_uncommitted"] = Field(
        "read_committed", description="Whether messages of aborted and unfinished transactions are left out."
    )
    max_batch_records: PositiveInt = Field(2048, description="Most messages of one poll.")
    max_batch_bytes: PositiveInt = Field(
        32 * 2**20,
        description="Aim for at most this many bytes of values in one poll, by the mean size of those seen last.",
    )
    fetch_max_bytes: PositiveInt = Field(
        16 * 2**20, description="Most bytes that one fetch brings from one broker, as compressed on the wire."
    )
    fetch_max_partition_bytes: PositiveInt = Field(
        2 * 2**20, description="Most bytes that one fetch brings from one partition, as compressed on the wire."
    )
    poll_timeout_s: float = Field(0.5, ge=0.0, le=60.0, description="Longest wait for messages in one poll.")
    max_poll_interval_s: PositiveFloat = Field(
        300.0, description="The group puts out a member that does not poll for this long."
    )
    session_timeout_s: PositiveFloat = Field(
        45.0, description="The group puts out a member whose heartbeats stay away for this long."
    )
    heartbeat_interval_s: PositiveFloat = Field(
        3.0, description="Time between heartbeats; lower lets members learn of a rebalance sooner."
    )
    commit_timeout_s: PositiveFloat = Field(5.0, description="Give up one commit, or one farewell, after this.")
    commit_on_release: bool = Field(
        True,
        description="Commit what is done before partitions are given up. Off where offsets travel in transactions.",
    )

    start_paused: bool = Field(
        False,
        description="Whether a partition gives nothing from its assignment on until it is resumed: for those who must "
        "get something ready before its first message. Off, its messages may come with the poll that gains it.",
    )

    @field_validator("topics")
    @classmethod
    def _topics_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError(f"topics {list(value)} must be named once each and not be empty")
        return value

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        if 3 * self.heartbeat_interval_s > self.session_timeout_s:
            raise ValueError(
                f"heartbeat_interval_s ({self.heartbeat_interval_s:g}) must be at most a third of session_timeout_s "
                f"({self.session_timeout_s:g}), or one lost heartbeat puts this member out of its group"
            )
        if self.max_poll_interval_s < self.session_timeout_s:
            raise ValueError(
                f"max_poll_interval_s ({self.max_poll_interval_s:g}) must be at least session_timeout_s "
                f"({self.session_timeout_s:g})"
            )
        if self.poll_timeout_s >= self.max_poll_interval_s:
            raise ValueError(
                f"poll_timeout_s ({self.poll_timeout_s:g}) must be below max_poll_interval_s "
                f"({self.max_poll_interval_s:g}), or waiting for messages puts this member out of its group"
            )
        return self


class PublisherSettings(BaseModel):
    """How messages are published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    publish_timeout_s: PositiveFloat = Field(30.0, description="Give up one attempt to publish after this.")
    commit_timeout_s: PositiveFloat = Field(
        5.0, description="Give up one attempt to end a transaction after this; without transactions of no account."
    )
    transaction_timeout_s: PositiveFloat = Field(
        15.0,
        description="The broker aborts a transaction that is open for this long; readers of committed messages wait so "
        "long for one whose process died.",
    )
    max_message_bytes: PositiveInt = Field(
        1_000_000,
        description="Largest message, uncompressed; keep it at or below the max.message.bytes of the topics.",
    )
    compression: Compression = Field("lz4", description="How messages are compressed on the wire.")
    linger_s: float = Field(
        0.0, ge=0.0, le=1.0, description="Wait this long for more messages to send together; adds to every latency."
    )
