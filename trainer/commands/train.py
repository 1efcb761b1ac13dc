"""`offbeat train`: a detector from normal records, published as a new version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import Data, Earlier, Models, SignWith
from trainer.commands.output import note, note_all, say_published, stderr
from trainer.commands.topic_options import TopicOptions

if TYPE_CHECKING:
    from trainer.loading import Dataset


@failures_told()
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

    from detector import ModelDirectory, StreamDefinition
    from trainer.checkpoints import Checkpoints
    from trainer.commands import progress
    from trainer.commands.data_remarks import data_remarks
    from trainer.commands.fit_tables import print_fit
    from trainer.commands.fits import Fit
    from trainer.commands.inputs import training_inputs
    from trainer.commands.signing import signing_key
    from trainer.commands.thresholds import with_threshold
    from trainer.fitting import FitSettings
    from trainer.loading import load
    from trainer.processes import joined
    from trainer.report import render

    with joined(device) as (processes, chosen_device):
        key = None if sign_with is None else signing_key(sign_with)  # first: a wrong passphrase costs no training
        definition = with_threshold(StreamDefinition.load(stream), alert_budget, false_alarm_rate, one_in)
        if definition.image is not None and network == "pca":
            raise typer.BadParameter("images have a network of their own, and PCA beside it", param_hint="--network")
        settings = FitSettings(
            seed=seed, network=network, most_steps=steps or FitSettings.most_steps, most_seconds=most_seconds,
            most_records=most_records, device=device, allow_leakage=allow_leakage, head=head, threads=threads,
        )  # fmt: skip
        checkpoints = None if checkpoint is None else Checkpoints(checkpoint, resume, checkpoint_every)
        fit = Fit(definition, settings, steps, data, processes, chosen_device, checkpoints)
        read = training_inputs(data, topic, definition, history, processes)
        if not processes.is_first:
            fit.share(load(read.sources, definition, earlier=read.earlier, max_records=max_rows, seed=seed))
            return

        console = stderr()
        with progress.reading(console, "reading") as tell:
            dataset = load(
                read.sources, definition, earlier=read.earlier, max_records=max_rows, seed=seed, ends=with_state,
                progress=tell,
            )  # fmt: skip
        note_all((*read.remarks(), *data_remarks(dataset, definition)))
        if checkpoints is not None and resume and not checkpoints.file.exists():
            note(f"{checkpoints.file}: there is none yet: training from the beginning")
        with progress.fitting(console) as draw:
            detector, report = fit.run(dataset, draw)

        detector.facts["records"]["replayed"] = dataset.replayed
        if read.topic is not None:
            detector.facts["read_from"] = read.topic.facts
        page = render(detector, report, dataset)
        state = _state_at_end(dataset, definition.name) if with_state else None
        directory = ModelDirectory(models / definition.name)
        version = directory.publish(detector, promote=promote, files={"report.html": page}, state=state, key=key)
        if checkpoints is not None:
            checkpoints.remove()
        print_fit(detector, report, dataset)
        say_published(directory, version)


def _state_at_end(dataset: Dataset, name: str) -> dict[str, bytes] | None:
    """The files of the histories at the end of the data, None where there are none."""
    from detector import pack_state

    if dataset.history is not None and dataset.state is not None:
        return pack_state(dataset.history, dataset.state, dataset.ends)
    note(f"stream {name!r} has no features from history: there is no state to publish")
    return None
