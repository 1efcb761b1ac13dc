"""Files of images to decoded records: idx files and directories of torchvision's data sets; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector import Records, StreamDefinition, records_of_images
from trainer.errors import DataFileError

CHUNK_IMAGES = 4_096
"""Most images of a file that are decoded at once."""

_DATA_SETS = ("MNIST", "FashionMNIST", "KMNIST")
_IMAGES = re.compile(r"(.*)images([-.])idx3(-ubyte|\.ubyte)?")


def is_idx(path: Path) -> bool:
    """Whether a file's name says that it holds images as idx: `train-images-idx3-ubyte` and the like."""
    return _IMAGES.fullmatch(path.name) is not None


@dataclass(frozen=True)
class DataSet:
    """A directory in which torchvision finds a data set of MNIST's form.

    Attributes:
        root: The directory.
        name: Name of torchvision's class, and of the folder in it.
    """

    root: Path
    name: str

    def file(self, *, train: bool) -> Path:
        """The idx file with the images of one of its two parts."""
        return self.root / self.name / "raw" / f"{'train' if train else 't10k'}-images-idx3-ubyte"


def find_data_set(paths: Sequence[Path]) -> DataSet | None:
    """The data set that a single directory holds in torchvision's layout (`MNIST/raw/...`), or None."""
    if len(paths) != 1:
        return None
    root = paths[0]
    found = [DataSet(root, name) for name in _DATA_SETS if DataSet(root, name).file(train=True).is_file()]
    return found[0] if found else None


def read_images(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Images (n, h, w) of an idx file, and the labels (n,) of the file that belongs to it, where there is one.

    A part of a data set in torchvision's layout is read by torchvision's own class, which checks that it is whole.

    Raises:
        DataFileError: The file is no such file, or has another number of labels.
    """
    from torchvision import datasets

    try:
        for name in _DATA_SETS:
            for train in (True, False):
                root = path.parent.parent.parent
                if path == DataSet(root, name).file(train=train) and _labels_of(path).is_file():
                    part = getattr(datasets, name)(root, train=train, download=False)
                    return part.data.numpy(), part.targets.numpy()
        images = datasets.mnist.read_image_file(str(path)).numpy()
        labels = datasets.mnist.read_label_file(str(_labels_of(path))).numpy() if _labels_of(path).is_file() else None
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        raise DataFileError(
            f"{path}: is no idx file of images that torchvision can read ({error}): unpack or mend it"
        ) from error
    if labels is not None and len(labels) != len(images):
        raise DataFileError(
            f"{path}: {len(images)} images and {len(labels)} labels in {_labels_of(path).name} do not belong together: "
            "give both files of one data set"
        )
    return images, labels


def image_chunks(
    path: Path, stream: StreamDefinition, chunk_images: int = CHUNK_IMAGES
) -> Iterator[tuple[NDArray[np.int64], Records]]:
    """Numbers of the images, from 1, and their records, in the order of an idx file.

    Raises:
        DataFileError: The file cannot be read, or the stream is not of images.
    """
    if stream.image is None:
        raise DataFileError(
            f'{path}: holds images, and stream {stream.name!r} has no feature of kind "image": '
            "`offbeat init` proposes a definition with one"
        )
    needed = stream.id or stream.key or (stream.time and stream.time.field)
    if needed:
        raise DataFileError(
            f"{path}: the images of an idx file have no field {needed!r}, which stream {stream.name!r} needs: "
            "give JSON lines with the image in base64, or take it out of the definition"
        )
    images, labels = read_images(path)
    for first in range(0, len(images), chunk_images):
        part = slice(first, first + chunk_images)
        said = None if labels is None else labels[part].tolist()
        records = records_of_images(stream, images[part], said, first)
        yield np.arange(first + 1, first + 1 + len(records)), records


def _labels_of(path: Path) -> Path:
    """The file with the labels of an idx file of images."""
    return path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
