"""The trainer's commands, from `init` to `models`: what they print, and what their process ends with.

Importing this module loads neither torch nor pyarrow, so that `offbeat --help` is quick: each command imports what it
needs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainer.topic_options import LookBackOf, TopicOptions, reading_topics, topic_of

if TYPE_CHECKING:
    import torch

    from detector import Detector, HistoryState, ModelDirectory, PrivateKey, Records, StreamDefinition
    from trainer.datasets import Source
    from trainer.explaining import Given
    from trainer.fitting import FitReport
    from trainer.loading import Dataset
    from trainer.processes import Processes
    from trainer.report import Row
    from trainer.scoring import RowSummary
    from trainer.topics import PartitionRange, Remembered, TopicRange

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2

Data = Annotated[
    list[Path],
    typer.Argument(
        help="Parquet, CSV, JSONL or idx files or directories of them, of one format; a directory with MNIST/raw; or "
        "kafka:TOPIC.",
        show_default=False,
    ),
]
Models = Annotated[Path, typer.Option("--models", help="Directory of all detectors.", envvar="OFFBEAT_MODELS")]
Name = Annotated[
    str | None,
    typer.Option(
        "--detector", help="Name of the detector; may be omitted where --models holds one.", show_default=False
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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
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
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write: .parquet, .csv or .jsonl.")]
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
Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        help="PEM file with public keys, one of which must have signed the version; may be repeated.",
        show_default=False,
    ),
]
OptionalVersion = Annotated[str | None, typer.Argument(help="Version; production unless given.", show_default=False)]


def mount(app: typer.Typer, look_back_of: LookBackOf | None = None) -> None:
    """Add the trainer's commands to `app`.

    Args:
        app: The command line.
        look_back_of: Makes what reads a topic as the worker does; without it topics are refused.
    """
    app.command()(init)
    for command in (train, calibrate, score, features):
        app.command()(reading_topics(command, look_back_of))
    app.command()(reading_topics(explain, look_back_of, ranges=False))
    app.command()(embed)
    models = typer.Typer(
        help="List, show, verify, sign, promote and roll back the versions of a detector.", no_args_is_help=True
    )
    models.command("list")(list_models)
    models.command("show")(show_model)
    models.command("verify")(verify_model)
    models.command("sign")(sign_model)
    models.command("keygen")(make_keys)
    models.command("promote")(promote_model)
    models.command("rollback")(roll_back_model)
    app.add_typer(models, name="models")


# --- init, train, score ---


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
    with _failures_told():
        from trainer.columns import sample_columns
        from trainer.image_files import is_idx
        from trainer.image_proposal import propose_images
        from trainer.proposal import propose

        files = _training_files(data)
        if is_idx(files[0]):
            sys.stdout.write(propose_images(files[0], name or data[0].resolve().stem.lower(), normal or ()))
            return
        columns, looked_at = sample_columns(files, records)
        proposal = propose(columns, looked_at, name or data[0].resolve().stem)
        sys.stdout.write(proposal.to_toml())


def train(
    data: Data,
    stream: Annotated[Path, typer.Option("--stream", help="The stream definition (stream.toml).")],
    *,
    history: Earlier = None,
    with_state: Annotated[
        bool,
        typer.Option(
            "--with-state",
            help="Publish the histories at the end of DATA beside the version: a new worker begins there.",
        ),
    ] = False,
    models: Models = Path("models"),
    promote: Annotated[bool, typer.Option("--promote", help="Make the new version production at once.")] = False,
    sign_with: SignWith = None,
    seed: Annotated[int, typer.Option(min=0, help="The same data and seed give the same detector.")] = 0,
    max_rows: Annotated[
        int,
        typer.Option(
            min=100,
            help="Most records kept in memory; of more, a uniform sample. One takes about 30 bytes, 8 for each number, "
            "time or history feature and 70 for each category, id and key: twice that while reading, whatever the size "
            "of the files.",
        ),
    ] = 5_000_000,
    alert_budget: Annotated[
        str | None, typer.Option(help='Expected false alarms, such as "50/day", in place of the stream definition\'s.')
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Share of normal records that may alert, in place of the stream definition's.")
    ] = None,
    one_in: Annotated[
        float | None,
        typer.Option(help="One normal record in so many may alert, in place of the stream definition's.", min=1),
    ] = None,
    network: Annotated[
        Literal["denoising", "pca"], typer.Option(help="The autoencoder, or its linear special case alone.")
    ] = "denoising",
    steps: Annotated[
        int | None,
        typer.Option(
            min=50,
            help="Most training steps; unless given 600, stopping when nothing gets better, and for images 400.",
            show_default=False,
        ),
    ] = None,
    most_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Most seconds of training. Where it is the clock that ends it, the same seed gives another detector.",
            show_default=False,
        ),
    ] = None,
    most_records: Annotated[
        int | None,
        typer.Option(
            min=20,
            help="Most records that the network is fitted on, evenly spread over their time. All of them are still "
            "read, and those that set the threshold or test are not fewer.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train; auto takes CUDA where there is one.")
    ] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="Directory in which training keeps what it needs to go on after it was killed; removed at the end.",
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0, help="Least seconds between two checkpoints.")] = 30.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint; where there is none, begin anew.")
    ] = False,
    allow_leakage: Annotated[
        bool,
        typer.Option(
            "--allow-leakage", help="Allow a feature that by itself tells the labelled anomalies from normal records."
        ),
    ] = False,
    head: Annotated[
        Literal["evl", "cross-entropy", "focal"] | None,
        typer.Option(
            help="Let labelled anomalies teach a head by this loss, which raises the scores of records like them. What "
            "it is worth on later records is printed beside the score without it.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    topic: TopicOptions,
) -> None:
    """Fit a detector on the normal records of DATA and publish it as a new version under --models.

    DATA may be kafka:TOPIC, from --from to --to. It is read as the worker reads it, without its group.

    Under torchrun the processes share the training, and the first of them publishes.
    """
    if resume and checkpoint is None:
        raise typer.BadParameter("there is nothing to go on from: add --checkpoint DIRECTORY", param_hint="--resume")
    with _failures_told(), _training_together(device) as (processes, chosen_device):
        from detector import ModelDirectory, StreamDefinition, pack_state
        from trainer import progress
        from trainer.checkpoints import Checkpoints
        from trainer.fitting import FitSettings, fit_detector, share_training
        from trainer.fitting_images import ImageFitSettings, fit_images, share_image_training
        from trainer.loading import load
        from trainer.report import render

        key = _key(sign_with)  # first, so that a wrong passphrase costs no training
        definition = _with_threshold(StreamDefinition.load(stream), alert_budget, false_alarm_rate, one_in)
        if definition.image is not None and network == "pca":
            raise typer.BadParameter("images have a network of their own, and PCA beside it", param_hint="--network")
        settings = FitSettings(
            seed=seed, network=network, most_steps=steps or FitSettings.most_steps, most_seconds=most_seconds,
            most_records=most_records, device=device, allow_leakage=allow_leakage, head=head, threads=threads,
        )  # fmt: skip
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, resume, checkpoint_every)
        told = _note if processes.is_first else _say_nothing
        files, read = _training_sources(data, topic, definition, history, processes, told)
        earlier = _earlier_files(history)
        if not processes.is_first:
            dataset = load(files, definition, earlier=earlier, max_records=max_rows, seed=seed)
            if definition.image is not None:
                share_image_training(
                    dataset.records, definition, ImageFitSettings.of(settings, steps), processes,
                    is_tested_apart=_test_images(data, definition) is not None, device=chosen_device,
                    checkpoints=checkpoints,
                )  # fmt: skip
                return
            share_training(
                dataset.records, definition, settings, processes,
                history=dataset.history, device=chosen_device, checkpoints=checkpoints,
            )  # fmt: skip
            return
        console = _stderr()
        with progress.reading(console, "reading") as tell:
            dataset = load(
                files, definition, earlier=earlier, max_records=max_rows, seed=seed, ends=with_state, progress=tell,
            )  # fmt: skip
        _tell(_known_of_data(dataset, definition, read))
        if checkpoints is not None and resume and not checkpoints.file.exists():
            _note(f"{checkpoints.file}: there is none yet: training from the beginning")
        with progress.fitting(console) as draw:
            if definition.image is None:
                detector, report = fit_detector(
                    dataset.records, definition, settings, draw, history=dataset.history, remark=_note,
                    processes=processes, device=chosen_device, checkpoints=checkpoints,
                )  # fmt: skip
            else:
                detector, report = fit_images(
                    dataset.records, definition, ImageFitSettings.of(settings, steps), draw,
                    test=_test_images(data, definition), processes=processes, device=chosen_device,
                    checkpoints=checkpoints,
                )  # fmt: skip
        detector.facts["records"]["replayed"] = dataset.replayed
        if read is not None:
            detector.facts["read_from"] = read.facts
        directory = ModelDirectory(models / definition.name)
        page = render(detector, report, dataset)
        state = None
        if with_state and dataset.history is not None and dataset.state is not None:
            state = pack_state(dataset.history, dataset.state, dataset.ends)
        elif with_state:
            _note(f"stream {definition.name!r} has no features from history: there is no state to publish")
        version = directory.publish(detector, promote=promote, files={"report.html": page}, state=state, key=key)
        if checkpoints is not None:
            checkpoints.remove()
        _print_result(detector, report, dataset)
        _print_published(directory, version)


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
    with _failures_told():
        from detector import StreamDefinition
        from trainer import progress
        from trainer.calibration import Cost, calibrate_on, calibrate_on_kept, with_rules_of, with_stream

        key = _key(sign_with)
        directory = _directory(models, detector)
        if key is not None:  # what is signed was signed: else a version of anybody's would pass under this key
            directory.trusted = key.public
        judge = directory.load(_version(directory, version))
        before = judge.stream if stream is None else with_rules_of(StreamDefinition.load(stream), judge.stream)
        wanted = _with_threshold(before, alert_budget, false_alarm_rate, one_in)
        if not data:
            topic.check_unused()
        if data:
            sources, earlier, read = _scored_sources(data, topic, directory, judge, history)
            with progress.reading(_stderr(), "scoring") as tell:
                done = calibrate_on(
                    judge, sources, wanted, earlier=earlier,
                    cost=Cost(*costs) if costs else None, best_f1=best_f1, progress=tell,
                )  # fmt: skip
            _tell(() if read is None else read.told_after())
        elif wanted.threshold.promise == judge.stream.threshold.promise:
            done = with_stream(judge, wanted)
        else:
            done = calibrate_on_kept(judge, wanted)
        for remark in done.remarks:
            _note(remark)
        threshold = done.detector.threshold
        table = _table("calibrated", "", "")
        _add(table, "threshold", f"{threshold.value:.4g}", f"before {done.before.value:.4g}; {threshold.stated}")
        _add(
            table, "normal records above it", f"{threshold.rate:.3%}",
            f"95% interval {threshold.rate_low:.3%} to {threshold.rate_high:.3%}",
        )  # fmt: skip
        if threshold.expected_per_day is not None:
            _add(table, "expected false alarms", f"{threshold.expected_per_day:,.1f} a day", "")
        told = f"{done.anomalous:,} labelled anomalous" if data else "of the version's own calibration"
        _add(table, "set on", f"{done.normal:,} normal records", told)
        if done.rejects:
            _add(table, "left out", f"{done.rejects:,}", "no records of the stream, or without a score")
        _stdout().print(table)
        _print_published(directory, directory.publish(done.detector, promote=promote, key=key))


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
    with _failures_told():
        from trainer import progress
        from trainer.scoring import score_files, score_partitions
        from trainer.writing import hidden_fields

        directory = _directory(models, detector)
        judge = directory.load(_version(directory, version))
        sources, earlier, read = _scored_sources(_data(data, inputs), topic, directory, judge, history)
        with progress.reading(_stderr(), "scoring") as tell:
            if read is None:
                summary = score_files(judge, sources, output, tell, earlier=earlier)
            else:
                summary = score_partitions(judge, read.parts, output, tell)
        _tell(() if read is None else read.told_after())
        _tell_rejects(summary)
        if judge.alerting.remembers and read is None:
            _note(
                "a worker also remembers where the scores of a partition drifted and which entities are quiet: here "
                "the threshold is the calibrated one, and nobody is quiet but for these records"
            )
        if hidden := sorted(hidden_fields(judge.stream)):
            _note(f"{', '.join(hidden)}: sensitive, and so not written; the rows are in the order of the input")
        table = _table("records", "")
        for verdict in ("normal", "alert", *(("suppressed",) if read else ()), "reject"):
            _add(table, verdict, f"{summary.verdicts[verdict]:,}")
            by_reason = {"reject": summary.reasons, "suppressed": summary.suppressed}.get(verdict)
            for reason, count in by_reason.most_common() if by_reason else ():
                _add(table, f"  {reason}", f"{count:,}")
        _add(table, "all", f"{summary.rows:,}")
        _stdout().print(table)
        _stdout().print(
            f"{judge.name} {judge.version}: scores in {output}", highlight=False, markup=False, soft_wrap=True
        )


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
    with _failures_told():
        from trainer.explaining import explain_given, explain_message
        from trainer.writing import hidden_fields

        directory = _directory(models, detector)
        judge = directory.load(_version(directory, version))
        name = topic_of([Path(record)])
        if with_state:
            _published_state(directory, judge)
        if name is not None:
            from transport import Partition

            if offset is None:
                raise typer.BadParameter(
                    f"say which message of {name}: --offset, and --partition", param_hint="--offset"
                )
            begin, version_of = _begin_of(directory, judge, history), _versions_of(directory)
            found = explain_message(
                judge, topic.look_back(name), Partition(name, partition), offset, begin=begin, version_of=version_of
            )
        else:
            if offset is not None:
                raise typer.BadParameter("belongs to a topic: write kafka:TOPIC, no file", param_hint="--offset")
            topic.check_unused()
            state = _published_state(directory, judge) if with_state else None
            found = explain_given(judge, _given(record), earlier=_earlier_files(history), state=state)
        if as_json:
            _print_json([facts.to_json() for facts in found])
            return
        if judge.history is not None and not history and not with_state and name is None:
            _note("history begins with these records: give what came before with --history or --with-state")
        if hidden := sorted(hidden_fields(judge.stream)):
            _note(f"{', '.join(hidden)}: sensitive, and so not shown")
        from trainer.showing import show_facts

        for facts in found:
            show_facts(_stdout(), facts)


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


def _published_state(directory: ModelDirectory, detector: Detector) -> HistoryState:
    """The histories that `train --with-state` published beside a version."""
    from detector import read_state
    from trainer.errors import DataFileError

    version = detector.version or ""
    if detector.history is None:
        raise DataFileError(f"{detector.name} {version} has no features from history: leave out --with-state")
    state = read_state(detector.history, directory.state_path(version), version=version)
    if state is None:
        raise DataFileError(
            f"{detector.name} {version} has no histories beside it: train with --with-state, or give --history"
        )
    return detector.history.new_state(base=state)


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
    with _failures_told():
        from detector import StreamDefinition
        from trainer import progress
        from trainer.datasets import find_files
        from trainer.errors import DataFileError
        from trainer.features import feature_files, hidden_features
        from trainer.writing import hidden_fields

        data = _data(data, inputs)
        sources: Sequence[Source]
        if stream is not None:
            if topic_of(data) is not None:
                raise DataFileError("--stream: of a topic the features are those of a model: leave it out")
            topic.check_unused()
            definition, fitted = StreamDefinition.load(stream), None
            sources, earlier, read = find_files(data), _earlier_files(history), None
        else:
            directory = _directory(models, detector)
            loaded = directory.load(_version(directory, version))
            definition, fitted = loaded.stream, loaded.history
            sources, earlier, read = _scored_sources(data, topic, directory, loaded, history)
        with progress.reading(_stderr(), "features") as tell:
            summary = feature_files(definition, fitted, sources, output, tell, earlier=earlier)
        _tell(() if read is None else read.told_after())
        _tell_rejects(summary)
        if hidden := [*sorted(hidden_fields(definition)), *hidden_features(definition)]:
            _note(f"{', '.join(hidden)}: sensitive, and so not written; the rows are in the order of the input")
        _stdout().print(
            f"{summary.rows:,} rows, {summary.reasons.total():,} of them no records: features in {output}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


def _data(given: list[Path] | None, inputs: list[Path] | None) -> list[Path]:
    """DATA, given as such or as --input."""
    data = [*(given or ()), *(inputs or ())]
    if not data:
        raise typer.BadParameter("is missing: give files, directories, or kafka:TOPIC", param_hint="DATA")
    return data


def _training_sources(
    data: list[Path], options: TopicOptions, stream: StreamDefinition, history: list[Path] | None,
    processes: Processes, told: Callable[[str], None],
) -> tuple[Sequence[Source], TopicRange | None]:  # fmt: skip
    """What is behind DATA of a training, the same in all of its processes; and where it is a topic, its range."""
    name = topic_of(data)
    if name is None:
        options.check_unused()
        return _training_files(data), None
    from trainer.topics import topic_range, warm_up_of

    view = options.look_back(name)
    warm_up_s = warm_up_of(stream) if view.warm_up_s is None else view.warm_up_s
    read = topic_range(
        view.kafka, name, options.since, options.until, partitions=options.partitions,
        warm_up_s=0.0 if history or not stream.history_features else warm_up_s, settle=processes.from_first,
    )  # fmt: skip
    for line in (*read.remarks, read.described()):
        told(line)
    return read.parts, read


def _scored_sources(
    data: list[Path], options: TopicOptions, directory: ModelDirectory, judge: Detector, history: list[Path] | None
) -> tuple[Sequence[Source], list[Path], TopicRange | None]:
    """What is behind DATA and --history; of a topic, its range with what a worker remembers before it."""
    name = topic_of(data)
    if name is None:
        options.check_unused()
        return _scored_files(data), _earlier_files(history), None
    from trainer.topics import as_trainer_errors, topic_range

    view = options.look_back(name)
    read = topic_range(view.kafka, name, options.since, options.until, partitions=options.partitions)
    _tell((*read.remarks, read.described()))
    begin, version_of = _begin_of(directory, judge, history), _versions_of(directory)

    def remembered(part: PartitionRange) -> Remembered:
        with as_trainer_errors():
            found: Remembered = view.remembered_at(
                judge, part.partition, part.start, begin=begin, version_of=version_of
            )
        _tell(f"{part.name}: {remark}" for remark in found.remarks)
        return found

    read = read.with_memories(remembered)
    return read.parts, [], read


def _begin_of(directory: ModelDirectory, judge: Detector, history: list[Path] | None) -> HistoryState | None:
    """What is known of entities before a topic says anything: from --history, else what was published, as a worker."""
    from detector import HistoryMismatch, read_state
    from trainer.errors import DataFileError
    from trainer.explaining import state_after

    if judge.history is None:
        if history:
            raise DataFileError(f"{judge.name} has no features from history: leave out --history")
        return None
    if history:
        return state_after(judge.history, _earlier_files(history), judge.stream)
    try:
        return read_state(judge.history, directory.state_path(judge.version or ""))
    except HistoryMismatch as error:
        _note(f"the histories of training are not used, nor does a worker: {error}")
        return None


def _versions_of(directory: ModelDirectory) -> Callable[[str], Detector | None]:
    """Other versions of the detector, None for one that is gone or refused."""
    from detector import ArtifactError

    def version_of(version: str) -> Detector | None:
        try:
            return directory.load(version)
        except (ArtifactError, OSError) as error:
            _note(f"version {version} cannot be read: {error}")
            return None

    return version_of


def _training_files(data: list[Path]) -> list[Path]:
    """The files behind DATA; of a data set in torchvision's layout the images to train on."""
    from trainer.datasets import find_files
    from trainer.image_files import find_data_set

    data_set = find_data_set(data)
    return find_files(data) if data_set is None else [data_set.file(train=True)]


