"""`offbeat score`: scores and verdicts of files, or of a range of a topic, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.failures import failures_told
from trainer.commands.options import Earlier, GivenData, Inputs, Models, Name, OneVersion, Output
from trainer.commands.output import (
    add_row,
    new_table,
    note,
    note_all,
    note_rejects,
    note_unwritten,
    say,
    stderr,
    stdout,
)
from trainer.commands.topic_options import TopicOptions

if TYPE_CHECKING:
    from trainer.scoring import RowSummary


@failures_told()
def score(
    data: GivenData = None,
    *,
    inputs: Inputs = None,
    output: Output,
    history: Earlier = None,
    models: Models = Path("models"),
    detector: Name = None,
    version: OneVersion = None,
    topic: TopicOptions,
) -> None:
    """Score DATA: one row for each of its rows, in order, with score, score ratio and verdict.

    Of kafka:TOPIC, from --from to --to, the rows are its messages with partition and offset, and verdicts are the
    worker's: with what it remembers of earlier ones.
    """
    from trainer.commands import progress
    from trainer.commands.inputs import given_data, scored_inputs
    from trainer.commands.versions import load_version
    from trainer.scoring import score_files, score_partitions
    from trainer.writing import hidden_fields

    directory, judge = load_version(models, detector, version)
    read = scored_inputs(given_data(data, inputs), topic, directory, judge, history)
    with progress.reading(stderr(), "scoring") as tell:
        if read.topic is None:
            summary = score_files(judge, read.sources, output, tell, earlier=read.earlier)
        else:
            summary = score_partitions(judge, read.topic.parts, output, tell)
    note_all(read.remarks())
    note_rejects(summary)
    if judge.alerting.remembers and read.topic is None:
        note(
            "a worker also remembers where the scores of a partition drifted and which entities are quiet: here "
            "the threshold is the calibrated one, and nobody is quiet but for these records"
        )
    note_unwritten(sorted(hidden_fields(judge.stream)))
    _print_verdicts(summary, may_suppress=read.topic is not None)
    say(f"{judge.name} {judge.version}: scores in {output}")


def _print_verdicts(summary: RowSummary, *, may_suppress: bool) -> None:
    """How many rows got which verdict, and why."""
    table = new_table("records", "")
    for verdict in ("normal", "alert", *(("suppressed",) if may_suppress else ()), "reject"):
        add_row(table, verdict, f"{summary.verdicts[verdict]:,}")
        by_reason = {"reject": summary.reasons, "suppressed": summary.suppressed}.get(verdict)
        for reason, count in by_reason.most_common() if by_reason else ():
            add_row(table, f"  {reason}", f"{count:,}")
    add_row(table, "all", f"{summary.rows:,}")
    stdout().print(table)
