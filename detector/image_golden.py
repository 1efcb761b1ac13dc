"""Made-up message values of a stream of images: strokes and noise, and nothing of any real one."""

from __future__ import annotations

import base64
import json

import numpy as np
from numpy.typing import NDArray

from detector.images import to_png
from detector.stream import StreamDefinition
from detector.times import iso8601

_START = 1_700_000_000
_STROKES = 3


def golden_images(stream: StreamDefinition, draw: np.random.Generator, count: int) -> list[bytes]:
    """Message values of a stream of images that become records, every one."""
    return [_value(stream, draw, row) for row in range(count)]


def _value(stream: StreamDefinition, draw: np.random.Generator, row: int) -> bytes:
    feature = stream.image
    assert feature is not None  # noqa: S101 - asked by the caller
    height, width, channels = feature.pixels or (feature.height, feature.width, feature.channels)
    image = _image(draw, height, width, channels)
    data = to_png(image) if feature.pixels is None else image.tobytes()
    if feature.field is None:
        return data
    flat: dict[str, object] = {path: f"golden-{row}" for path in (stream.id, stream.key) if path is not None}
    if stream.time is not None:
        moment = _START + row
        written = {"iso8601": iso8601(np.datetime64(moment, "s")), "epoch_s": moment, "epoch_ms": moment * 1000}
        flat[stream.time.field] = written[stream.time.format]
    record: dict[str, object] = {}
    for path, value in {**flat, feature.field: base64.b64encode(data).decode()}.items():
        *parents, leaf = path.split(".")
        node = record
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[leaf] = value
    return json.dumps(record).encode()


def _image(draw: np.random.Generator, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """A few soft strokes over faint noise, uint8 (height, width, channels)."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]  # (h, w) each
    image = draw.uniform(0, 12, (height, width, channels))
    for _ in range(_STROKES):
        angle, offset = draw.uniform(0, np.pi), draw.uniform(0.3, 0.7)
        distance = (y - offset) * np.cos(angle) - (x - offset) * np.sin(angle)
        along = (y - offset) * np.sin(angle) + (x - offset) * np.cos(angle)
        stroke = np.exp(-((distance / 0.06) ** 2) - (along / draw.uniform(0.15, 0.4)) ** 2)
        image += 240 * stroke[:, :, None] * draw.uniform(0.5, 1, channels)
    return np.clip(image, 0, 255).astype(np.uint8)