def _test_images(data: list[Path], stream: StreamDefinition) -> Records | None:
    """The images to test on of a data set in torchvision's layout, None where DATA is no such."""
    from detector import Records
    from trainer.image_files import find_data_set, image_chunks

    data_set = None if topic_of(data) else find_data_set(data)
    if data_set is None or not data_set.file(train=False).is_file():
        return None
    return Records.concat([records for _, records in image_chunks(data_set.file(train=False), stream)])


def _scored_files(data: list[Path]) -> list[Path]:
    """The files behind --input; of a data set in torchvision's layout the images to test on."""
    from trainer.datasets import find_files
    from trainer.image_files import find_data_set

    data_set = find_data_set(data)
    return find_files(data) if data_set is None else [data_set.file(train=False)]


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
    with _failures_told():
        from trainer import progress
        from trainer.datasets import find_files
        from trainer.embedding import embed_files
        from trainer.writing import hidden_fields

        detector = _detector_at(model)
        files = find_files(data)
        with progress.reading(_stderr(), "embedding") as tell:
            summary = embed_files(detector, files, output, tell, earlier=_earlier_files(history))
        _tell_rejects(summary)
        if hidden := sorted(hidden_fields(detector.stream)):
            _note(f"{', '.join(hidden)}: sensitive, and so not written; the rows are in the order of the input")
        _stdout().print(
            f"{summary.rows:,} rows, {summary.reasons.total():,} of them no records: codes of "
            f"{detector.scorer.network.code_width} numbers in {output}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip


@contextmanager
def _training_together(device: Literal["auto", "cpu", "cuda"]) -> Iterator[tuple[Processes, torch.device]]:
    """The processes of a training and where this one computes."""
    from trainer.processes import joined

    with joined(device) as together:
        yield together


def _earlier_files(history: list[Path] | None) -> list[Path]:
    """The files behind --history."""
    from trainer.datasets import find_files

    return find_files(history) if history else []


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        _note(line)


def _tell_rejects(summary: RowSummary) -> None:
    for example in summary.examples:
        _note(f"{example.origin.name}:{example.line}: rejected: {example.message}")


# --- models ---


def list_models(*, models: Models = Path("models"), detector: Name = None, as_json: AsJson = False) -> None:
    """List all versions, the oldest first."""
    with _failures_told():
        directories = [_directory(models, detector)] if detector else _directories(models)
        found = [fact for directory in directories for fact in _facts_of(directory)]
        if as_json:
            _print_json(found)
            return
        table = _table("detector", "version", "alias", "trained until", "threshold", "AUROC", "average precision")
        for fact in found:
            quality = fact["quality"]
            _add(
                table,
                fact["detector"],
                fact["version"],
                ", ".join(fact["aliases"]),
                fact["trained_until"] or "",
                "unreadable" if fact["threshold"] is None else f"{fact['threshold']:.4g}",
                f"{quality['auroc']:.4f}" if quality else "",
                f"{quality['average_precision']:.4f}" if quality else "",
            )
        _stdout().print(table)


def show_model(
    version: OptionalVersion = None, *, models: Models = Path("models"), detector: Name = None, as_json: AsJson = False
) -> None:
    """Show what a version is, after verifying it."""
    with _failures_told():
        from trainer.report import history_rows

        directory = _directory(models, detector)
        found = _version(directory, version)
        loaded = directory.load(found)
        if as_json:
            _print_json(_describe(directory, loaded))
            return
        facts, threshold = loaded.facts, loaded.threshold
        table = _table("", "", head=False)
        _add(table, "detector", loaded.name)
        _add(table, "version", f"{found} {_aliases(directory, found)}".strip())
        _add(table, "sha256", loaded.sha256 or "")
        _add(table, "fitted at", str(facts.get("fitted_at", "")))
        if loaded.trained_until:
            _add(table, "trained on", f"{facts.get('trained_from')} to {facts.get('trained_until')}")
        for name, count in facts.get("records", {}).items():
            _add(table, f"records: {name.replace('_', ' ')}", f"{count:,}")
        _add(table, "threshold", f"{threshold.value:.6g} ({threshold.stated}; {threshold.rate:.3%} of normal records)")
        for kind, quality in (facts.get("evaluation") or {}).items():
            figures = f"AUROC {quality['auroc']:.4f}, average precision {quality['average_precision']:.4f}"
            _add(table, f"quality: {kind}", figures)
        if told := facts.get("head"):
            advice = "recommended" if told["recommended"] else "not recommended"
            _add(table, "head", f"{told['loss']}, taught by {told['labels']:,} labelled anomalies; {advice}")
        _add(table, "features", ", ".join(loaded.feature_names))
        for row in history_rows(loaded):
            _add(table, f"history: {row.name}", f"{row.value} {row.remark}".rstrip())
        _add(table, "libraries", ", ".join(f"{name} {number}" for name, number in facts.get("libraries", {}).items()))
        _add(table, "directory", str(directory.path(found)))
        _stdout().print(table)


def verify_model(
    version: OptionalVersion = None,
    models: Models = Path("models"),
    detector: Name = None,
    public_key: Trusted = None,
) -> None:
    """Verify the hashes and golden scores of a version on this machine, and who signed it; exits 1 where refused."""
    with _failures_told():
        directory = _trusting(_directory(models, detector), public_key)
        found = _version(directory, version)
        loaded = directory.load(found)
        signed = ", signed" if public_key else ""
        _say(f"{loaded.name} {found} is complete, untampered{signed}, and gives its golden scores on this machine")


def sign_model(
    version: Annotated[str, typer.Argument(help="The version that you vouch for.")],
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key in PEM; as of --sign-with.")],
    models: Models = Path("models"),
    detector: Name = None,
) -> None:
    """Sign a version that is there already, after verifying it; workers that ask for a signature load it then."""
    with _failures_told():
        signer = _key(key)
        assert signer is not None  # noqa: S101 - the path is given
        directory = _directory(models, detector)
        directory.sign(version, signer)
        _say(f"{directory.name} {version} is signed by {signer.public.fingerprints[0]}")


def make_keys(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; the public one gets .pub behind it.")],
) -> None:
    """Make a pair of Ed25519 keys: the private one signs and stays with the trainer, the public one is for workers.

    The private one is encrypted where OFFBEAT_SIGNING_PASSPHRASE, or the file of OFFBEAT_SIGNING_PASSPHRASE_FILE, says
    with what.
    """
    with _failures_told():
        from detector import PublicKeys, write_key_pair
        from trainer.signing import passphrase

        secret = passphrase()
        public = write_key_pair(path, secret)
        _say(f"private key {path}{'' if secret is None else ', encrypted'}: whoever has it can publish models")
        _say(f"public key  {public}, {PublicKeys.read([public]).fingerprints[0]}: for model_public_key of workers")


def promote_model(
    version: Annotated[str, typer.Argument(help="The version that becomes production.")],
    models: Models = Path("models"),
    detector: Name = None,
    public_key: Trusted = None,
) -> None:
    """Make a version production; workers load it within seconds."""
    with _failures_told():
        directory = _trusting(_directory(models, detector), public_key)
        before = directory.current()
        directory.promote(version)
        _say(f"{directory.root.name}: production is {version}{f', before it was {before}' if before else ''}")


def roll_back_model(models: Models = Path("models"), detector: Name = None, public_key: Trusted = None) -> None:
    """Make the version before the current one production again."""
    with _failures_told():
        directory = _trusting(_directory(models, detector), public_key)
        before = directory.current()
        version = directory.rollback()
        _say(f"{directory.root.name}: production is {version} again, no longer {before}")


# --- which model ---


def _key(path: Path | None) -> PrivateKey | None:
    """The private key to sign with, where one is named."""
    from trainer.signing import signing_key

    return None if path is None else signing_key(path)


def _trusting(directory: ModelDirectory, public_keys: list[Path] | None) -> ModelDirectory:
    """The directory, loading nothing that none of these keys signed."""
    from detector import ModelDirectory, PublicKeys

    return ModelDirectory(directory.root, PublicKeys.read(public_keys)) if public_keys else directory


def _directories(models: Path) -> list[ModelDirectory]:
    """Every detector under `models`.

    Raises:
        TrainerError: There is none.
    """
    from detector import ModelDirectory
    from trainer.errors import DataFileError

    if not models.is_dir():
        raise DataFileError(f"{models}: no such directory: give the directory that `offbeat train --models` wrote to")
    inside = [ModelDirectory(path) for path in sorted(models.iterdir()) if path.is_dir() and path.name[0] != "."]
    found = [directory for directory in inside if directory.versions()]
    if not found:
        hint = f"; did you mean --models {models.parent}?" if ModelDirectory(models).versions() else ""
        raise DataFileError(f"{models}: holds no detector{hint}")
    return found


def _directory(models: Path, name: str | None) -> ModelDirectory:
    """The detector of that name, or the only one."""
    from trainer.errors import DataFileError

    found = {directory.root.name: directory for directory in _directories(models)}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is None or name not in found:
        wrong = "holds several detectors" if name is None else f"holds no detector {name!r}"
        raise DataFileError(f"{models}: {wrong}: choose with --detector from {', '.join(found)}")
    return found[name]


def _detector_at(path: Path) -> Detector:
    """The detector of a version's directory, or the one in production of a detector's, or of the only detector's."""
    from detector import Detector, ModelDirectory

    if (path / "manifest.json").is_file():
        return Detector.load(path)
    directory = ModelDirectory(path)
    if not directory.versions():
        directory = _directory(path, None)
    return directory.load(_version(directory, None))


def _version(directory: ModelDirectory, version: str | None) -> str:
    """The version given, or the one in production."""
    from trainer.errors import DataFileError

    found = version or directory.current()
    if found is None:
        raise DataFileError(f"{directory.root}: no version is in production: name one, or promote one")
    return found


def _facts_of(directory: ModelDirectory) -> list[dict[str, Any]]:
    """What the manifests say, unverified: a damaged version is listed as such."""
    from detector import ArtifactError
    from detector.artifact import read_manifest

    aliases = directory.aliases()
    found = []
    for version in directory.versions():
        try:
            manifest = read_manifest(directory.path(version))
            facts, threshold = manifest["facts"], float(manifest["threshold"]["value"])
            kind = manifest["architecture"]["kind"]
        except (ArtifactError, ValueError, KeyError, TypeError):
            facts, threshold, kind = {}, None, ""
        found.append(
            {
                "detector": directory.root.name,
                "version": version,
                "aliases": [alias for alias, target in aliases.items() if target == version],
                "fitted_at": facts.get("fitted_at"),
                "trained_until": facts.get("trained_until"),
                "threshold": threshold,
                "quality": (facts.get("evaluation") or {}).get(kind),
            }
        )
    return found


def _describe(directory: ModelDirectory, detector: Detector) -> dict[str, Any]:
    from trainer.report import needs_of_history

    version = detector.version or ""
    return {
        "detector": detector.name,
        "version": version,
        "sha256": detector.sha256,
        "aliases": [alias for alias, target in directory.aliases().items() if target == version],
        "directory": str(directory.path(version)),
        "threshold": detector.threshold.to_json(),
        "features": detector.feature_names,
        "history": None if detector.history is None else needs_of_history(detector.history),
        "stream": detector.stream.model_dump(mode="json", exclude_defaults=True),
        "facts": detector.facts,
    }


def _aliases(directory: ModelDirectory, version: str) -> str:
    names = [alias for alias, target in directory.aliases().items() if target == version]
    return f"({', '.join(names)})" if names else ""


def _with_threshold(
    stream: StreamDefinition, budget: str | None, rate: float | None, one_in: float | None
) -> StreamDefinition:
    """The definition with the threshold of the command line, where it has one."""
    stated = {"alert_budget": budget, "false_alarm_rate": rate, "one_in": one_in}
    if not any(value is not None for value in stated.values()):
        return stream
    from pydantic import ValidationError

    from detector import StreamDefinition

    try:
        kept = {"mode": stream.threshold.mode, "window": stream.threshold.window}
        content = {
            **stream.model_dump(),
            "threshold": kept | {name: value for name, value in stated.items() if value is not None},
        }
        return StreamDefinition.model_validate(content)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(message, param_hint="--alert-budget / --false-alarm-rate / --one-in") from error


# --- output ---


def _known_of_data(dataset: Dataset, stream: StreamDefinition, read: TopicRange | None) -> Iterator[str]:
    """What a person should know of the data before a fit."""
    from trainer.loading import bytes_per_record

    if read is not None:
        yield from read.told_after()
    yield from _odd_in(dataset, stream)
    yield from _short_of_history(dataset, stream)
    if dataset.left_out_by_sampling:
        size = len(dataset.records) * bytes_per_record(dataset.records)
        yield (
            f"{dataset.decoded:,} records are more than --max-rows: training on a uniform sample of "
            f"{len(dataset.records):,} (about {size / 1e6:,.0f} MB)"
        )


def _odd_in(dataset: Dataset, stream: StreamDefinition) -> Iterator[str]:
    """What a person should know of the data before a fit that may fail of it, or succeed in spite of it."""
    if dataset.rejected:
        first = dataset.examples[0]
        yield (
            f"{sum(dataset.rejected.values()):,} of {dataset.rows_read:,} rows are no records; "
            f"the first: {first.origin.name}:{first.line}: {first.message}"
        )
    if dataset.absent:
        yield f"no record has a value in {', '.join(dataset.absent)}"
    labels = dataset.records.labels
    label = stream.label
    if label is not None and label.field not in dataset.absent and labels is not None and not labels.any():
        values = " or ".join(json.dumps(value, ensure_ascii=False) for value in label.anomalous)
        yield (
            f"no record is labelled anomalous: {label.field} is never {values}; "
            "if it should be, mend `anomalous` under [label], or anomalies are learned as normal"
        )


def _short_of_history(dataset: Dataset, stream: StreamDefinition) -> Iterator[str]:
    """What a person should know of the history that the records were given."""
    if dataset.is_short:
        days = stream.longest_window_us / 86_400_000_000
        yield (
            f"the data span less than the longest window of history ({days:g} days): all records are used, though "
            "features of long windows are short of history in them; give more data, or earlier files with --history"
        )
    if dataset.state is not None and dataset.state.evictions:
        yield (
            f"{dataset.state.evictions:,} entities were forgotten, as there are more than max_entities "
            f"({stream.history.max_entities:,}): they begin anew when they come back; raise it under [history]"
        )


@contextmanager
def _failures_told() -> Iterator[None]:
    """Turn a failure that a person can mend into one clear line on standard error and an exit code."""
    from detector import ArtifactError, DetectorError
    from trainer.errors import CheckpointError, DataFileError, TrainerError

    try:
        yield
    except (ArtifactError, OSError) as error:
        _complain(error, EXIT_FAILED)
    except (DetectorError, DataFileError, CheckpointError) as error:
        _complain(error, EXIT_BAD_INPUT)
    except TrainerError as error:
        _complain(error, EXIT_FAILED)


def _complain(error: Exception, code: int) -> None:
    sys.stderr.write(f"offbeat: {error}\n")
    raise typer.Exit(code) from error


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _say_nothing(_: str) -> None:
    """In the processes that do not tell."""


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _print_json(content: Any) -> None:
    _say(json.dumps(content, indent=2, ensure_ascii=False))


def _stdout() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _stderr() -> Console:
    return Console(stderr=True)


def _table(*columns: str, head: bool = True) -> Table:
    table = Table(box=None, show_header=head, padding=(0, 2, 0, 0))
    for position, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=position == 0)
    return table


