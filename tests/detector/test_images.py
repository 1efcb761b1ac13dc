"""Bytes to images: what becomes a record, and what is refused with which reason."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector import Decoder, ImageDecoder, Messages, RejectReason, StreamDefinition, StreamDefinitionError, to_png
from detector.images import BadImageError, fit_to_size, read_image
from detector.stream import ImageFeature
from tests.images import STREAM, discs, encoded, in_json

FEATURE = ImageFeature(kind="image")
IN_A_FIELD = StreamDefinition.model_validate(
    {"name": "scans", "id": "id", "feature": [{"kind": "image", "field": "scan.image"}]}
)


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_png_of_the_scored_size_keeps_every_pixel() -> None:
    image = discs(1)[0]

    assert (read_image(encoded(image), FEATURE)[:, :, 0] == image).all()


def test_a_jpeg_is_read_as_its_content_says() -> None:
    image = discs(1)[0]

    found = read_image(encoded(image, "JPEG"), FEATURE)[:, :, 0]

    assert np.abs(found.astype(int) - image).mean() < 5  # JPEG loses a little


def test_bare_pixels_are_an_image_of_the_declared_shape() -> None:
    image = discs(1)[0]
    feature = ImageFeature(kind="image", pixels=(28, 28, 1))

    assert (read_image(image.tobytes(), feature)[:, :, 0] == image).all()
    with pytest.raises(BadImageError, match="is 783 bytes, and 28 x 28 pixels of 1 byte"):
        read_image(image.tobytes()[1:], feature)


def test_colours_become_grey_levels_by_their_brightness() -> None:
    image = np.zeros((28, 28, 3), np.uint8)
    image[:, :, 1] = 200

    found = read_image(encoded(image), FEATURE)

    assert found.shape == (28, 28, 1)
    assert set(found.ravel().tolist()) == {117}  # .587 of green, as ITU-R BT.601 weighs it


def test_a_colour_stream_keeps_the_channels_and_spreads_grey_over_them() -> None:
    feature = ImageFeature(kind="image", colour=True)
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)

    assert (read_image(encoded(image), feature) == image).all()
    assert (read_image(encoded(image[:, :, 0]), feature) == image[:, :, :1]).all()


def test_a_larger_image_is_scaled_by_averaging_what_falls_together() -> None:
    image = np.kron(discs(1)[0], np.ones((2, 2), np.uint8))

    found = fit_to_size(image[:, :, None], FEATURE)[:, :, 0]

    assert np.abs(found.astype(int) - discs(1)[0]).max() <= 6  # bilinear reaches a little into the neighbours


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    image = discs(1)[0]
    data = io.BytesIO()
    Image.fromarray(image.astype(np.uint16) << 8).save(data, format="PNG")

    assert (read_image(data.getvalue(), FEATURE)[:, :, 0] == image).all()


@pytest.mark.parametrize("side", [2_001, 30_000, 2**31 - 1])
def test_too_many_pixels_are_refused_before_any_is_decoded(side: int) -> None:
    with pytest.raises(BadImageError, match="max_pixels") as refused:
        read_image(bomb(side), FEATURE)

    assert refused.value.is_too_large


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_raise_anything_but_a_bad_image(noise: bytes, cut: int) -> None:
    whole = encoded(discs(1)[0])
    for data in (noise, whole[:cut], whole[:60] + noise + whole[60:]):
        try:
            read_image(data, FEATURE)
        except BadImageError as error:
            assert str(error)  # noqa: PT017


def test_every_value_becomes_one_record_or_one_reject_with_its_reason() -> None:
    good = encoded(discs(1)[0])
    values = [good, None, b"", b"GIF89a", good[:-40], bomb(30_000), b"x" * 1_000_001, good]

    records, rejects = ImageDecoder(STREAM).decode(Messages(values))

    assert records.rows.tolist() == records.offsets.tolist() == [0, 7]
    assert records.images is not None
    assert records.images.shape == (2, 28, 28, 1)
    assert [(reject.row, reject.reason) for reject in rejects] == [
        (1, RejectReason.TOMBSTONE),
        (2, RejectReason.EMPTY),
        (3, RejectReason.BAD_IMAGE),
        (4, RejectReason.BAD_IMAGE),
        (5, RejectReason.TOO_LARGE),
        (6, RejectReason.TOO_LARGE),
    ]


def test_an_image_in_a_field_belongs_to_a_record_with_its_id() -> None:
    image = discs(1)[0]
    values = [
        in_json(image, id="a"),
        json.dumps({"id": "b", "scan": {"image": "not base64!"}}).encode(),
        json.dumps({"id": "c", "scan": {}}).encode(),
        json.dumps({"id": "d", "scan": {"image": 7}}).encode(),
        json.dumps({"id": "e", "scan": {"image": base64.b64encode(bomb(30_000)).decode()}}).encode(),
        in_json(image, id="f").replace(b'"image": "', b'"image": "data:image/png;base64,'),
    ]  # fmt: skip

    records, rejects = Decoder(IN_A_FIELD).decode(Messages(values))

    assert records.ids is not None
    assert records.images is not None
    assert records.ids.tolist() == ["a", "f"]
    assert (records.images[0] == image[:, :, None]).all()
    assert (records.images[1] == records.images[0]).all()
    assert [(reject.row, reject.reason, reject.field) for reject in rejects] == [
        (1, RejectReason.BAD_IMAGE, "scan.image"),
        (2, RejectReason.MISSING_FIELD, "scan.image"),
        (3, RejectReason.WRONG_TYPE, "scan.image"),
        (4, RejectReason.TOO_LARGE, "scan.image"),
    ]


def test_a_png_of_ours_is_read_back_to_the_same_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)

    assert (np.asarray(Image.open(io.BytesIO(to_png(image)))) == image).all()


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[[feature]]\nkind = "image"\n[[feature]]\nkind = "number"\nfield = "x"', "features of the other kinds"),
        ('id = "id"\n[[feature]]\nkind = "image"', "values that are images have none"),
        ('id = "scan"\n[[feature]]\nkind = "image"\nfield = "scan"', "cannot be the id"),
        ('[[feature]]\nkind = "image"\nheight = 30', "multiple of 4"),
        ('[[feature]]\nkind = "image"\npixels = [28, 28, 2]', "feature"),
        ('[[feature]]\nkind = "image"\npixels = [3000, 3000, 1]', "max_pixels"),
    ],
)
def test_a_definition_that_cannot_be_scored_is_refused_with_the_reason(toml: str, said: str) -> None:
    with pytest.raises(StreamDefinitionError, match=said):
        StreamDefinition.from_toml(f'name = "scans"\n{toml}\n')


def test_a_definition_of_images_survives_being_written_and_read() -> None:
    text = 'name = "scans"\n[[feature]]\nkind = "image"\nfield = "scan"\npixels = [28, 28, 1]\ncolour = true\n'
    stream = StreamDefinition.from_toml(text)

    assert StreamDefinition.from_toml(stream.to_toml()) == stream


def test_a_palette_with_transparency_is_read_by_its_colours() -> None:
    data = io.BytesIO()
    palette = Image.fromarray(discs(1)[0]).convert("P")
    palette.save(data, format="PNG", transparency=bytes([0, 128, 255]))

    assert np.abs(read_image(data.getvalue(), FEATURE)[:, :, 0].astype(int) - discs(1)[0]).max() <= 1
