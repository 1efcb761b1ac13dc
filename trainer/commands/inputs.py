"""What is behind DATA and --history: files, images in torchvision's layout, or a range of a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from detector import (
    ArtifactError,
    Detector,
    HistoryMismatch,
    HistoryState,
    ModelDirectory,
    Records,
    StreamDefinition,
    read_state,
)
from trainer.commands.output import note, note_all
from trainer.commands.topic_options import TopicOptions, topic_of
from trainer.datasets import Source, find_files
from trainer.errors import DataFileError
from trainer.explaining import state_after
from trainer.image_files import find_data_set, image_chunks
from trainer.processes import Processes
from trainer.topics import PartitionRange, Remembered, TopicRange, as_trainer_errors, topic_range, warm_up_of


@dataclass(frozen=True)
class Reading:
    """What a command reads.

    Attributes:
        sources: What is behind DATA.
        earlier: Files whose records are history alone.
        topic: The range, where DATA is a topic.
    """

    sources: Sequence[Source]
    earlier: Sequence[Path] = ()
    topic: TopicRange | None = None

    def remarks(self) -> Iterator[str]:
        """What was odd in the reading, once it is done."""
        if self.topic is not None:
            yield from self.topic.told_after()


def given_data(data: list[Path] | None, inputs: list[Path] | None) -> list[Path]:
    """DATA, given as such or as --input.

    Raises:
        BadParameter: There is none.
    """
    both = [*(data or ()), *(inputs or ())]
    if not both:
        raise typer.BadParameter("is missing: give files, directories, or kafka:TOPIC", param_hint="DATA")
    return both


def training_inputs(
    data: list[Path], options: TopicOptions, stream: StreamDefinition, history: list[Path] | None, processes: Processes
) -> Reading:
    """What a training reads, the same in all of its processes: of a topic, with what its histories need before it.

    Raises:
        DataFileError: Something of it is not there.
        TrainerError: The broker does not answer, or refuses.
    """
    name = topic_of(data)
    if name is None:
        options.check_unused()
        return Reading(training_files(data), earlier_files(history))
    view = options.look_back(name)
    warm_up_s = warm_up_of(stream) if view.warm_up_s is None else view.warm_up_s
    read = topic_range(
        view.kafka, name, options.since, options.until, partitions=options.partitions,
        warm_up_s=0.0 if history or not stream.history_features else warm_up_s, settle=processes.from_first,
    )  # fmt: skip
    if processes.is_first:
        note_all((*read.remarks, read.described()))
    return Reading(read.parts, earlier_files(history), read)


def scored_inputs(
    data: list[Path], options: TopicOptions, directory: ModelDirectory, detector: Detector, history: list[Path] | None
) -> Reading:
    """What a detector is to read; of a topic, with what a worker remembers before the range.

    Raises:
        DataFileError: Something of it is not there.
        TrainerError: The broker does not answer, or refuses.
    """
    name = topic_of(data)
    if name is None:
        options.check_unused()
        return Reading(_scored_files(data), earlier_files(history))
    view = options.look_back(name)
    read = topic_range(view.kafka, name, options.since, options.until, partitions=options.partitions)
    note_all((*read.remarks, read.described()))
    begin, version_of = known_before(directory, detector, history), other_versions(directory)

    def remembered(part: PartitionRange) -> Remembered:
        with as_trainer_errors():
            found: Remembered = view.remembered_at(
                detector, part.partition, part.start, begin=begin, version_of=version_of
            )
        note_all(f"{part.name}: {remark}" for remark in found.remarks)
        return found

    read = read.with_memories(remembered)
    return Reading(read.parts, topic=read)


def known_before(directory: ModelDirectory, detector: Detector, history: list[Path] | None) -> HistoryState | None:
    """What is known of entities before a topic says anything: from --history, else what was published, as a worker.

    Raises:
        DataFileError: --history is given, and the detector has no use for it.
    """
    if detector.history is None:
        if history:
            raise DataFileError(f"{detector.name} has no features from history: leave out --history")
        return None
    if history:
        return state_after(detector.history, earlier_files(history), detector.stream)
    try:
        return read_state(detector.history, directory.state_path(detector.version or ""))
    except HistoryMismatch as error:
        note(f"the histories of training are not used, nor does a worker: {error}")
        return None


def other_versions(directory: ModelDirectory) -> Callable[[str], Detector | None]:
    """Other versions of the detector, None for one that is gone or refused."""

    def version_of(version: str) -> Detector | None:
        try:
            return directory.load(version)
        except (ArtifactError, OSError) as error:
            note(f"version {version} cannot be read: {error}")
            return None

    return version_of


def training_files(data: list[Path]) -> list[Path]:
    """The files behind DATA; of a data set in torchvision's layout the images to train on."""
    data_set = find_data_set(data)
    return find_files(data) if data_set is None else [data_set.file(train=True)]


def test_images(data: list[Path], stream: StreamDefinition) -> Records | None:
    """The images to test on of a data set in torchvision's layout, None where DATA is no such."""
    data_set = None if topic_of(data) else find_data_set(data)
    if data_set is None or not data_set.file(train=False).is_file():
        return None
    return Records.concat([records for _, records in image_chunks(data_set.file(train=False), stream)])


def earlier_files(history: list[Path] | None) -> list[Path]:
    """The files behind --history."""
    return find_files(history) if history else []


def _scored_files(data: list[Path]) -> list[Path]:
    """The files behind DATA; of a data set in torchvision's layout the images to test on."""
    data_set = find_data_set(data)
    return find_files(data) if data_set is None else [data_set.file(train=False)]