def _print_result(detector: Detector, report: FitReport, dataset: Dataset) -> None:
    """The table at the end of training."""
    from trainer.report import head_rows, history_rows, loss_rows, quality_rows, record_rows, threshold_rows

    console = _stdout()
    if report.head is not None:
        _note(report.head.verdict)
    for title, rows in (
        ("records", record_rows(report, dataset)),
        ("history", history_rows(detector)),
        ("training", loss_rows(report)),
        ("threshold", threshold_rows(report)),
        ("head", head_rows(report)),
    ):
        if rows:
            console.print(_rows(title, rows))
            console.print()
    if report.evaluation:
        sizes = next(iter(report.evaluation.values()))
        head, *body = quality_rows(report.evaluation, detector.stream.key)
        table = _table(f"quality on {sizes.records:,} test records, {sizes.anomalies:,} anomalous", *head[1:])
        for name, *cells in body:
            _add(table, name, *cells)
        console.print(table)
        console.print()


def _add(table: Table, *cells: str) -> None:
    """Add a row as it is: brackets in a name are no markup."""
    table.add_row(*(Text(cell) for cell in cells))


def _rows(title: str, rows: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column(title, no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in rows:
        _add(table, row.name, row.value, row.remark)
    return table


def _print_published(directory: ModelDirectory, version: str) -> None:
    current = directory.current()
    _say(f"published {directory.root.name} {version}")
    _say(f"report    {directory.path(version) / 'report.html'}")
    if current == version:
        _say("it is in production: workers load it within seconds")
    else:
        _say(f"production is still {current}: offbeat models promote {version} --models {directory.root.parent}")
