from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from caffe_kd.data.picture import FORMATS, SUFFIXES, decode_picture, encode_picture, resize_picture
from caffe_kd.errors import DataError

# That resizing equals OpenCV's to the bit is held against a recording: test_convert_imageset.py.

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
JPEG_LOSS = 8  # grey levels, on a smooth ramp at quality 95


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_decode_gives_bgr_planes() -> None:
    got = decode_picture(png(Image.fromarray(RGB)), "p.png", color=True)
    np.testing.assert_array_equal(got, RGB[:, :, ::-1].transpose(2, 0, 1))
    assert got.flags.c_contiguous


def test_decode_grey_as_colour_gives_three_equal_planes() -> None:
    got = decode_picture(png(Image.fromarray(RGB[:, :, 0])), "p.png", color=True)
    np.testing.assert_array_equal(got, np.stack([RGB[:, :, 0]] * 3))


def test_decode_transparent_shows_the_colour_below_or_paper() -> None:
    alpha = np.zeros((6, 5, 1), np.uint8)
    alpha[0] = 255
    data = png(Image.fromarray(np.concatenate([RGB, alpha], 2)))
    bgr = RGB[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_picture(data, "p.png", color=True), bgr)
    on_paper = decode_picture(data, "p.png", color=True, paper=True)
    np.testing.assert_array_equal(on_paper[:, 0], bgr[:, 0])
    assert (on_paper[:, 1:] == 255).all()


def test_decode_of_32_bit_pixels_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(file, "TIFF")
    with pytest.raises(DataError, match=r"x\.tif: .* 8 bits per channel"):
        decode_picture(file.getvalue(), "x.tif", color=False)


def test_suffixes_are_of_the_formats() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} == set(FORMATS)


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_png_gives_the_same_pixels_back(channels: int) -> None:
    image = np.ascontiguousarray(RGB.transpose(2, 0, 1)[:channels])
    again = decode_picture(encode_picture(image, "png"), "p.png", color=channels == 3)
    np.testing.assert_array_equal(again, image)


def test_encode_jpg_gives_nearly_the_same_pixels_back() -> None:
    ramp = np.stack([np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8] * 3)
    data = encode_picture(ramp, "jpg")
    assert data.startswith(b"\xff\xd8")
    again = decode_picture(data, "p.jpg", color=True)
    assert np.abs(again.astype(int) - ramp).max() <= JPEG_LOSS


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = RGB.transpose(2, 0, 1)
    np.testing.assert_array_equal(resize_picture(image, 6, 5), image)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (600, 2)])
def test_resize_keeps_a_flat_picture_flat(size: tuple[int, int]) -> None:
    got = resize_picture(np.full((2, 7, 11), 255, np.uint8), *size)
    assert got.shape == (2, *size) and (got == 255).all()


def test_resize_to_half_is_the_mean_of_four() -> None:
    image = np.array([[[0, 100], [200, 100]]], np.uint8)
    assert resize_picture(image, 1, 1).tolist() == [[[100]]]


def test_resize_to_double_mixes_by_quarters() -> None:
    image = np.array([[[0, 100]]], np.uint8)
    assert resize_picture(image, 1, 4).tolist() == [[[0, 25, 75, 100]]]
