"""Progress for people: bars on a terminal, plain lines elsewhere; it computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from trainer.datasets import Chunk
from trainer.fitting import FitProgress

_STAGES = {"encode": "fitting the encoder", "train": "training", "calibrate": "setting the threshold", "done": "done"}
_LINES_A_FIT = 10
_RECORDS_A_LINE = 1_000_000


@contextmanager
def reading(console: Console, what: str) -> Iterator[Callable[[Chunk], None]]:
    """Show how many rows were read so far; call the result with each chunk."""
    rows = 0
    if not console.is_terminal:

        def tell(chunk: Chunk) -> None:
            nonlocal rows
            before, rows = rows, rows + len(chunk)
            if before // _RECORDS_A_LINE != rows // _RECORDS_A_LINE:
                console.print(f"{what}: {rows:,} rows so far, in {chunk.origin.name}", highlight=False, markup=False)

        yield tell
        console.print(f"{what}: {rows:,} rows", highlight=False, markup=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(what, total=None)

        def draw(chunk: Chunk) -> None:
            nonlocal rows
            rows += len(chunk)
            bars.update(task, description=f"{what}: {rows:,} rows, in {chunk.origin.name}")

        yield draw
        bars.update(task, description=f"{what}: {rows:,} rows", total=1, completed=1)


@contextmanager
def fitting(console: Console) -> Iterator[Callable[[FitProgress], None]]:
    """Show stages, steps and losses of a fit; call the result with each progress."""
    if not console.is_terminal:
        lines = _Lines(console)
        yield lines.tell
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task(_STAGES["encode"], total=None, losses="")

        def draw(progress: FitProgress) -> None:
            # The bar stays full behind early stopping: the steps that were not needed are done.
            if progress.stage == "train":
                bars.update(task, total=progress.steps, completed=progress.step)
            elif progress.stage == "done":
                bars.update(task, total=1, completed=1)
            bars.update(task, description=_STAGES.get(progress.stage, progress.stage))
            if progress.training_loss is not None:
                bars.update(task, losses=_losses(progress))

        yield draw


class _Lines:
    """One line a stage, and a few with losses."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._told = 0

    def tell(self, progress: FitProgress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._say(_STAGES.get(progress.stage, progress.stage))
        tenth = progress.step * _LINES_A_FIT // max(progress.steps, 1)
        if progress.training_loss is not None and tenth > self._told:
            self._told = tenth
            self._say(f"  step {progress.step:,} of at most {progress.steps:,}: {_losses(progress)}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)


def _losses(progress: FitProgress) -> str:
    return f"loss {progress.training_loss:.4f}, held out {progress.validation_loss:.4f}"
