"""A stream definition proposed for files of images; a person has the last word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detector import stream_of_images
from detector.stream import LabelField, StreamDefinition
from trainer.errors import DataFileError
from trainer.image_files import read_images


def propose_images(path: Path, name: str, normal: Sequence[int] = ()) -> str:
    """The definition as TOML with its reasons as comments.

    Args:
        path: An idx file of images.
        name: Of the detector.
        normal: Labels of the images that are normal; all others are then known anomalies.

    Raises:
        DataFileError: The file cannot be read, or has no such labels.
    """
    images, labels = read_images(path)
    stream = stream_of_images(images, name)
    present = [] if labels is None else np.unique(labels).tolist()
    size = f"{images.shape[1]} x {images.shape[2]} pixels"
    lines = [
        f"# Proposed from {len(images):,} images of {size}. Change what you know better, then:",
        "# offbeat train DATA --stream stream.toml --models models",
    ]
    if normal:
        if strangers := sorted(set(normal) - set(present)):
            raise DataFileError(f"{path}: no image has label {strangers[0]}: choose from {present}")
        anomalous = tuple(label for label in present if label not in normal)
        if not anomalous:
            raise DataFileError(f"{path}: every image has a label that is normal: leave --normal out, or name fewer")
        stream = StreamDefinition.model_validate(
            {**stream.model_dump(), "label": LabelField(field="label", anomalous=anomalous).model_dump()}
        )
        chosen = ", ".join(map(str, normal))
        lines.append(f"# Normal is label {chosen}; the others are known anomalies: they evaluate and never train.")
    elif present:
        lines.append(f"# All images count as normal. They are labelled {present}: --normal LABEL makes the others odd.")
    return "\n".join([*lines, "", stream.to_toml()])
