from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_kd as caffe
from caffe_kd.core.errors import DataError, NetError, ParseError
from tests.growth import check_growth, needs_proc

pb = caffe.proto.caffe_pb2

FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}  # values up to 255 with seven digits, scaled a few times


# ---- messages


def test_blobproto_of_old_and_new_shape_becomes_an_array() -> None:
    data = np.zeros((10, 10))
    blob = pb.BlobProto(data=data.flat)
    blob.num, blob.channels, blob.height, blob.width = 1, 1, 10, 10
    assert caffe.io.blobproto_to_array(blob).shape == (1, 1, 10, 10)
    blob = pb.BlobProto(data=data.flat)
    blob.shape.dim.extend(data.shape)
    assert caffe.io.blobproto_to_array(blob).shape == data.shape
    assert caffe.io.blobproto_to_array(pb.BlobProto(num=2)).shape == (2, 0, 0, 0)


def test_blobproto_without_shape_is_a_scalar_or_an_error() -> None:
    with pytest.raises(ValueError, match="reshape"):
        caffe.io.blobproto_to_array(pb.BlobProto(data=np.zeros(100)))
    scalar = caffe.io.blobproto_to_array(pb.BlobProto(data=[123]))
    assert scalar.shape == ()
    assert scalar == 123


def test_arrays_come_back_from_blobprotos_with_their_diffs() -> None:
    array, diff = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    blob = caffe.io.array_to_blobproto(array, diff)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(blob, return_diff=True), diff)
    double = pb.BlobProto(double_data=[1 / 3])
    assert caffe.io.blobproto_to_array(double) == 1 / 3


def test_list_of_arrays_comes_back_from_bytes() -> None:
    arrays = [np.arange(6.0).reshape(2, 3), np.array(7.0), np.zeros((1, 1, 0))]
    back = caffe.io.blobprotovector_str_to_arraylist(
        caffe.io.arraylist_to_blobprotovector_str(arrays)
    )
    assert [b.shape for b in back] == [a.shape for a in arrays]
    for given, found in zip(arrays, back, strict=True):
        np.testing.assert_array_equal(found, given)


def test_arrays_come_back_from_datums() -> None:
    random = np.random.default_rng(0)
    whole = random.integers(256, size=(3, 4, 5)).astype(np.uint8)
    datum = caffe.io.array_to_datum(whole, label=7)
    assert (datum.label, datum.data) == (7, whole.tobytes())
    np.testing.assert_array_equal(caffe.io.datum_to_array(datum), whole)
    real = random.normal(size=(3, 4, 5)).astype(np.float32)
    datum = caffe.io.array_to_datum(real)
    assert not datum.HasField("label")
    assert not datum.data
    back = caffe.io.datum_to_array(datum)
    np.testing.assert_array_equal(back, real)
    assert back.dtype == np.float64
    with pytest.raises(ValueError, match="Incorrect array shape"):
        caffe.io.array_to_datum(real[0])
    datum.width = 4
    with pytest.raises(DataError, match="Incorrect data field size 60"):
        caffe.io.datum_to_array(datum)


# ---- images


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> str:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return str(path)


def test_image_is_rgb_or_grey_of_0_to_1(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(4, 6, 3)).astype(np.uint8)
    path = save(tmp_path / "a.png", pixels)
    rgb = caffe.io.load_image(path)
    assert rgb.dtype == np.float32
    np.testing.assert_allclose(rgb, pixels / 255, **FLOAT32)
    luma = pixels @ np.array([0.2125, 0.7154, 0.0721]) / 255
    grey = caffe.io.load_image(path, color=False)
    assert grey.shape == (4, 6, 1)
    np.testing.assert_allclose(grey[:, :, 0], luma, **FLOAT32)


