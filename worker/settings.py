"""Every setting of the worker: a closed, bounded, cross-checked model; it does not know where the values came from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo

from transport import KafkaSettings

ENVIRONMENT_PREFIX = "OFFBEAT_"


def _split(value: object) -> object:
    """Comma-separated text as a list: flags and variables have no other way to say one."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Topic = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")]
Topics = Annotated[tuple[Topic, ...], BeforeValidator(_split)]
KeyFiles = Annotated[tuple[Path, ...], Field(min_length=1), BeforeValidator(_split)]
_SPAN = re.compile(r"([0-9]+)(s|m|h|d|w)|0")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class HttpSettings(BaseModel):
    """Where metrics and health are served; never a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that /metrics, /livez, /readyz and /statusz listen on. They ask for no password: "
        "open them (0.0.0.0) only inside a network that you trust.",
    )
    port: int = Field(9464, ge=0, le=65535, description="Port of metrics and health; 0 takes a free one and logs it.")
    silence_limit_s: PositiveSeconds = Field(
        30, description="/readyz says 503 when the broker has not answered for this long."
    )


class PoisonSettings(BaseModel):
    """When bad records mean a bad stream, and the worker stops instead of emptying the topic into dead letters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_consecutive: int = Field(
        100,
        ge=1,
        description="Stop, uncommitted, when more records than this in a row are dead letters. "
        "From a tenth of it on, a run is committed only with the next good record or at a clean stop.",
    )
    max_ratio: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Stop, uncommitted, when a larger share of the last `poison.window` records is; 1 never.",
    )
    window: int = Field(1000, ge=10, description="How many records `poison.max_ratio` looks back on.")


class StateSettings(BaseModel):
    """How histories of entities outlive the worker, where the detector has features from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: Topic | None = Field(
        None,
        description="Compacted topic for histories, with as many partitions as the input; `<first input topic>.state` "
        "unless given. Without it a restart replays `state.warm_up` of the input.",
    )
    warm_up: str | None = Field(
        None,
        description='How much of the input to replay where no histories are found, such as "30d"; "0" for none; the '
        "longest window of the features unless given.",
    )
    rotation_s: PositiveSeconds = Field(
        300, description="Every history is written at least this often; a new owner replays as much of the input."
    )

    @field_validator("warm_up")
    @classmethod
    def _span_is_readable(cls, value: str | None) -> str | None:
        if value is not None and _SPAN.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a span of time: write a whole number and one of s, m, h, d, w, or 0")
        return value

    @property
    def warm_up_s(self) -> int | None:
        """`warm_up` in seconds, None where it is not given."""
        match = _SPAN.fullmatch(self.warm_up or "")
        return match and int(match[1] or 0) * _SECONDS[match[2] or "s"]


class DriftSettings(BaseModel):
    """How the stream is compared with what the model was calibrated on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: PositiveSeconds = Field(
        86_400,
        ge=60,
        description="Drift is measured over records of this long a time. A day, or whole days, so that no hour counts "
        "more than another; hours and weekdays are compared only where it covers a day or a week.",
    )
    max_features: int = Field(
        100, ge=1, le=10_000, description="Show the drift of at most so many features: those that drift most."
    )


