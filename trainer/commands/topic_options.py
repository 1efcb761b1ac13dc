"""The options of commands that read topics: those of the connection are the worker's, by the same names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.errors import DataFileError
from transport import KafkaSettings

LookBackOf = Callable[[str, Sequence[str]], Any]
"""Makes a `trainer.topics.LookBack` of a topic and the worker's flags; its type would load what `--help` need not."""

PREFIX = "kafka:"
"""What tells a topic from a file on the command line."""

_PANEL = "Topics: kafka:TOPIC in the place of files"

_STATE = {
    "state.topic": "The worker's topic of histories; TOPIC.state unless given.",
    "state.warm_up": 'How much before the records is read for their histories, such as "30d", or 0; the longest window '
    "of the features unless given.",
}


@dataclass(frozen=True)
class TopicOptions:
    """What a command line says about a topic.

    Attributes:
        flags: Connection and state, as flags of `offbeat work`.
        since: `--from`.
        until: `--to`.
        partitions: `--partition`, none for all.
        look_back_of: Makes what reads the topic as the worker does.
    """

    flags: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    partitions: tuple[int, ...] = ()
    look_back_of: LookBackOf | None = None

    def look_back(self, topic: str) -> Any:
        """What reads the topic as the worker does.

        Raises:
            DataFileError: A setting is refused.
        """
        if self.look_back_of is None:
            raise DataFileError(f"{PREFIX}{topic}: this command was mounted without the worker's room: use `offbeat`")
        return self.look_back_of(topic, self.flags)

    def check_unused(self) -> None:
        """Refuse options of a topic where files are read: they would change nothing.

        Raises:
            DataFileError: There is one.
        """
        said = {"--from": self.since, "--to": self.until, "--partition": self.partitions}
        given = next((option for option, value in said.items() if value), self.flags[0] if self.flags else None)
        if given is not None:
            raise DataFileError(f"{given} belongs to a topic, and files are read: write kafka:TOPIC, or leave it out")


def topic_of(data: Sequence[Path]) -> str | None:
    """The topic that is to be read, None where files are.

    Raises:
        DataFileError: Topic and files are mixed, or there are several topics, or the topic has no name.
    """
    topics = [str(path).removeprefix(PREFIX) for path in data if str(path).startswith(PREFIX)]
    if not topics:
        return None
    if len(data) > 1:
        raise DataFileError(f"{PREFIX}{topics[0]}: stands beside other data, and a topic is read alone: give only it")
    if not topics[0]:
        raise DataFileError(f"{PREFIX}: names no topic: write {PREFIX}TOPIC")
    return topics[0]


def reading_topics(
    command: Callable[..., None], look_back_of: LookBackOf | None, *, ranges: bool = True
) -> Callable[..., None]:
    """Give a command the options of topics; they come as its argument `topic`.

    Args:
        command: The command.
        look_back_of: Made by the worker's room, and handed over by the front door.
        ranges: Whether it reads a range; else the command says itself what it reads.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "topic"]
    range_options = list(_range_options()) if ranges else []
    options = {parameter.name: flag for parameter, flag in _worker_options()}

    @functools.wraps(command)
    def wrapped(*args: Any, **given: Any) -> None:
        flags = [word for name, flag in options.items() for word in _as_flag(flag, given.pop(name))]
        topic = TopicOptions(
            flags=tuple(flags),
            since=given.pop("since", None),
            until=given.pop("until", None),
            partitions=tuple(given.pop("only_partitions", None) or ()),
            look_back_of=look_back_of,
        )
        command(*args, **given, topic=topic)

    parameters = [*own, *range_options, *(parameter for parameter, _ in _worker_options())]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del wrapped.__wrapped__
    return wrapped


def _range_options() -> Iterator[inspect.Parameter]:
    ends = "an ISO date or time (UTC where it names no zone) of messages, or PARTITION:OFFSET,... or OFFSET"
    yield _option("since", "--from", f"Begin here: {ends}; the oldest message unless given.")
    yield _option("until", "--to", f"End before this: {ends}; behind the newest message of now unless given.")
    yield _option("only_partitions", "--partition", "Only this partition; may be repeated.", list[int] | None)


def _worker_options() -> Iterator[tuple[inspect.Parameter, str]]:
    """Each option with the flag that `offbeat work` has for it."""
    yield _option("worker_config", "--config", "TOML file with the worker's settings; also OFFBEAT_CONFIG."), "--config"
    for name, info in KafkaSettings.model_fields.items():
        flag = f"--kafka.{name.replace('_', '-')}"
        spelling = [flag, "--bootstrap-servers"] if name == "bootstrap_servers" else [flag]
        kind: Any = str | None
        if info.annotation is bool:
            spelling, kind = [f"{flag}/--no-{flag.removeprefix('--')}"], bool | None
        yield _option(f"kafka__{name}", spelling, info.description or "", kind), flag
    for name, told in _STATE.items():
        flag = f"--{name.replace('_', '-')}"
        yield _option(name.replace(".", "__"), flag, told), flag


def _option(name: str, spelling: str | Sequence[str], told: str, kind: Any = str | None) -> inspect.Parameter:
    spellings = [spelling] if isinstance(spelling, str) else spelling
    option = typer.Option(*spellings, help=told, rich_help_panel=_PANEL, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _as_flag(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag.removeprefix('--')}"
    elif value is not None:
        yield f"{flag}={value}"