def test_grey_image_is_tripled_and_alpha_left_out(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(4, 6)).astype(np.uint8)
    path = save(tmp_path / "grey.png", pixels)
    np.testing.assert_allclose(
        caffe.io.load_image(path), np.tile(pixels[:, :, None] / 255, 3), **FLOAT32
    )
    assert caffe.io.load_image(path, color=False).shape == (4, 6, 1)
    deep = save(tmp_path / "deep.png", pixels.astype(np.uint16) * 257)
    np.testing.assert_allclose(caffe.io.load_image(deep)[:, :, 0], pixels / 255, **FLOAT32)
    rgba = np.random.default_rng(0).integers(256, size=(4, 6, 4)).astype(np.uint8)
    path = save(tmp_path / "alpha.png", rgba)
    np.testing.assert_allclose(caffe.io.load_image(path), rgba[:, :, :3] / 255, **FLOAT32)


@needs_proc
@pytest.mark.parametrize(("side", "message"), [(1580, ""), (2600, "2600 x 2600 pixels")])
@pytest.mark.parametrize(("mode", "color"), [("RGB", True), ("RGB", False), ("L", True)])
def test_small_file_with_many_pixels_takes_little_memory(
    tmp_path: Path, side: int, message: str, mode: str, color: bool
) -> None:
    path = tmp_path / "x.png"
    Image.new(mode, (side, side)).save(path)
    found = check_growth(lambda p: caffe.io.load_image(p, color), path)
    assert message in found and bool(message) == bool(found)


