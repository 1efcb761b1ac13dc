"""`offbeat features`: history features of files, or of a range of a topic, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import Earlier, GivenData, Inputs, Models, Name, OneVersion, Output
from trainer.commands.output import counted, note_all, note_rejects, note_unwritten, say, stderr
from trainer.commands.topic_options import TopicOptions, topic_of


@failures_told()
def features(
    data: GivenData = None,
    *,
    inputs: Inputs = None,
    output: Output,
    history: Earlier = None,
    stream: Annotated[
        Path | None,
        typer.Option(
            "--stream", help="A stream definition (stream.toml), in the place of a model.", show_default=False
        ),
    ] = None,
    models: Models = Path("models"),
    detector: Name = None,
    version: OneVersion = None,
    topic: TopicOptions,
) -> None:
    """Write the history features of DATA: one row for each of its rows, in order."""
    from detector import StreamDefinition
    from trainer.commands import progress
    from trainer.commands.inputs import Reading, earlier_files, given_data, scored_inputs
    from trainer.commands.versions import load_version
    from trainer.datasets import find_files
    from trainer.errors import DataFileError
    from trainer.features import feature_files, hidden_features
    from trainer.writing import hidden_fields

    data = given_data(data, inputs)
    if stream is not None:
        if topic_of(data) is not None:
            raise DataFileError("--stream: of a topic the features are those of a model: leave it out")
        topic.check_unused()
        definition, fitted = StreamDefinition.load(stream), None
        read = Reading(find_files(data), earlier_files(history))
    else:
        directory, loaded = load_version(models, detector, version)
        definition, fitted = loaded.stream, loaded.history
        read = scored_inputs(data, topic, directory, loaded, history)
    with progress.reading(stderr(), "features") as tell:
        summary = feature_files(definition, fitted, read.sources, output, tell, earlier=read.earlier)
    note_all(read.remarks())
    note_rejects(summary)
    note_unwritten([*sorted(hidden_fields(definition)), *hidden_features(definition)])
    say(f"{counted(summary)}: features in {output}")
