"""`offbeat dlq list|show|redrive`: looks at dead letters and sends them back; what is done is decided elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from transport import KafkaPublisher, KafkaSettings, Partition, PublisherSettings, TransportError, missing_topics
from worker.clock import Stop, stopping_on_signals
from worker.configuration import configure
from worker.errors import EXIT_OPERATOR, SettingsRefused, WorkerError
from worker.letters import Letter, Letters, Selection
from worker.overview import overview_of
from worker.redrive import MOST_ATTEMPTS, Orders, Tally, plan, redrive

if TYPE_CHECKING:
    from worker.overview import Overview

_SPAN = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LARGEST_MESSAGE = 2**30  # the broker says what is too large for it: a letter was not, and is larger than its record

TopicName = Annotated[
    str | None,
    typer.Option(
        "--topic",
        help="The dead-letter topic; else the one of the worker's settings, from the file or OFFBEAT_... variables.",
        show_default=False,
    ),
]
Servers = Annotated[
    str | None,
    typer.Option(
        help="Brokers, host:port, separated by commas; other settings of the connection are the worker's, from the "
        "file or OFFBEAT_KAFKA__... variables.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The worker's TOML file; also OFFBEAT_CONFIG.", show_default=False),
]
Reasons = Annotated[
    list[str] | None, typer.Option("--reason", help="Only of this reason; may be repeated.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option(
        help="Only what failed at this time or later: ISO-8601, UTC without a zone, or how long ago, as 90m or 7d.",
        show_default=False,
    ),
]
Until = Annotated[
    str | None, typer.Option(help="Only what failed before this time, said likewise.", show_default=False)
]
InPartition = Annotated[
    int | None, typer.Option("--partition", min=0, help="Only of this partition of the dead-letter topic.")
]
AtOffset = Annotated[
    int | None, typer.Option("--offset", min=0, help="Only the letter at this offset; with --partition.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Place(NamedTuple):
    """Where dead letters are."""

    kafka: KafkaSettings
    topic: str


def dlq_app() -> typer.Typer:
    """The commands below `offbeat dlq`."""
    app = typer.Typer(no_args_is_help=True, help="Look at dead letters, and send them back once their cause is mended.")
    app.command("list")(list_letters)
    app.command("show")(show_letter)
    app.command("redrive")(redrive_letters)
    return app


def list_letters(
    *,
    topic: TopicName = None,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    partition: InPartition = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that were not redriven.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Show at most so many one by one: the last ones.")] = 20,
    bootstrap_servers: Servers = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason and time, and list the last ones; their contents are not shown."""
    with _failures_told():
        place = _place(topic, bootstrap_servers, config)
        selection = _selection(reason, since, until, partition, None)
        found = overview_of(Letters(*place), selection, limit=limit, only_waiting=waiting)
        if as_json:
            _print_json({"topic": place.topic, **found.to_json()})
        else:
            _show_overview(place.topic, found)


