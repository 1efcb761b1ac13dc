"""Made-up images: normal ones are soft discs, odd ones are bars; and a detector that was fitted on the first."""

from __future__ import annotations

import base64
import io
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector import Detector, StreamDefinition, records_of_images
from trainer.fitting_images import ImageFitSettings, fit_images

SIDE = 28
STREAM = StreamDefinition.model_validate({"name": "discs", "feature": [{"kind": "image"}]})


def discs(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Soft discs of varying size and place over faint noise, uint8 (count, 28, 28)."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    across = draw.uniform(12, 16, (count, 1, 1))
    size = draw.uniform(4, 6, (count, 1, 1))
    light = 200 * np.exp(-((x - across) ** 2 + (y - 14) ** 2) / (2 * size**2))
    images: NDArray[np.uint8] = np.clip(light + draw.uniform(0, 10, (count, SIDE, SIDE)), 0, 255).astype(np.uint8)
    return images


def bars(count: int) -> NDArray[np.uint8]:
    """Upright bars, uint8 (count, 28, 28)."""
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    for row in range(count):
        images[row, :, 8 + row % 8 : 11 + row % 8] = 255
    return images


def encoded(image: NDArray[np.uint8], form: str = "PNG") -> bytes:
    """An image as PNG or JPEG."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format=form)
    return data.getvalue()


def in_json(image: NDArray[np.uint8], **fields: Any) -> bytes:
    """A message value with the image in base64 in the field `scan.image`."""
    return json.dumps({**fields, "scan": {"image": base64.b64encode(encoded(image)).decode()}}).encode()


def pixels_of(png_in_base64: str) -> NDArray[np.uint8]:
    """The image that an alert carries."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png_in_base64))))


def write_idx(path: Path, content: NDArray[np.uint8]) -> None:
    """An idx file of bytes: two zeros, 8 for bytes, the dimensions, their sizes, the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{content.ndim}I", 0, 0, 8, content.ndim, *content.shape) + content.tobytes())


@cache
def disc_detector() -> Detector:
    """A detector of odd images, fitted on 400 discs in few steps."""
    images = records_of_images(STREAM, discs(400))
    return fit_images(images, STREAM, ImageFitSettings(most_steps=40))[0]
