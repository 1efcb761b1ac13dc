"""What commands print: results on standard output, remarks on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from detector import ModelDirectory
    from trainer.scoring import RowSummary

_WIDTH = 140  # of what is no terminal


def say(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{line}\n")


def print_json(content: Any) -> None:
    """The result for machines."""
    say(json.dumps(content, indent=2, ensure_ascii=False))


def note(line: str) -> None:
    """A remark for people."""
    sys.stderr.write(f"{line}\n")


def note_all(lines: Iterable[str]) -> None:
    """Remarks for people."""
    for line in lines:
        note(line)


def note_rejects(summary: RowSummary) -> None:
    """The first rows that are no records."""
    note_all(f"{each.origin.name}:{each.line}: rejected: {each.message}" for each in summary.examples)


def note_unwritten(fields: Iterable[str]) -> None:
    """Which fields are not in the output, if any."""
    if names := ", ".join(fields):
        note(f"{names}: sensitive, and so not written; the rows are in the order of the input")


def counted(summary: RowSummary) -> str:
    """How many rows there were, and how many of them are no records, for which reasons."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.reasons.most_common())
    told = f" ({reasons})" if reasons else ""
    return f"{summary.rows:,} rows, {summary.reasons.total():,} of them no records{told}"


def say_published(directory: ModelDirectory, version: str) -> None:
    """Where a new version is, and whether it is in production."""
    current = directory.current()
    say(f"published {directory.root.name} {version}")
    say(f"report    {directory.path(version) / 'report.html'}")
    if current == version:
        say("it is in production: workers load it within seconds")
    else:
        say(f"production is still {current}: offbeat models promote {version} --models {directory.root.parent}")


def stdout() -> Console:
    """Where tables go."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def stderr() -> Console:
    """Where progress goes."""
    return Console(stderr=True)


def new_table(*columns: str, head: bool = True) -> Table:
    """A table without lines; `head` says whether its columns have names."""
    table = Table(box=None, show_header=head, padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position == 0)
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row as it is: brackets in a name are no markup."""
    table.add_row(*(Text(cell) for cell in cells))
