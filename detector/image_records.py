"""Images as records: from message values that are images and from arrays; and records as rows to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.decode import Decoder, Reject, RejectReason, label_column
from detector.encode import Notes
from detector.images import BadImageError, fit_to_size, read_image
from detector.records import MessageBatch, Messages, Records
from detector.stream import ImageFeature, StreamDefinition


class ImageDecoder:
    """Reads message values that are images themselves; as `Decoder` otherwise."""

    def __init__(self, stream: StreamDefinition) -> None:
        assert stream.image is not None  # noqa: S101 - asked by the caller
        self.stream, self._feature = stream, stream.image

    def decode(self, batch: MessageBatch) -> tuple[Records, list[Reject]]:
        """Decode a batch; every value becomes either one record or one reject."""
        images, rows, rejects = [], [], []
        for row, value in enumerate(batch.values):
            found = self._read(row, value)
            if isinstance(found, Reject):
                rejects.append(found)
            else:
                images.append(found)
                rows.append(row)
        return _records(self._feature, images, batch, np.array(rows, np.int64)), rejects

    def _read(self, row: int, value: bytes | None) -> NDArray[np.uint8] | Reject:
        if value is None:
            return Reject(row, RejectReason.TOMBSTONE, None, "the value is null: a tombstone, not an image")
        if not value:
            return Reject(row, RejectReason.EMPTY, None, "the value is empty")
        if len(value) > self.stream.max_record_bytes:
            limit = f"{len(value)} bytes are more than max_record_bytes ({self.stream.max_record_bytes})"
            return Reject(row, RejectReason.TOO_LARGE, None, limit)
        try:
            return read_image(value, self._feature)
        except BadImageError as error:
            reason = RejectReason.TOO_LARGE if error.is_too_large else RejectReason.BAD_IMAGE
            return Reject(row, reason, None, f"the value {error}")


def decoder_of(stream: StreamDefinition) -> Decoder | ImageDecoder:
    """What reads the message values of a stream: JSON objects, or images themselves."""
    values_are_images = stream.image is not None and stream.image.field is None
    return ImageDecoder(stream) if values_are_images else Decoder(stream)


def records_of_images(
    stream: StreamDefinition, images: NDArray[Any], labels: Sequence[Any] | None = None, first: int = 0
) -> Records:
    """Images in an array as records, scaled as a message's are.

    Args:
        stream: A stream of images.
        images: uint8 (n, h, w) of grey levels, or (n, h, w, c) with one channel or three.
        labels: What the label field would say of each.
        first: Offset of the first of them.

    Raises:
        ValueError: The array has another type or shape, or the stream has no image.
    """
    feature = stream.image
    if feature is None:
        raise ValueError(f"stream {stream.name!r} has no image: give a table, or a float matrix (n, d)")
    _check_images(images)
    four = images[..., None] if images.ndim == 3 else images
    batch = Messages([None] * len(images), first)
    found = label_column(stream.label.anomalous, list(labels)) if stream.label and labels is not None else None
    fitted = [fit_to_size(image, feature) for image in four]
    return _records(feature, fitted, batch, np.arange(len(images), dtype=np.int64), found)


def stream_of_images(images: NDArray[Any], name: str = "images") -> StreamDefinition:
    """A definition for an array of images: at their own size where it can be scored, else at the nearest.

    Raises:
        ValueError: The array is no images.
    """
    _check_images(images)
    height, width = (int(np.clip(4 * round(side / 4), 16, 64)) for side in images.shape[1:3])
    feature = ImageFeature(kind="image", height=height, width=width, colour=images.ndim == 4 and images.shape[3] == 3)
    return StreamDefinition(name=name, feature=(feature,))


def is_images(data: object) -> bool:
    """Whether data are images rather than a matrix of numbers: an array of three or four dimensions."""
    return isinstance(data, np.ndarray) and data.ndim >= 3


class ImageEncoder:
    """Images as rows of grey levels or colours from 0 to 1; nothing about it is fitted.

    Attributes:
        names: Name of the one feature.
        slices: Its columns: all.
        width: How many they are.
    """

    def __init__(self, feature: ImageFeature) -> None:
        self.feature = feature
        self.width = feature.channels * feature.height * feature.width
        self.names = [feature.label]
        self.slices = [slice(0, self.width)]

    def encode(self, records: Records, notes: Notes | None = None) -> NDArray[np.float32]:  # noqa: ARG002 - as Encoder
        """Rows (n, d), channel after channel, each row after row."""
        if records.images is None:
            raise ValueError("the records hold no images: they are of another stream")
        planes = records.images.transpose(0, 3, 1, 2).reshape(len(records), self.width)
        return planes.astype(np.float32) / np.float32(255)

    def images(self, matrix: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Images (n, h, w, c) of rows (n, d), cut to what a byte can hold."""
        feature = self.feature
        levels = np.clip(np.rint(matrix * 255), 0, 255).astype(np.uint8)
        return levels.reshape(-1, feature.channels, feature.height, feature.width).transpose(0, 2, 3, 1)

    def state(self) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """Nothing was fitted."""
        return [], {}


def _check_images(images: NDArray[Any]) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"images of type {images.dtype} have no known range: give uint8, from 0 to 255")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or 0 in images.shape[1:]:
        raise ValueError(
            f"shape {images.shape} is not that of images: give (n, height, width), or with 1 or 3 channels"
        )


def _records(
    feature: ImageFeature,
    images: Sequence[NDArray[np.uint8]],
    batch: MessageBatch,
    rows: NDArray[np.int64],
    labels: NDArray[np.bool_] | None = None,
) -> Records:
    shape = (len(images), feature.height, feature.width, feature.channels)
    return Records(
        rows=rows,
        partition_index=np.asarray(batch.partition_index)[rows],
        offsets=np.asarray(batch.offsets)[rows],
        timestamps_ms=np.asarray(batch.timestamps_ms)[rows],
        numbers={},
        categories={},
        times={},
        labels=labels,
        images=np.stack(images) if len(images) else np.zeros(shape, np.uint8),
    )