def test_file_that_is_no_image_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="no such file"):
        caffe.io.load_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text.png: the image cannot be read"):
        caffe.io.load_image(tmp_path / "text.png")


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image resized between the centres of its pixels, with its least value around."""
    border = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=image.min())

    def along(values: np.ndarray, count: int) -> np.ndarray:
        at = (np.arange(count) + 0.5) * (len(values) - 2) / count + 0.5
        low = np.floor(at).astype(int)
        part = (at - low)[:, None, None]
        return values[low] * (1 - part) + values[low + 1] * part

    rows = along(border.astype(np.float64), height)
    return along(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)


@pytest.mark.parametrize("size", [(12, 9), (5, 4), (2, 3), (16, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_interpolates_between_centres(size: tuple[int, int], channels: int) -> None:
    image = np.random.default_rng(0).uniform(10, 250, size=(8, 6, channels)).astype(np.float32)
    resized = caffe.io.resize_image(image, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, bilinear(image, *size), rtol=1e-4)


def test_resize_of_an_even_image_keeps_its_value() -> None:
    np.testing.assert_array_equal(
        caffe.io.resize_image(np.full((4, 4, 3), 0.3, np.float32), (9, 7)),
        np.full((9, 7, 3), np.float32(0.3)),
    )


def test_resize_of_other_channels_keeps_the_corners() -> None:
    image = np.random.default_rng(0).uniform(size=(8, 6, 5))
    resized = caffe.io.resize_image(image, (15, 11))
    assert resized.shape == (15, 11, 5)
    np.testing.assert_allclose(resized[::2, ::2], image, **FLOAT32)
    middle = (image[0, :-1] + image[0, 1:]) / 2
    np.testing.assert_allclose(resized[0, 1::2], middle, **FLOAT32)


def test_resize_by_nearest_and_cubic_stays_within_the_image() -> None:
    image = np.random.default_rng(0).uniform(size=(8, 6, 3))
    nearest = caffe.io.resize_image(image, (16, 12), interp_order=0)
    np.testing.assert_allclose(nearest, image.repeat(2, 0).repeat(2, 1), **FLOAT32)
    cubic = caffe.io.resize_image(image, (16, 12), interp_order=3)
    assert image.min() - 1e-6 <= cubic.min()
    assert cubic.max() <= image.max() + 1e-6


def test_oversample_takes_corners_centre_and_mirrors() -> None:
    images = np.random.default_rng(0).uniform(size=(2, 9, 8, 3)).astype(np.float32)
    crops = caffe.io.oversample(images, (4, 4))
    assert crops.shape == (20, 4, 4, 3)
    for image, ten in zip(images, crops.reshape(2, 10, 4, 4, 3), strict=True):
        corners = [image[:4, :4], image[:4, 4:], image[5:, :4], image[5:, 4:]]
        np.testing.assert_array_equal(ten[:4], corners)
        np.testing.assert_array_equal(ten[4], image[2:6, 2:6])
        np.testing.assert_array_equal(ten[5:], ten[:5, :, ::-1])


# ---- Transformer


def transformer() -> caffe.io.Transformer:
    made = caffe.io.Transformer({"data": (10, 3, 8, 6)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([104.0, 117, 123]))
    made.set_input_scale("data", 0.5)
    return made


def test_preprocess_goes_step_by_step() -> None:
    image = np.random.default_rng(0).uniform(size=(8, 6, 3)).astype(np.float32)
    before = image.copy()
    ready = transformer().preprocess("data", image)
    expected = image.transpose(2, 0, 1)[::-1] * 255
    expected = (expected - np.array([104, 117, 123])[:, None, None]) * 0.5
    np.testing.assert_allclose(ready, expected, **FLOAT32)
    assert ready.dtype == np.float32
    np.testing.assert_array_equal(image, before)


def test_preprocess_resizes_first() -> None:
    image = np.random.default_rng(0).uniform(size=(16, 11, 3)).astype(np.float32)
    small = caffe.io.resize_image(image, (8, 6))
    made = transformer()
    np.testing.assert_array_equal(made.preprocess("data", image), made.preprocess("data", small))


def test_nothing_set_leaves_an_image_as_it_is() -> None:
    plain = caffe.io.Transformer({"data": (1, 8, 6)})
    values = np.random.default_rng(0).uniform(size=(6,)).astype(np.float32)
    plain.inputs["data"] = (1, 3, 8, 6)
    image = np.tile(values, (8, 1))
    np.testing.assert_array_equal(plain.preprocess("data", image), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_deprocess_undoes_preprocess(channels: int) -> None:
    made = caffe.io.Transformer({"data": (10, channels, 8, 6)})
    made.set_transpose("data", (2, 0, 1))
    made.set_channel_swap("data", (1, 2, 0)[:channels] if channels == 3 else (0,))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.full((channels, 8, 6), 30.0))
    made.set_input_scale("data", 0.25)
    image = np.random.default_rng(0).uniform(size=(8, 6, channels)).astype(np.float32)
    back = made.deprocess("data", made.preprocess("data", image)[None])
    np.testing.assert_allclose(back, image, **FLOAT32)


def test_mean_is_per_channel_or_an_image_of_any_size() -> None:
    made = caffe.io.Transformer({"data": (1, 3, 8, 6)})
    made.set_mean("data", np.ones(3))
    assert made.mean["data"].shape == (3, 1, 1)
    made.set_mean("data", np.ones((8, 6)))
    np.testing.assert_array_equal(np.broadcast_to(made.mean["data"], (3, 8, 6)), np.ones((3, 8, 6)))
    large = np.random.default_rng(0).uniform(90, 130, size=(3, 16, 12))
    made.set_mean("data", large)
    assert made.mean["data"].shape == (3, 8, 6)
    expected = bilinear(large.transpose(1, 2, 0), 8, 6).transpose(2, 0, 1)
    np.testing.assert_allclose(made.mean["data"], expected, **FLOAT32)
    with pytest.raises(ValueError, match="Mean channels incompatible with input"):
        made.set_mean("data", np.ones(4))
    for wrong in ((1, 1, 1, 1), (2, 8, 6)):
        with pytest.raises(ValueError, match="Mean shape invalid"):
            made.set_mean("data", np.ones(wrong))


def test_settings_that_do_not_fit_are_reported() -> None:
    made = caffe.io.Transformer({"data": (1, 3, 8, 6)})
    with pytest.raises(NetError, match="Transpose order needs to have the same number"):
        made.set_transpose("data", (0, 1))
    with pytest.raises(NetError, match="Channel swap needs to have the same number"):
        made.set_channel_swap("data", (1, 0))
    with pytest.raises(NetError, match="dat is not one of the net inputs: data. Did you mean"):
        made.set_raw_scale("dat", 1)
