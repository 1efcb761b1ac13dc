"""Images between their bytes and arrays of one size; it knows no network and no stream but the feature it reads."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from detector.stream import ImageFeature

_FORMATS = ("PNG", "JPEG")


class BadImageError(ValueError):
    """Bytes that are no image of the feature; the message never repeats any of them.

    Attributes:
        is_too_large: It has more pixels than the feature allows, and was not decoded.
    """

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


def read_image(data: bytes, feature: ImageFeature) -> NDArray[np.uint8]:
    """The image in `data` at the feature's size: uint8 (height, width, channels).

    PNG and JPEG are told apart by their content. How large an image is stands in its header: one of more than
    `max_pixels` is refused before a pixel of it is decoded. Of 16-bit grey levels the upper byte counts, transparency
    does not, and an animation is its first image.

    Raises:
        BadImageError: The bytes are no such image, are cut off, or hold too many pixels.
    """
    if feature.pixels is None:
        return fit_to_size(_decoded(data, feature.max_pixels), feature)
    height, width, channels = feature.pixels
    if len(data) != height * width * channels:
        needed = height * width * channels
        raise BadImageError(f"is {len(data)} bytes, and {height} x {width} pixels of {channels} byte(s) are {needed}")
    return fit_to_size(np.frombuffer(data, np.uint8).reshape(height, width, channels), feature)


def fit_to_size(image: NDArray[np.uint8], feature: ImageFeature) -> NDArray[np.uint8]:
    """An image (h, w, 1 or 3) with the feature's channels and at its size: uint8 (height, width, channels).

    Scaled bilinearly with antialiasing, the proportions not kept. Images that have the size already stay as they are.
    """
    same_size = image.shape[:2] == (feature.height, feature.width)
    if same_size and image.shape[2] == feature.channels:
        return image
    from torchvision.transforms.v2 import functional as transforms  # takes a second to import

    planes = torch.from_numpy(np.array(image.transpose(2, 0, 1)))  # (c, h, w)
    if image.shape[2] == 3 and not feature.colour:
        planes = transforms.rgb_to_grayscale(planes)
    if not same_size:
        planes = transforms.resize(planes, [feature.height, feature.width], antialias=True)
    fitted: NDArray[np.uint8] = np.ascontiguousarray(planes.expand(feature.channels, -1, -1).permute(1, 2, 0).numpy())
    return fitted


def from_base64(text: object) -> bytes:
    """The bytes that base64 text stands for; the head of a data URL is passed over.

    Raises:
        BadImageError: It is no such text.
    """
    if not isinstance(text, str):
        raise BadImageError("is not base64 text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError("is not base64 text") from error


def to_png(image: NDArray[np.uint8]) -> bytes:
    """An image (h, w, 1 or 3) as PNG: the same image gives the same bytes."""
    drawing = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(drawing, format="PNG", optimize=True)
    return drawing.getvalue()


def _decoded(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Pixels of a PNG or JPEG, (h, w, 1) where it is grey, else (h, w, 3)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs, which `max_pixels` is far below, and of transparency
        try:
            opened = Image.open(io.BytesIO(data), formats=_FORMATS)
        except Image.DecompressionBombError as error:
            raise BadImageError(f"has more than max_pixels ({max_pixels})", is_too_large=True) from error
        except Exception as error:  # Pillow raises what its parsers meet, and no bytes may stop a stream
            raise BadImageError("is neither PNG nor JPEG") from error
        with opened:
            width, height = opened.size
            if width * height > max_pixels:
                message = f"has {width} x {height} pixels, more than max_pixels ({max_pixels})"
                raise BadImageError(message, is_too_large=True)
            try:
                return _pixels(opened)
            except Exception as error:  # as above
                raise BadImageError(f"is a broken {opened.format}") from error


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode[0] in "IF":  # 16 bits
        deep: NDArray[Any] = np.asarray(image)
        return (deep.astype(np.uint16) >> 8).astype(np.uint8)[:, :, None]
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))[:, :, None]
    return np.asarray(image.convert("RGB"))
