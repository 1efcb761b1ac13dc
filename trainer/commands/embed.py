"""`offbeat embed`: codes of files, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import Data, Earlier
from trainer.commands.output import counted, note_rejects, note_unwritten, say, stderr


@failures_told()
def embed(
    model: Annotated[
        Path,
        typer.Argument(
            help="A version's directory; or a detector's, and the version in production; or that of one detector.",
            show_default=False,
        ),
    ],
    data: Data,
    output: Annotated[Path, typer.Option("--output", help="Where to write: .parquet, .csv, .jsonl or .npz.")],
    history: Earlier = None,
) -> None:
    """Write the codes of a file, the encoder's dimension reduction: one row for each of its rows, in order."""
    from trainer.commands import progress
    from trainer.commands.inputs import earlier_files
    from trainer.commands.versions import detector_at
    from trainer.datasets import find_files
    from trainer.embedding import embed_files
    from trainer.writing import hidden_fields

    detector = detector_at(model)
    files = find_files(data)
    with progress.reading(stderr(), "embedding") as tell:
        summary = embed_files(detector, files, output, tell, earlier=earlier_files(history))
    note_rejects(summary)
    note_unwritten(sorted(hidden_fields(detector.stream)))
    say(f"{counted(summary)}: codes of {detector.scorer.network.code_width} numbers in {output}")
