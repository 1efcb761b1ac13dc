"""`offbeat calibrate`: another threshold for a detector, on fresh records or on the scores that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import Earlier, Models, Name, OneVersion, SignWith
from trainer.commands.output import add_row, new_table, note_all, note_rejects, say_published, stderr, stdout
from trainer.commands.topic_options import TopicOptions

if TYPE_CHECKING:
    from trainer.calibration import Calibration


@failures_told()
def calibrate(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Fresh records: Parquet, CSV, JSONL or idx files or directories of them, of one format; or "
            "kafka:TOPIC. Without any, the new budget or rate is set on the scores that the version holds.",
            show_default=False,
        ),
    ] = None,
    *,
    stream: Annotated[
        Path | None,
        typer.Option(
            help="A stream definition whose [threshold] and [[suppress]] the new version takes over; all else in it "
            "has to be as the version was trained.",
            show_default=False,
        ),
    ] = None,
    history: Earlier = None,
    models: Models = Path("models"),
    detector: Name = None,
    version: OneVersion = None,
    promote: Annotated[bool, typer.Option(help="Put the new version into production.")] = True,
    sign_with: SignWith = None,
    alert_budget: Annotated[
        str | None, typer.Option(help='Expected false alarms, such as "50/day", in place of the detector\'s.')
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of normal records that may alert, in place of the detector's.")
    ] = None,
    one_in: Annotated[
        float | None, typer.Option(help="One normal record in so many may alert, in place of the detector's.", min=1)
    ] = None,
    cost_false_alarm: Annotated[
        float | None, typer.Option(help="Cost of an alert on a normal record: choose what costs least.", min=0)
    ] = None,
    cost_miss: Annotated[float | None, typer.Option(help="Cost of a labelled anomaly without an alert.", min=0)] = None,
    best_f1: Annotated[bool, typer.Option("--best-f1", help="Choose the best F1 on labelled records.")] = False,
    topic: TopicOptions,
) -> None:
    """Set the threshold of a detector anew, on fresh records of DATA or without any, as a new version."""
    rates = [value for value in (alert_budget, false_alarm_rate, one_in) if value is not None]
    costs = [value for value in (cost_false_alarm, cost_miss) if value is not None]
    if len(costs) == 1 or bool(rates) + bool(costs) + best_f1 > 1:
        raise typer.BadParameter(
            "say one of: a budget or rate, --cost-false-alarm together with --cost-miss, or --best-f1"
        )
    if not data and (not (rates or stream) or costs or best_f1 or history):
        raise typer.BadParameter(
            "without records, another promise can be set on the scores that the version holds: state --alert-budget, "
            "--false-alarm-rate, --one-in or --stream, and no --history; costs and F1 need labelled records"
        )

    from detector import StreamDefinition
    from trainer.calibration import Cost, calibrate_on, calibrate_on_kept, with_rules_of, with_stream
    from trainer.commands import progress
    from trainer.commands.inputs import scored_inputs
    from trainer.commands.signing import signing_key
    from trainer.commands.thresholds import with_threshold
    from trainer.commands.versions import load_version

    key = None if sign_with is None else signing_key(sign_with)
    # What is signed was signed: else a version of anybody's would pass under this key.
    directory, judge = load_version(models, detector, version, trusted=None if key is None else key.public)
    before = judge.stream if stream is None else with_rules_of(StreamDefinition.load(stream), judge.stream)
    wanted = with_threshold(before, alert_budget, false_alarm_rate, one_in)
    if data:
        read = scored_inputs(data, topic, directory, judge, history)
        with progress.reading(stderr(), "scoring") as tell:
            done = calibrate_on(
                judge, read.sources, wanted, earlier=read.earlier,
                cost=Cost(*costs) if costs else None, best_f1=best_f1, progress=tell,
            )  # fmt: skip
        note_all(read.remarks())
        note_rejects(done.read)
        if read.topic is not None:
            done.detector.facts["calibrated"]["read_from"] = read.topic.facts
    else:
        topic.check_unused()
        is_promise_kept = wanted.threshold.promise == judge.stream.threshold.promise
        done = with_stream(judge, wanted) if is_promise_kept else calibrate_on_kept(judge, wanted)
    note_all(done.remarks)
    _print_calibration(done, on_records=bool(data))
    say_published(directory, directory.publish(done.detector, promote=promote, key=key))


def _print_calibration(done: Calibration, *, on_records: bool) -> None:
    """The new threshold, and what it was set on."""
    threshold = done.detector.threshold
    table = new_table("calibrated", "", "")
    add_row(table, "threshold", f"{threshold.value:.4g}", f"before {done.before.value:.4g}; {threshold.stated}")
    add_row(
        table, "normal records above it", f"{threshold.rate:.3%}",
        f"95% interval {threshold.rate_low:.3%} to {threshold.rate_high:.3%}",
    )  # fmt: skip
    if threshold.expected_per_day is not None:
        add_row(table, "expected false alarms", f"{threshold.expected_per_day:,.1f} a day", "")
    told = f"{done.anomalous:,} labelled anomalous" if on_records else "of the version's own calibration"
    add_row(table, "set on", f"{done.normal:,} normal records", told)
    if left_out := done.read.reasons:
        add_row(table, "left out", f"{left_out.total():,}", "no records of the stream, or without a score")
        for reason, count in left_out.most_common():
            add_row(table, f"  {reason}", f"{count:,}", "")
    stdout().print(table)