class WorkerSettings(BaseModel):
    """Every setting of the worker. Read once from flags, OFFBEAT_* variables and the file, then never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_topics: Topics = Field(
        min_length=1, description="Topics whose records are scored; several are separated by commas."
    )
    alert_topic: Topic | None = Field(None, description="Topic for alerts; `<first input topic>.alerts` unless given.")
    dead_letter_topic: Topic | None = Field(
        None, description="Topic for records that cannot be scored; `<first input topic>.dlq` unless given."
    )
    score_topic: Topic | None = Field(
        None, description="Topic for the score of every record; none is kept unless given."
    )
    group_id: str | None = Field(
        None,
        min_length=1,
        description="Consumer group; workers that share it share the partitions. `offbeat-<detector>` unless given.",
    )
    group_instance_id: str | None = Field(
        None,
        min_length=1,
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="Static member name, unique in the group: a quick restart then moves no partition.",
    )
    start_at: Literal["earliest", "latest"] = Field(
        "earliest",
        description="Where a group without a committed offset begins; partitions added later begin at their start.",
    )
    on_offset_out_of_range: Literal["stop", "earliest", "latest"] = Field(
        "stop",
        description="What to do where the broker no longer has the offset to go on from: stop with exit code 1, or go "
        "on with the earliest or latest that it has; what is skipped is logged and counted.",
    )
    models: Path = Field(
        Path("models"), description="Directory of all detectors, as `offbeat train --models` writes it."
    )
    detector: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="Which detector of `models` to serve; may be left out where there is only one.",
    )
    model_public_key: KeyFiles | None = Field(
        None,
        description="PEM files with Ed25519 public keys, separated by commas: only versions that one of them signed "
        "are loaded. Unless given, whoever can write to `models` decides what alerts.",
    )
    reload_interval_s: PositiveSeconds = Field(
        10, description="How often to look whether another version was promoted."
    )
    model_wait_s: float = Field(
        300, ge=0, allow_inf_nan=False, description="How long to wait at start for a first model before exiting with 1."
    )
    max_batch_records: int = Field(
        4096,
        ge=1,
        description="Most records scored in one go. A rebalance waits for the slowest batch, so keep it short.",
    )
    max_batch_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024,
        description="Most bytes fetched for one batch; bounds memory where records are large.",
    )
    fetch_max_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        description="Most bytes, as compressed, that one fetch brings from one broker ahead of the batch in hand; a "
        "larger message comes all the same.",
    )
    max_unacknowledged_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1024,
        description="Most bytes sent and not acknowledged yet; bounds memory where alerts are many or the broker slow.",
    )
    poll_timeout_s: PositiveSeconds = Field(
        0.5, le=60, description="How long an idle poll waits; also how long SIGTERM may go unseen."
    )
    max_poll_interval_s: PositiveSeconds = Field(
        300, description="The broker evicts a worker that has not polled for this long."
    )
    session_timeout_s: PositiveSeconds = Field(
        30,
        description="The broker gives a worker's partitions to others when it was silent for this long.",
    )
    heartbeat_interval_s: PositiveSeconds = Field(
        1,
        description="How often the broker hears from a worker; a rebalance waits so long for it to notice.",
    )
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        "at_least_once",
        description="at_least_once: after a crash some alerts come again, with equal ids. exactly_once: alerts, dead "
        "letters, scores and offsets in transactions; who reads committed messages only sees each once.",
    )
    commit_interval_s: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Least time between two commits; longer means more repeats after a crash, fewer requests. With "
        "exactly_once alerts are seen at the commit. 1 unless given; with exactly_once 0.1, and 1 while more records "
        "wait than a batch has.",
    )
    transaction_timeout_s: PositiveSeconds = Field(
        15,
        description="With exactly_once: the broker aborts a transaction that is open for this long; readers of "
        "committed messages wait so long for one whose worker was killed.",
    )
    commit_timeout_s: PositiveSeconds = Field(5, description="Give up one attempt to commit after this.")
    publish_timeout_s: PositiveSeconds = Field(
        15, description="Give up one attempt to publish after this, and go back to the batch's first offset."
    )
    max_message_bytes: int = Field(
        1_000_000, ge=16_384, description="Largest message the broker takes; longer dead letters are cut and say so."
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "lz4", description="Compression of what the worker publishes."
    )
    retry_initial_s: PositiveSeconds = Field(
        0.2, description="Wait after a first failure; doubles with each further one."
    )
    retry_max_s: PositiveSeconds = Field(15, description="Longest wait between two attempts.")
    alert_contributions: int = Field(
        5, ge=1, le=1000, description="How many features an alert names; the rest is summed up as `others`."
    )
    alert_counterfactuals: bool = Field(
        True,
        description="Whether alerts say what would not have alerted; costs as much an alert as two to four scores.",
    )
    kafka: KafkaSettings = Field(default_factory=KafkaSettings, description="How to reach the brokers.")
    poison: PoisonSettings = Field(default_factory=PoisonSettings, description="When bad records mean a bad stream.")
    state: StateSettings = Field(default_factory=StateSettings, description="How histories outlive the worker.")
    drift: DriftSettings = Field(
        default_factory=DriftSettings, description="How drift from the model's calibration is measured."
    )
    http: HttpSettings = Field(default_factory=HttpSettings, description="Metrics and health.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )
    log_format: Literal["text", "json"] = Field("text", description="Log lines for people, or one JSON object a line.")

    @field_validator("input_topics")
    @classmethod
    def _topics_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(value)} names a topic twice: name each once")
        return value

    @model_validator(mode="after")
    def _topics_make_no_loop(self) -> Self:
        outputs = {
            "alert_topic": self.alerts_to,
            "dead_letter_topic": self.dead_letters_to,
            **({"score_topic": self.score_topic} if self.score_topic else {}),
            "state.topic": self.state_to,
        }
        for setting, topic in outputs.items():
            if topic in self.input_topics:
                raise ValueError(
                    f"{setting} ({topic}) is also an input topic: the worker would read what it writes, without end; "
                    "give it a topic of its own"
                )
        if len(set(outputs.values())) < len(outputs):
            raise ValueError(
                f"{', '.join(f'{setting} ({topic})' for setting, topic in outputs.items())} must differ: "
                "readers of one could not tell it from the other"
            )
        return self

    @model_validator(mode="after")
    def _waits_fit_in_poll_interval(self) -> Self:
        longest = self.publish_timeout_s + self.commit_timeout_s + self.retry_max_s
        if self.poll_timeout_s >= self.max_poll_interval_s:
            raise ValueError(
                f"poll_timeout_s ({self.poll_timeout_s:g}) must be below max_poll_interval_s "
                f"({self.max_poll_interval_s:g}), or waiting for records evicts the worker from its group"
            )
        if longest >= self.max_poll_interval_s:
            raise ValueError(
                f"publish_timeout_s ({self.publish_timeout_s:g}) + commit_timeout_s ({self.commit_timeout_s:g}) + "
                f"retry_max_s ({self.retry_max_s:g}) must be below max_poll_interval_s ({self.max_poll_interval_s:g}), "
                "or one slow publish evicts the worker from its group; lower one of the three or raise the last"
            )
        if self.retry_initial_s > self.retry_max_s:
            raise ValueError(
                f"retry_initial_s ({self.retry_initial_s:g}) must not be above retry_max_s ({self.retry_max_s:g})"
            )
        if self.heartbeat_interval_s * 3 > self.session_timeout_s:
            raise ValueError(
                f"heartbeat_interval_s ({self.heartbeat_interval_s:g}) must be at most a third of session_timeout_s "
                f"({self.session_timeout_s:g}), or one lost heartbeat costs the worker its partitions"
            )
        if self.session_timeout_s > self.max_poll_interval_s:
            raise ValueError(
                f"session_timeout_s ({self.session_timeout_s:g}) must not be above max_poll_interval_s "
                f"({self.max_poll_interval_s:g}): a silent worker would outlive a slow one"
            )
        return self

    @model_validator(mode="after")
    def _transactions_fit(self) -> Self:
        if self.delivery == "exactly_once" and self.commit_every_s >= self.transaction_timeout_s:
            raise ValueError(
                f"commit_interval_s ({self.commit_every_s:g}) must be below transaction_timeout_s "
                f"({self.transaction_timeout_s:g}), or the broker aborts each transaction before it is committed"
            )
        return self

    @property
    def commit_every_s(self) -> float:
        """Least time between two commits, given or by default."""
        if self.commit_interval_s is not None:
            return self.commit_interval_s
        return 0.1 if self.delivery == "exactly_once" else 1.0

    @property
    def commit_behind_every_s(self) -> float:
        """The same while more records wait than a batch has: their alerts are late already, and requests cost time."""
        if self.commit_interval_s is not None:
            return self.commit_interval_s
        return max(self.commit_every_s, min(1.0, self.transaction_timeout_s / 2))

    @property
    def alerts_to(self) -> str:
        """The alert topic, given or by default."""
        return self.alert_topic or f"{self.input_topics[0]}.alerts"

    @property
    def dead_letters_to(self) -> str:
        """The dead-letter topic, given or by default."""
        return self.dead_letter_topic or f"{self.input_topics[0]}.dlq"

    @property
    def state_to(self) -> str:
        """The topic of histories, given or by default."""
        return self.state.topic or f"{self.input_topics[0]}.state"


class Setting(NamedTuple):
    """One setting, flattened: `path` is where it stands in the model."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def key(self) -> str:
        """The dotted name, as in the file and in errors."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """The command line's name for it."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment's name for it."""
        return ENVIRONMENT_PREFIX + "__".join(self.path).upper()

    @property
    def is_secret(self) -> bool:
        """Whether the value is never shown."""
        return "SecretStr" in str(self.field.annotation)

    @property
    def metavar(self) -> str:
        """What stands for a value in the command line's help: the choices, or the name."""
        choices = re.findall(r"Literal\[([^\]]*)\]", str(self.field.annotation))
        return "{" + choices[0].replace("'", "").replace(" ", "") + "}" if choices else self.path[-1].upper()

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return self.field.annotation is bool

    @property
    def default(self) -> str:
        """The default for people."""
        if self.field.is_required():
            return "required"
        value = self.field.get_default(call_default_factory=True)
        if isinstance(value, SecretStr):
            return "****"
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def settings() -> Iterator[Setting]:
    """Every setting, in the order in which people read them."""
    yield from _walk(WorkerSettings, ())


def _walk(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, (*path, name))
        else:
            yield Setting((*path, name), field)


def settings_table() -> str:
    """The settings as a Markdown table; README's copy is checked against it."""
    lines = ["| setting | default | what turning it does |", "|---|---|---|"]
    for setting in settings():
        default = f"`{setting.default}`" if setting.default not in ("", "required") else setting.default or "none"
        description = (setting.field.description or "").replace("|", "\\|")
        lines.append(f"| `{setting.key}` | {default} | {description} |")
    return "\n".join(lines) + "\n"
