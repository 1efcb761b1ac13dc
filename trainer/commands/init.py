"""`offbeat init`: a stream definition from data."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import Data


@failures_told()
def init(
    data: Data,
    name: Annotated[
        str | None, typer.Option(help="Name of the detector; from the data's file name unless given.")
    ] = None,
    records: Annotated[int, typer.Option(min=10, help="Look at so many records, the first ones.")] = 200_000,
    normal: Annotated[
        list[int] | None,
        typer.Option(
            "--normal", help="Of labelled images: a label that is normal; may be repeated.", show_default=False
        ),
    ] = None,
) -> None:
    """Propose a stream definition for DATA on standard output, with the reasons as comments."""
    from trainer.columns import sample_columns
    from trainer.commands.inputs import training_files
    from trainer.image_files import is_idx
    from trainer.image_proposal import propose_images
    from trainer.proposal import propose

    files = training_files(data)
    if is_idx(files[0]):
        sys.stdout.write(propose_images(files[0], name or data[0].resolve().stem.lower(), normal or ()))
        return
    columns, looked_at = sample_columns(files, records)
    proposal = propose(columns, looked_at, name or data[0].resolve().stem)
    sys.stdout.write(proposal.to_toml())