def show_letter(
    partition: Annotated[int, typer.Argument(min=0, help="Partition of the dead-letter topic.")],
    offset: Annotated[int, typer.Argument(min=0, help="Offset in it, as `offbeat dlq list` says.")],
    *,
    topic: TopicName = None,
    value: Annotated[
        bool, typer.Option("--value", help="Also print key, value and headers of the record, sensitive fields and all.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the value's bytes and nothing else.")] = False,
    bootstrap_servers: Servers = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why, from where, when. What is in the record only with --value or --raw.

    A record that could not be decoded has no fields that could be masked: whatever is sensitive in it would be printed.
    """
    with _failures_told():
        place = _place(topic, bootstrap_servers, config)
        letter = _letter(place, partition, offset)
        if raw:
            sys.stdout.buffer.write(letter.value or b"")
            return
        facts = _facts(letter) | (_contents(letter) if value else {})
        if as_json:
            _print_json(facts)
            return
        _show_facts(facts)
        if not value:
            _note("what is in the record is not shown, as it may be sensitive: --value prints it, --raw its bytes")


def redrive_letters(
    *,
    topic: TopicName = None,
    reason: Reasons = None,
    since: Since = None,
    until: Until = None,
    partition: InPartition = None,
    offset: AtOffset = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Redrive at most so many, the oldest first.", show_default=False)
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Topic to publish to, instead of the one each came from.", show_default=False),
    ] = None,
    max_attempts: Annotated[
        int, typer.Option(min=1, help="Refuse records that were redriven so often and failed again.")
    ] = MOST_ATTEMPTS,
    force: Annotated[bool, typer.Option("--force", help="Redrive those too.")] = False,
    keep_timestamps: Annotated[
        bool,
        typer.Option("--keep-timestamps", help="Give messages the records' own timestamps, not the time of redriving."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only say what would be done.")] = False,
    bootstrap_servers: Servers = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Publish dead letters again as they came, to where they came from, each once; a dry run without --yes."""
    with _failures_told():
        place = _place(topic, bootstrap_servers, config)
        if offset is not None and partition is None:
            raise SettingsRefused("--offset: say in which partition of the dead-letter topic it is: --partition")
        orders = Orders(
            _selection(reason, since, until, partition, offset), to, limit, max_attempts, force, keep_timestamps
        )
        letters = Letters(*place)
        tally = plan(letters, orders)
        _check_targets(place, tally)
        if yes and tally.letters:
            tally = _redrive(place, letters, orders)
        if as_json:
            _print_json(_tally_json(tally, done=yes))
        else:
            _show_tally(tally, done=yes)
    if tally.refused or tally.stopped:
        raise typer.Exit(EXIT_OPERATOR)


# -- asking ---------------------------------------------------------------------------------------------------------


def _place(topic: str | None, servers: str | None, config: Path | None) -> Place:
    """Where dead letters are, by the settings that a worker would have."""
    arguments = [] if config is None else ["--config", str(config)]
    if servers is not None:
        arguments += ["--kafka.bootstrap-servers", servers]
    if topic is not None:
        # A worker must have an input; of it nothing but its name would be asked here, and the name is given.
        arguments += ["--dead-letter-topic", topic, "--input-topics", f"{topic[:240]}.origin"]
    try:
        settings = configure(arguments).settings
    except SettingsRefused as error:
        if topic is None and "input_topics: is required" in str(error):
            raise SettingsRefused(
                "--topic: say which topic holds the dead letters, or give the settings of its worker: --config, or "
                "OFFBEAT_INPUT_TOPICS"
            ) from None
        raise
    return Place(settings.kafka, settings.dead_letters_to)


def _selection(
    reasons: list[str] | None, since: str | None, until: str | None, partition: int | None, offset: int | None
) -> Selection:
    if reasons:
        from worker.dead_letters import STAGES  # torch takes a second, which those without --reason need not wait for

        known = sorted(map(str, STAGES))
        if unknown := sorted(set(reasons) - set(known)):
            raise SettingsRefused(f"--reason {', '.join(unknown)}: is no reason; there are {', '.join(known)}")
    now = datetime.now(UTC)
    return Selection(
        reasons=frozenset(reasons or ()),
        since=None if since is None else time_of(since, now, "--since"),
        until=None if until is None else time_of(until, now, "--until"),
        partition=partition,
        offset=offset,
    )


def time_of(text: str, now: datetime, option: str) -> datetime:
    """A time as people say it: ISO-8601, UTC unless it has a zone, or a span such as 24h back from now.

    Raises:
        SettingsRefused: It is neither.
    """
    if match := _SPAN.fullmatch(text.strip()):
        try:
            return now - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SettingsRefused(
            f"{option} {text!r}: is no time: write 2026-03-01, 2026-03-01T08:30, or how long ago, such as 24h"
        ) from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _letter(place: Place, partition: int, offset: int) -> Letter:
    from transport import RangeReader, bounds
    from worker.letters import letter_of

    where = Partition(place.topic, partition)
    first, end = bounds(place.kafka, [where], 10.0)[where]
    if not first <= offset < end:
        there = f"its offsets are {first} to {end - 1}" if end > first else "it is empty"
        raise SettingsRefused(f"{where} has no message at offset {offset}: {there}")
    reader = RangeReader(place.kafka, where, offset, offset + 1)
    try:
        for _ in range(10):
            batch = reader.poll(1.0)
            if batch is not None:
                letter = letter_of(batch, 0)
                if letter is None:
                    raise SettingsRefused(
                        f"the message at offset {offset} of {where} is no dead letter: it has no dlq.reason, or is the "
                        "note of a redrive"
                    )
                return letter
            if reader.done:
                break
    finally:
        reader.close()
    raise SettingsRefused(f"{where} gave no message at offset {offset}: it is gone, or the broker is away")


def _check_targets(place: Place, tally: Tally) -> None:
    if missing := missing_topics(place.kafka, sorted(tally.letters)):
        raise SettingsRefused(
            f"{', '.join(missing)}: no such topic, and none is created by itself: create it, or give another with --to"
        )


def _redrive(place: Place, letters: Letters, orders: Orders) -> Tally:
    publisher = KafkaPublisher(place.kafka, PublisherSettings(max_message_bytes=_LARGEST_MESSAGE, linger_s=0.005))
    stop = Stop()
    done = 0

    def told(tally: Tally) -> None:
        nonlocal done
        done = tally.letters.total()
        _note(f"{done} redriven")

    try:
        with stopping_on_signals(stop):
            return redrive(letters, orders, publisher, stopped=stop.is_set, on_progress=told)
    except TransportError as error:
        raise SettingsRefused(
            f"stopped after {done} letters: {error}. Those are noted, and another run goes on behind them; of the few "
            "hundred in hand some may come twice, with equal dlq.redrive_of"
        ) from error
    finally:
        publisher.close()


# -- telling --------------------------------------------------------------------------------------------------------


@contextmanager
def _failures_told() -> Iterator[None]:
    try:
        yield
    except (WorkerError, TransportError) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(EXIT_OPERATOR) from None


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _show_overview(topic: str, found: Overview) -> None:
    console = Console()
    console.print(
        f"{topic}: {found.waiting} dead letters wait, {found.redriven} were redriven", highlight=False, markup=False
    )
    if found.passed_over:
        _note(f"{found.passed_over} messages are no dead letters of offbeat: passed over")
    if found.by_reason:
        reasons = Table("reason", "stage", "waiting", "redriven", "first", "last")
        for each in found.by_reason:
            times = (_minute(each.first), _minute(each.last))
            reasons.add_row(each.reason, each.stage, str(each.waiting), str(each.redriven), *times)
        console.print(reasons)
        times_table = Table(found.by, "dead letters")
        for time, count in found.by_time:
            times_table.add_row(time, str(count))
        console.print(times_table)
    if found.last:
        rows = Table("failed at", "partition", "offset", "reason", "attempts", "", "from", "what is wrong")
        for row in found.last:
            state = "redriven" if row.redriven else "cut" if row.truncated else ""
            place = (str(row.partition), str(row.offset))
            rows.add_row(
                _minute(row.failed_at), *place, row.reason, str(row.attempts), state, str(row.original), row.message
            )
        console.print(rows)


def _minute(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _facts(letter: Letter) -> dict[str, Any]:
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "stage": letter.stage,
        "message": letter.message,
        "failed_at": letter.failed_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "attempts": letter.attempts,
        "original": letter.original._asdict() | {"timestamp_ms": letter.original_timestamp_ms},
        "redrive_of": None if letter.redrive_of is None else letter.redrive_of._asdict(),
        "truncated": letter.truncated or None,
        "key_bytes": None if letter.key is None else len(letter.key),
        "value_bytes": None if letter.value is None else len(letter.value),
        "dead_letter_headers": {
            name: content.decode("utf-8", "replace") for name, content in letter.headers if name.startswith("dlq.")
        },
        "header_names": [_printable(name) for name, _ in letter.own_headers],
    }


def _contents(letter: Letter) -> dict[str, Any]:
    """What is in the record, as text where it is text, else in hexadecimal."""
    return {
        "headers": [{"name": _printable(name), **_shown(content)} for name, content in letter.own_headers],
        "key": None if letter.key is None else _shown(letter.key),
        "value": None if letter.value is None else _shown(letter.value),
    }


def _shown(content: bytes) -> dict[str, str]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return {"hex": content.hex()}
    # What a terminal would obey is not shown to it.
    return {"text": text} if all(c.isprintable() or c in "\n\t" for c in text) else {"hex": content.hex()}


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _show_facts(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, fact in facts.items():
        if name == "dead_letter_headers":
            continue
        table.add_row(name.replace("_", " "), _in_words(fact))
    for name, text in facts["dead_letter_headers"].items():
        table.add_row(name, _in_words(text))
    Console(markup=False, highlight=False).print(table)


def _in_words(fact: Any) -> str:
    if isinstance(fact, list):
        return "; ".join(map(_in_words, fact)) or "none"
    if isinstance(fact, dict):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in fact.items())
    text = "none" if fact is None else str(fact)
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _tally_json(tally: Tally, *, done: bool) -> dict[str, Any]:
    return {
        "done": done,
        "stopped": tally.stopped,
        "redriven" if done else "would_be_redriven": dict(tally.letters),
        "bytes": tally.size_bytes,
        "redriven_before": tally.already,
        "refused": dict(tally.refused),
        "no_dead_letters": tally.passed_over,
    }


def _show_tally(tally: Tally, *, done: bool) -> None:
    for to, count in sorted(tally.letters.items()):
        sys.stdout.write(f"{count} {'redriven to' if done else 'would be redriven to'} {to}\n")
    if not tally.letters:
        sys.stdout.write("nothing to redrive\n")
    if tally.already:
        sys.stdout.write(f"{tally.already} were redriven before\n")
    for why, count in tally.refused.items():
        sys.stdout.write(f"{count} refused: {why}\n")
    if tally.passed_over:
        _note(f"{tally.passed_over} messages are no dead letters of offbeat: passed over")
    if tally.stopped:
        _note("stopped before the end: another run goes on")
    if tally.letters and not done:
        _note("nothing was published: add --yes to redrive them")
