"""Image files, decoded, encoded and resized by OpenCV as in Caffe."""

from __future__ import annotations

import functools
import io
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..core.errors import DataError

if TYPE_CHECKING:
    import types

MOST_PIXELS = 1 << 26  # 8192 x 8192
MOST_BYTES = 256 << 20  # of a file
# Decoding takes up to 9 bytes a pixel. A small file can state far more pixels than it can
# hold: a photograph takes at least a bit for each.
ROOM_PIXELS = 7_000_000
_PIXELS_PER_BYTE = 6
# Not all that OpenCV and Pillow read: some formats start other programs or have no limits.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(".png .jpg .jpeg .jpe .bmp .gif .tif .tiff .webp .pbm .pgm .ppm".split())
ENCODINGS = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp")

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"))
# libpng's grey depends on these, too.
_PNG_COLOR_CHUNKS = frozenset((b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT"))


class ImageHeader(NamedTuple):
    """The header of an image file: its format, one of ``FORMATS``, and its channels."""

    format: str
    is_gray: bool
    has_alpha: bool


def decode_image(
    data: bytes, where: str, color: bool, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return an image file as uint8 [C, H, W]: three channels in the order BGR, or one of grey.

    EXIF orientation is applied, transparent pixels show their stored colour, 16 bits become 8; of
    several frames the first is used.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.
        color: whether to return three channels.
        size: (H, W) to resize the image to.

    Raises:
        DataError: the bytes are no image of the formats known, are damaged, or state more than
            7 million pixels and 6 for each byte.

    Source: ReadImageToCVMat, which is cv::imread and cv::resize. A JPEG that ends too early is
        refused here; cv::imread fills what is missing with grey.
    """
    try:
        pixels = decode_pixels(data, color)
    except DataError as error:
        raise _unreadable(error, data, where) from error
    return to_planes(pixels if size is None else _resized(pixels, *size))


def decode_on_white(data: bytes, where: str, color: bool, size: tuple[int, int]) -> np.ndarray:
    """Return an image as ``decode_image`` does, for display: transparent pixels become white.

    When shrinking, each pixel is the mean of those it replaces.

    Raises:
        DataError: as ``decode_image``.
    """
    cv2 = opencv()
    try:
        pixels = decode_pixels(data, None if read_header(data).has_alpha else color)
    except DataError as error:
        raise _unreadable(error, data, where) from error
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        alpha = np.ascontiguousarray(pixels[:, :, 3])
        for channel in range(3):  # one by one, which takes less memory
            ink = cv2.multiply(255 - pixels[:, :, channel], alpha, scale=1 / 255)
            pixels[:, :, channel] = 255 - ink
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR if color else cv2.COLOR_BGRA2GRAY)
    shrinks = size[0] <= pixels.shape[0] and size[1] <= pixels.shape[1]
    return to_planes(_resized(pixels, *size, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def decode_pixels(data: bytes, color: bool | None) -> np.ndarray:
    """Return an image as OpenCV does, uint8 [H, W, C] or of one channel [H, W].

    Args:
        data: the file's bytes.
        color: three channels (True), one (False), or as the file has them (None), which ignores
            EXIF orientation.

    Raises:
        DataError: as ``decode_image``.
    """
    cv2 = opencv()
    data = _without_extras(data, keep_colors=color is False)
    _header(data)
    flags = {None: cv2.IMREAD_UNCHANGED, True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE}
    try:
        pixels: np.ndarray | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags[color])
    except cv2.error as error:
        raise DataError(str(error.err)) from error
    if pixels is None:
        raise DataError(_reason(data))
    if pixels.dtype != np.uint8:
        raise DataError(f"Image data type must be unsigned byte. Received: {pixels.dtype}")
    return pixels


def read_header(data: bytes, room_pixels: int = ROOM_PIXELS) -> ImageHeader:
    """Return the header of an image file, without decoding it.

    Args:
        data: the file's bytes.
        room_pixels: how many pixels it may have beside 6 for each of its bytes.

    Raises:
        DataError: the format is not known, the header is damaged, or it states too many pixels.
    """
    return _header(_without_extras(data, keep_colors=False), room_pixels)


def _header(data: bytes, room_pixels: int = ROOM_PIXELS) -> ImageHeader:
    from PIL import Image, UnidentifiedImageError

    try:
        with _no_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            header = ImageHeader(str(image.format), image.mode[0] in "1LI", alpha)
    except UnidentifiedImageError as error:
        raise DataError("not one of " + ", ".join(FORMATS)) from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise DataError(str(error)) from error
    most = min(MOST_PIXELS, room_pixels + _PIXELS_PER_BYTE * len(data))
    if width * height > most:
        raise DataError(
            f"{width} x {height} pixels, where a file of {len(data)} bytes may have at most {most}"
        )
    return header


def encode_image(image: np.ndarray, kind: str) -> bytes:
    """Return uint8 [C, H, W], grey or BGR, as the bytes of a file of a kind of ``ENCODINGS``.

    Source: cv::imencode, whose JPEG has quality 95; PNG gives the same pixels back.
    """
    encoded: np.ndarray = opencv().imencode(f".{kind}", _packed(image))[1]
    return encoded.tobytes()


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return uint8 [C, H, W] in another size, by cv::resize (INTER_LINEAR).

    Each new pixel lies between two rows and two columns of old ones; where an image shrinks to less
    than half, old pixels between them are not used.
    """
    if image.shape[1:] == (height, width):
        return image
    return to_planes(_resized(_packed(image), height, width))


def check_size(width: int, height: int) -> None:
    """Raise DataError for an image of more pixels than allowed."""
    if width * height > MOST_PIXELS:
        raise DataError(f"{width} x {height} pixels, where at most {MOST_PIXELS} are read")


@functools.cache
def opencv() -> types.ModuleType:
    """Return cv2, imported with the first image.

    Unless the program has imported it before, its own threads are switched off: images are decoded
    in a thread beside torch's, and a fork would lose them.
    """
    is_first = "cv2" not in sys.modules
    if is_first:
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    if is_first:
        cv2.setNumThreads(1)
    return cv2


# ---- between OpenCV's layout and Caffe's


def _resized(
    pixels: np.ndarray, height: int, width: int, interpolation: int | None = None
) -> np.ndarray:
    cv2 = opencv()
    method = cv2.INTER_LINEAR if interpolation is None else interpolation
    result: np.ndarray = cv2.resize(pixels, (width, height), interpolation=method)
    return result


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """Return OpenCV's [H, W, C] or [H, W] as [C, H, W]."""
    if pixels.ndim == 2:
        return pixels[None]
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    for channel, plane in enumerate(planes):
        opencv().extractChannel(pixels, channel, plane)
    return planes


def _packed(planes: np.ndarray) -> np.ndarray:
    """Return [C, H, W] as [H, W, C], or [H, W] where there is one channel."""
    merged: np.ndarray = opencv().merge(list(planes))
    return merged


# ---- damaged files


def _without_extras(data: bytes, keep_colors: bool) -> bytes:
    """Return a file; of a PNG, only the chunks its pixels depend on.

    libpng warns on stderr about colour profiles or text without naming the file, and an animation's
    first frame would not be read like the image.

    Raises:
        DataError: a checksum is wrong, or the end is missing.
    """
    if not data.startswith(_PNG):
        return data
    wanted = _PNG_CHUNKS | _PNG_COLOR_CHUNKS if keep_colors else _PNG_CHUNKS
    kept, at, kind = [data[:8]], 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise DataError("image file is truncated: a PNG ends with its IEND chunk")
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + size]
        at += len(chunk)
        if kind in wanted:
            if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise DataError(f"its {kind.decode()} chunk is damaged: the checksum is wrong")
            kept.append(chunk)
    return b"".join(kept)


def _reason(data: bytes) -> str:
    """Return why OpenCV, which gives no reason, does not decode an image with a valid header."""
    from PIL import Image

    try:
        with _no_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        return str(error)
    return f"OpenCV does not decode this kind of {image.format}, of {image.mode} pixels"


def _unreadable(error: DataError, data: bytes, where: str) -> DataError:
    return DataError(
        f"Could not open or find file: the image cannot be read: {error}. "
        f"Received: {len(data)} bytes",
        where,
    )


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silence Pillow: sizes are checked here, and damage is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
