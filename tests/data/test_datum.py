from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from caffe_kd.core.errors import DataError
from caffe_kd.data.datum import decode_datum, parse_datum
from caffe_kd.proto import caffe_pb2

JPEG_ERROR = 3  # levels by which a flat colour may change in a JPEG
ORANGE = (250, 130, 20)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> caffe_pb2.Datum:
    file = io.BytesIO()
    image.save(file, form, **options)
    return caffe_pb2.Datum(data=file.getvalue(), encoded=True, label=7)


def test_decode_raw_is_channels_height_width() -> None:
    datum = caffe_pb2.Datum(channels=2, height=1, width=3, data=bytes(range(6)), label=-1)
    image, label = decode_datum(datum, "here")
    np.testing.assert_array_equal(image, [[[0, 1, 2]], [[3, 4, 5]]])
    assert image.dtype == np.uint8
    assert label == -1


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_decode_colour_is_bgr(form: str) -> None:
    image, label = decode_datum(encoded(Image.new("RGB", (16, 8), ORANGE), form), "here")
    assert (image.shape, image.dtype, label) == ((3, 8, 16), np.uint8, 7)
    for channel, value in zip(image, reversed(ORANGE), strict=True):
        assert np.abs(channel.astype(int) - value).max() <= (JPEG_ERROR if form == "JPEG" else 0)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("P", 3), ("RGBA", 4), ("LA", 4)]
)
def test_decode_png_has_opencvs_channels(mode: str, channels: int) -> None:
    image, _ = decode_datum(encoded(Image.new("RGB", (5, 4), ORANGE).convert(mode)), "here")
    assert image.shape == (channels, 4, 5)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_decode_force_color_and_grey(form: str) -> None:
    grey = encoded(Image.new("L", (8, 8), 90), form)
    assert decode_datum(grey, "here")[0].shape == (1, 8, 8)
    assert decode_datum(grey, "here", force_color=True)[0].shape == (3, 8, 8)
    colour = encoded(Image.new("RGB", (8, 8), ORANGE), form)
    luma = 0.299 * 250 + 0.587 * 130 + 0.114 * 20
    forced, _ = decode_datum(colour, "here", force_color=False)
    assert forced.shape == (1, 8, 8)
    assert np.abs(forced - luma).max() <= JPEG_ERROR


def test_force_color_leaves_raw_samples_alone() -> None:
    datum = caffe_pb2.Datum(channels=1, height=1, width=1, data=b"a")
    assert decode_datum(datum, "here", force_color=True)[0].shape == (1, 1, 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_decode_truncated_image_is_an_error(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    datum = encoded(Image.fromarray(noise), form)
    whole = datum.data
    for keep in range(0, len(whole) * 9 // 10, 7):
        datum.data = whole[:keep]
        with pytest.raises(DataError, match="here: Could not decode datum"):
            decode_datum(datum, "here")


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_decode_other_formats_as_opencv_does(form: str) -> None:
    image, _ = decode_datum(encoded(Image.new("RGB", (5, 4), (255, 0, 0)), form), "here")
    assert image.shape == (3, 4, 5)
    assert np.abs(image[:, 2, 2] - np.array([0.0, 0, 255])).max() <= JPEG_ERROR


def test_decode_sixteen_bits_is_an_error_unless_a_colour_is_forced() -> None:
    datum = encoded(Image.fromarray(np.full((4, 4), 0x7FFF, np.uint16)))
    with pytest.raises(DataError, match="here: .*must be unsigned byte.*image of 8 bits"):
        decode_datum(datum, "here")
    assert (decode_datum(datum, "here", force_color=False)[0] == 0x7F).all()


def test_decode_announced_giant_is_refused_before_memory_is_taken() -> None:
    datum = encoded(Image.new("1", (8193, 8192)))
    with pytest.raises(DataError, match="8193 x 8192 pixels"):
        decode_datum(datum, "here")


@pytest.mark.parametrize(
    "fields",
    [
        {"data": b"12345"},
        {"data": b"1234567"},
        {"float_data": [1.0] * 5},
        {},
        {"data": b"123456", "height": -1, "width": -3},
        {"data": b"", "height": 0},
    ],
)
def test_decode_wrong_length_is_an_error(fields: dict[str, object]) -> None:
    datum = caffe_pb2.Datum(**{"channels": 2, "height": 1, "width": 3, **fields})
    with pytest.raises(DataError, match="here: Incorrect data field size"):
        decode_datum(datum, "here")


def test_parse_other_bytes_are_an_error() -> None:
    with pytest.raises(DataError, match="here: the sample is not a Datum"):
        parse_datum(b"\xff\xff\xff", "here")
