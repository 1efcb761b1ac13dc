"""What came of a fit, as tables at the end of `train`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from detector import Detector
from trainer.commands.output import add_row, new_table, note, stdout
from trainer.fitting import FitReport
from trainer.loading import Dataset
from trainer.report import (
    Row,
    head_rows,
    history_rows,
    loss_rows,
    quality_rows,
    record_rows,
    threshold_rows,
)


def print_fit(detector: Detector, report: FitReport, dataset: Dataset) -> None:
    """What became of the records, how the training went, the threshold, and the quality on records held out."""
    console = stdout()
    if report.head is not None:
        note(report.head.verdict)
    for title, rows in (
        ("records", record_rows(report, dataset)),
        ("history", history_rows(detector)),
        ("training", loss_rows(report)),
        ("threshold", threshold_rows(report)),
        ("head", head_rows(report)),
    ):
        if rows:
            console.print(_titled(title, rows))
            console.print()
    if report.evaluation:
        sizes = next(iter(report.evaluation.values()))
        head, *body = quality_rows(report.evaluation, detector.stream.key)
        table = new_table(f"quality on {sizes.records:,} test records, {sizes.anomalies:,} anomalous", *head[1:])
        for cells in body:
            add_row(table, *cells)
        console.print(table)
        console.print()


def _titled(title: str, rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(title, no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        add_row(table, row.name, row.value, row.remark)
    return table
