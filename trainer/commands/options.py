"""Arguments and options that several commands have, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    list[Path],
    typer.Argument(
        help="Parquet, CSV, JSONL or idx files or directories of them, of one format; a directory with MNIST/raw; or "
        "kafka:TOPIC.",
        show_default=False,
    ),
]
GivenData = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Parquet, CSV or JSONL files or directories; or kafka:TOPIC. May be given as --input instead.",
        show_default=False,
    ),
]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--input",
        help="A Parquet, CSV or JSONL file or directory; or kafka:TOPIC. May be repeated.",
        show_default=False,
    ),
]
Earlier = Annotated[
    list[Path] | None,
    typer.Option(
        "--history",
        help="Files or directories of earlier records, which are history alone; merged by time. May be repeated.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write: .parquet, .csv or .jsonl.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Models = Annotated[Path, typer.Option("--models", help="Directory of all detectors.", envvar="OFFBEAT_MODELS")]
Name = Annotated[
    str | None,
    typer.Option(
        "--detector", help="Name of the detector; may be omitted where --models holds one.", show_default=False
    ),
]
OneVersion = Annotated[
    str | None, typer.Option("--version", help="Version; production unless given.", show_default=False)
]
SignWith = Annotated[
    Path | None,
    typer.Option(
        "--sign-with",
        help="Ed25519 private key in PEM that signs the new version; its passphrase comes from "
        "OFFBEAT_SIGNING_PASSPHRASE or the file of OFFBEAT_SIGNING_PASSPHRASE_FILE.",
        show_default=False,
    ),
]
