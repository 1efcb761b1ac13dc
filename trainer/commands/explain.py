"""`offbeat explain`: all that is decided about a record of a file, of standard input or of a topic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import AsJson, Earlier, Models, Name, OneVersion
from trainer.commands.output import note, print_json, stdout
from trainer.commands.topic_options import TopicOptions, topic_of

if TYPE_CHECKING:
    from trainer.explaining import Given


@failures_told()
def explain(
    record: Annotated[
        str,
        typer.Argument(
            help="A file with records in JSON, one object or one a line; - for standard input; or kafka:TOPIC, with "
            "--partition and --offset.",
            show_default=False,
        ),
    ],
    *,
    partition: Annotated[int, typer.Option(min=0, help="Partition of the topic.")] = 0,
    offset: Annotated[int | None, typer.Option(min=0, help="Offset of the message in it.", show_default=False)] = None,
    history: Earlier = None,
    with_state: Annotated[
        bool,
        typer.Option(
            "--with-state",
            help="Begin with the histories that were published beside the version. Of a topic that goes without "
            "saying, as the worker does so.",
        ),
    ] = False,
    models: Models = Path("models"),
    detector: Name = None,
    version: OneVersion = None,
    as_json: AsJson = False,
    topic: TopicOptions,
) -> None:
    """Explain records: how each is decoded and encoded, its score, why it alerts or not, and what would not alert.

    A message of a topic is judged as the worker judged it: by what it remembered of the messages before.
    """
    from trainer.commands.inputs import earlier_files, known_before, other_versions
    from trainer.commands.record_tables import show_facts
    from trainer.commands.versions import load_version, published_state
    from trainer.explaining import explain_given, explain_message
    from trainer.writing import hidden_fields
    from transport import Partition

    directory, judge = load_version(models, detector, version)
    name = topic_of([Path(record)])
    state = published_state(directory, judge) if with_state else None
    if name is not None:
        if offset is None:
            raise typer.BadParameter(f"say which message of {name}: --offset, and --partition", param_hint="--offset")
        begin, version_of = known_before(directory, judge, history), other_versions(directory)
        found = explain_message(
            judge, topic.look_back(name), Partition(name, partition), offset, begin=begin, version_of=version_of
        )
    else:
        if offset is not None:
            raise typer.BadParameter("belongs to a topic: write kafka:TOPIC, no file", param_hint="--offset")
        topic.check_unused()
        found = explain_given(judge, _given(record), earlier=earlier_files(history), state=state)
    if as_json:
        print_json([facts.to_json() for facts in found])
        return
    if judge.history is not None and not history and not with_state and name is None:
        note("history begins with these records: give what came before with --history or --with-state")
    if hidden := sorted(hidden_fields(judge.stream)):
        note(f"{', '.join(hidden)}: sensitive, and so not shown")
    for facts in found:
        show_facts(stdout(), facts)


def _given(record: str) -> Given:
    """The records of a file or of standard input."""
    from trainer.errors import DataFileError
    from trainer.explaining import from_text

    if record == "-":
        return from_text("standard input", sys.stdin.buffer.read())
    path = Path(record)
    if not path.is_file():
        raise DataFileError(f"{path}: no such file: give a file with records in JSON, -, or kafka:TOPIC")
    return from_text(path.name, path.read_bytes())
