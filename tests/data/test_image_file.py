from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from caffe_kd.core.errors import DataError
from caffe_kd.data.image_file import (
    FORMATS,
    SUFFIXES,
    decode_image,
    decode_on_white,
    encode_image,
    resize_image,
)
from tests.growth import check_growth, needs_proc

# That images equal those that Caffe read is held against recordings: test_convert_imageset.py.

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
BGR = RGB[:, :, ::-1].transpose(2, 0, 1)
JPEG_LOSS = 8  # grey levels, on a smooth ramp at quality 95
ONE_LEVEL = 1  # by which libpng's grey is off


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    marks = Image.Exif()
    marks[0x0112] = orientation
    return marks


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """Return a PNG with one more chunk after its header, whose checksum is wrong."""
    at = 8 + 25
    made = len(content).to_bytes(4, "big") + kind + content + b"\0\0\0\0"
    return png[:at] + made + png[at:]


# ---- decoding


def test_decode_gives_bgr_planes() -> None:
    got = decode_image(file_of(Image.fromarray(RGB)), "p.png", color=True)
    np.testing.assert_array_equal(got, BGR)
    assert got.flags.c_contiguous


def test_decode_grey_as_colour_gives_three_equal_planes() -> None:
    got = decode_image(file_of(Image.fromarray(RGB[:, :, 0])), "p.png", color=True)
    np.testing.assert_array_equal(got, np.stack([RGB[:, :, 0]] * 3))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_decode_grey_of_colour_has_the_weights_of_itu_601(form: str) -> None:
    for color, weight in (((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)):
        options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(form, {})
        data = file_of(Image.new("RGB", (16, 16), color), form, **options)
        got = decode_image(data, "p", color=False)
        assert got.shape == (1, 16, 16)
        assert np.abs(got - 255 * weight).max() <= ONE_LEVEL + (form == "WEBP")


def of_every_kind() -> dict[str, bytes]:
    ramp = np.add.outer(np.arange(24), 3 * np.arange(32))
    pixels = np.stack([ramp, ramp[::-1], 255 - 2 * ramp], 2).astype(np.uint8)
    image = Image.fromarray(pixels)
    grey, palette = image.convert("L"), image.quantize(16)
    clear = image.copy()
    clear.putalpha(grey)
    deep = np.asarray(grey).astype(np.uint16) * 251
    kinds = {
        "grey.png": file_of(grey),
        "palette.png": file_of(palette),
        "palette_clear.png": file_of(palette, transparency=3),
        "alpha.png": file_of(clear),
        "grey_alpha.png": file_of(clear.convert("LA")),
        "bilevel.png": file_of(image.convert("1")),
        "deep.png": file_of(Image.fromarray(deep)),
        "deep_color.png": cv2.imencode(".png", pixels.astype(np.uint16) * 251)[1].tobytes(),
        "gamma.png": _with_gamma(image),
        "turned.png": file_of(image, exif=exif(6)),
        "cmyk.jpg": file_of(image.convert("CMYK"), "JPEG"),
        "progressive.jpg": file_of(image, "JPEG", progressive=True),
        "turned.jpg": file_of(image, "JPEG", exif=exif(8)),
        "palette.bmp": file_of(palette, "BMP"),
        "lzw.tif": file_of(image, "TIFF", compression="tiff_lzw"),
        "fax.tif": file_of(image.convert("1"), "TIFF", compression="group4"),
        "deep.tif": file_of(Image.fromarray(deep), "TIFF"),
        "cmyk.tif": file_of(image.convert("CMYK"), "TIFF"),
        "lossy.webp": file_of(image, "WEBP"),
        "alpha.webp": file_of(clear, "WEBP"),
        "moving.gif": file_of(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "grey.pgm": file_of(grey, "PPM"),
    }
    plain = ("png", "jpg", "bmp", "tif", "webp", "gif", "ppm")
    names = {"jpg": "JPEG", "tif": "TIFF"}
    return kinds | {f"plain.{s}": file_of(image, names.get(s, s.upper())) for s in plain}


def _with_gamma(image: Image.Image) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add(b"gAMA", (100000).to_bytes(4, "big"))  # linear, which libpng's grey regards
    return file_of(image, pnginfo=info)


KINDS = of_every_kind()


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_decode_equals_imread_of_the_file(tmp_path: Path, name: str, color: bool) -> None:
    """Which is what Caffe calls; bytes in memory take another way through OpenCV."""
    path = tmp_path / name
    path.write_bytes(KINDS[name])
    wanted = cv2.imread(str(path), cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE)
    got = decode_image(KINDS[name], name, color)
    np.testing.assert_array_equal(got, wanted.transpose(2, 0, 1) if color else wanted[None])


def test_decode_transparent_shows_the_colour_below() -> None:
    data = file_of(Image.fromarray(np.dstack([RGB, np.zeros((6, 5, 1), np.uint8)])))
    np.testing.assert_array_equal(decode_image(data, "p.png", color=True), BGR)


def test_decode_palette_shows_its_colours() -> None:
    image = Image.fromarray(RGB).quantize(8)
    wanted = np.asarray(image.convert("RGB"))[:, :, ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode_image(file_of(image), "p.png", color=True), wanted)


@pytest.mark.parametrize("color", [True, False])
def test_decode_of_sixteen_bits_keeps_the_upper_eight(color: bool) -> None:
    grey = RGB[:, :, 0]
    data = file_of(Image.fromarray(grey.astype(np.uint16) * 257))
    got = decode_image(data, "p.png", color)
    assert len(got) == (3 if color else 1)
    assert all((plane == grey).all() for plane in got)


def test_decode_of_cmyk_gives_its_colours() -> None:
    inks = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 255, 0): (0, 255, 0), (0, 0, 0, 255): (0,) * 3}
    for ink, rgb in inks.items():
        data = file_of(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
        got = decode_image(data, "p.jpg", color=True)
        assert np.abs(got[::-1, 8, 8] - np.array(rgb, float)).max() <= JPEG_LOSS


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_decode_obeys_the_cameras_mark(orientation: int) -> None:
    shown = RGB[:, :, 0]
    data = file_of(Image.fromarray(shown), exif=exif(orientation))
    got = decode_image(data, "p.png", color=False)[0]
    np.testing.assert_array_equal(got, TURNS[orientation](shown))


def test_decode_of_several_frames_gives_the_first() -> None:
    first, second = Image.new("L", (5, 4), 200), Image.new("L", (5, 4), 10)
    for form in ("GIF", "TIFF", "PNG"):
        data = file_of(first, form, save_all=True, append_images=[second])
        assert (decode_image(data, "p", color=False) == 200).all()


def test_decode_with_a_size_resizes() -> None:
    data = file_of(Image.fromarray(RGB))
    wanted = resize_image(np.ascontiguousarray(BGR), 3, 9)
    np.testing.assert_array_equal(decode_image(data, "p", True, (3, 9)), wanted)


def test_decode_on_white_turns_what_is_transparent_white() -> None:
    alpha = np.zeros((6, 5, 1), np.uint8)
    alpha[0] = 255
    data = file_of(Image.fromarray(np.dstack([RGB, alpha])))
    got = decode_on_white(data, "p.png", True, (6, 5))
    np.testing.assert_array_equal(got[:, 0], BGR[:, 0])
    assert (got[:, 1:] == 255).all()


def test_decode_on_white_mixes_what_is_half_transparent() -> None:
    data = file_of(Image.new("RGBA", (4, 4), (0, 100, 255, 51)))  # a fifth
    got = decode_on_white(data, "p.png", True, (4, 4))
    assert np.abs(got[:, 0, 0] - np.array([255, 224, 204.0])).max() <= ONE_LEVEL


def test_decode_on_white_shrinks_to_the_mean() -> None:
    data = file_of(Image.fromarray(np.array([[0, 40, 80, 120]] * 4, np.uint8)))
    assert decode_on_white(data, "p.png", False, (1, 1)).tolist() == [[[60]]]


# ---- what is refused


def test_decode_of_32_bit_pixels_is_refused() -> None:
    data = file_of(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(DataError, match=r"x\.tif: .* this kind of TIFF, of F pixels"):
        decode_image(data, "x.tif", color=False)


@pytest.mark.parametrize("form", [".hdr", ".jp2", ".pfm", ".ras"])
def test_decode_of_other_formats_of_opencv_is_refused(form: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8 if form in (".jp2", ".ras") else np.float32)
    try:
        data = cv2.imencode(form, pixels)[1].tobytes()
    except (cv2.error, AttributeError):
        pytest.skip("this build of OpenCV does not write the format")
    with pytest.raises(DataError, match="x: Could not open or find file: .* not one of PNG, JPEG"):
        decode_image(data, "x", color=True)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF"])
def test_decode_of_truncated_files_is_one_line(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = file_of(Image.fromarray(noise), form)
    for keep in range(0, len(data) * 9 // 10, 97):
        with pytest.raises(DataError, match="^x: Could not open or find file: .*") as caught:
            decode_image(data[:keep], "x", color=True)
        assert "\n" not in str(caught.value)


def test_opencv_writes_nothing_of_its_own(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from caffe_kd.data.image_file import decode_image
from caffe_kd.core.errors import DataError
for name in sys.argv[1:]:
    try:
        decode_image(Path(name).read_bytes(), name, True)
    except DataError:
        print("refused")
"""
    deep = Image.fromarray(np.ones((4, 4), np.float32))
    for form in ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF"):
        data = file_of(Image.fromarray(np.tile(RGB, (5, 5, 1))), form)
        (tmp_path / f"{form}.cut").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "deep").write_bytes(file_of(deep, "TIFF"))
    words = [sys.executable, "-c", script, *map(str, tmp_path.iterdir())]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n" * 8, "")


def test_decode_of_a_png_with_a_wrong_checksum_is_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = bytearray(file_of(Image.fromarray(RGB)))
    data[data.index(b"IDAT") + 10] ^= 4
    with pytest.raises(DataError, match="IDAT chunk is damaged: the checksum is wrong"):
        decode_image(bytes(data), "x.png", color=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [b"iCCP", b"tEXt", b"zTXt"])
def test_decode_says_nothing_of_what_the_pixels_do_not_need(
    capfd: pytest.CaptureFixture[str], kind: bytes
) -> None:
    data = with_chunk(file_of(Image.fromarray(RGB)), kind, b"x\0\0nonsense")
    np.testing.assert_array_equal(decode_image(data, "p.png", color=True), BGR)
    assert capfd.readouterr() == ("", "")


def test_decode_of_a_small_file_with_many_pixels_is_refused() -> None:
    data = file_of(Image.new("L", (16000, 8000)), compress_level=9)
    assert len(data) < 300_000
    wanted = rf"x: .*16000 x 8000 pixels, where a file of {len(data)} bytes may have at most \d+"
    with pytest.raises(DataError, match=wanted):
        decode_image(data, "x", color=True)


def test_decode_of_a_photograph_of_twelve_megapixels_works() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 667, 3), np.uint8)
    smooth = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)
    data = file_of(smooth, "JPEG", quality=75)
    assert 1_000_000 < len(data) < 3_000_000
    assert decode_image(data, "photo.jpg", True, (256, 256)).shape == (3, 256, 256)


@needs_proc
@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("JPEG", {"quality": 20}), ("GIF", {}), ("WEBP", {"method": 0}),
     ("JPEG", {"quality": 20, "progressive": True, "subsampling": 0})],
)  # fmt: skip
def test_decode_takes_at_most_four_times_the_file_and_64_mb(
    tmp_path: Path, form: str, options: dict[str, object]
) -> None:
    path = tmp_path / "x"
    # The first image of a form loads what reads it, which is not the file's growth.
    Image.new("RGB", (8, 8)).save(path, form, **options)
    decode_image(path.read_bytes(), "x", True)
    Image.new("RGB", (2600, 2600), (9, 99, 200)).save(path, form, **options)
    assert check_growth(lambda path: decode_image(path.read_bytes(), "x", True), path) == ""


@needs_proc
def test_decode_on_white_takes_at_most_four_times_the_file_and_64_mb(tmp_path: Path) -> None:
    path = tmp_path / "x"
    Image.new("RGBA", (2600, 2600), (9, 99, 200, 70)).save(path, "PNG")
    read = check_growth(lambda p: decode_on_white(p.read_bytes(), "x", True, (8, 8)), path)
    assert read == ""


def test_import_of_the_package_loads_no_opencv() -> None:
    script = "import caffe_kd, caffe_kd.data.image_file, sys; print('cv2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_suffixes_are_of_the_formats() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} == set(FORMATS)


# ---- encoding


@pytest.mark.parametrize("kind", ["png", "bmp", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_encode_without_loss_gives_the_same_pixels_back(channels: int, kind: str) -> None:
    image = np.ascontiguousarray(BGR[:channels])
    again = decode_image(encode_image(image, kind), "p", color=channels == 3)
    np.testing.assert_array_equal(again, image)


def test_encode_jpg_gives_nearly_the_same_pixels_back() -> None:
    ramp = np.stack([np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8] * 3)
    data = encode_image(ramp, "jpg")
    assert data.startswith(b"\xff\xd8")
    again = decode_image(data, "p.jpg", color=True)
    assert np.abs(again.astype(int) - ramp).max() <= JPEG_LOSS


# ---- resizing


def test_resize_to_the_same_size_changes_nothing() -> None:
    np.testing.assert_array_equal(resize_image(BGR, 6, 5), BGR)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (600, 2)])
def test_resize_keeps_a_flat_image_flat(size: tuple[int, int]) -> None:
    got = resize_image(np.full((2, 7, 11), 255, np.uint8), *size)
    assert got.shape == (2, *size) and (got == 255).all()


def test_resize_to_half_is_the_mean_of_four() -> None:
    image = np.array([[[0, 100], [200, 100]]], np.uint8)
    assert resize_image(image, 1, 1).tolist() == [[[100]]]


def test_resize_to_double_mixes_by_quarters() -> None:
    image = np.array([[[0, 100]]], np.uint8)
    assert resize_image(image, 1, 4).tolist() == [[[0, 25, 75, 100]]]
    assert resize_image(image.transpose(0, 2, 1), 4, 1).ravel().tolist() == [0, 25, 75, 100]


@pytest.mark.parametrize("grown", [12, 13, 29])
def test_resize_that_grows_keeps_first_and_last_row_and_column(grown: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 6, 5), np.uint8)
    high = resize_image(image, grown, 5)
    np.testing.assert_array_equal(high[:, [0, -1]], image[:, [0, -1]])
    wide = resize_image(image, 6, grown)
    np.testing.assert_array_equal(wide[:, :, [0, -1]], image[:, :, [0, -1]])


@pytest.mark.parametrize("size", [(4, 3), (6, 11), (23, 5), (40, 2)])
def test_resize_lies_between_two_rows_and_two_columns(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).integers(0, 256, (3, 9, 7), np.uint8)
    rows, columns = (_weights(old, new) for old, new in zip((9, 7), size, strict=True))
    wanted = rows @ image.astype(float) @ columns.T
    assert np.abs(resize_image(image, *size) - wanted).max() <= ONE_LEVEL


def _weights(old: int, new: int) -> np.ndarray:
    """Return what each old place weighs in each new one, float [new, old]."""
    at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))
