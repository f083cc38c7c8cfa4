"""Picture files: decoded as OpenCV would give them, and resized as it does."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from ..errors import DataError

MOST_PIXELS = 1 << 26  # 8192 x 8192; a small file can announce far more than memory holds
MOST_BYTES = 256 << 20  # of a file
# Not all that Pillow knows: some of its formats start other programs.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = frozenset(".png .jpg .jpeg .jpe .bmp .gif .tif .tiff .webp .pbm .pgm .ppm".split())

_COEFFICIENT = 2048  # cv::resize weighs bytes in whole numbers of this part


def decode_picture(
    data: bytes, where: str, color: bool, paper: bool = False, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return a picture as uint8 [C, H, W]: three channels in the order BGR, or one of grey.

    The mark of a camera that was held upright is obeyed; of several frames the first counts.

    Args:
        data: the file's bytes.
        where: the file's name, for errors.
        color: whether to give three channels.
        paper: whether what is transparent becomes white; else the colour below it appears.
        size: (H, W) to bring the picture to, with a mean over all pixels where it shrinks.

    Raises:
        DataError: the bytes are no picture of the formats known, are damaged, have more than 8 bits
            per channel (grey of 16 bits loses the lower 8), or announce more than 2^26 pixels.

    Source: Caffe reads pictures by cv::imread.
    """
    from PIL import Image, ImageOps

    mode = "RGB" if color else "L"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sizes, which are checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                check_size(*opened.size)
                if not color:
                    opened.draft("L", opened.size)  # a JPEG gives its own luma, as in OpenCV
                picture = ImageOps.exif_transpose(opened)
                picture = _of_bytes(picture)
                picture = (_on_white(picture) if paper else picture).convert(mode)
                if size is not None:
                    picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        reason = "not one of " + ", ".join(FORMATS) if _is_unknown(error) else str(error)
        raise DataError(
            f"Could not open or find file: the picture cannot be read: {reason}. "
            f"Received: {len(data)} bytes",
            where,
        ) from error
    pixels = np.asarray(picture)
    if not color:
        return pixels[None]
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))


def encode_picture(image: np.ndarray, kind: str) -> bytes:
    """Return uint8 [C, H, W], grey or BGR, as the bytes of a ``png`` or ``jpg`` file.

    Source: cv::imencode, whose JPEG has quality 95; PNG gives the same pixels back.
    """
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image[::-1].transpose(1, 2, 0)
    file = io.BytesIO()
    options = {"format": "PNG"} if kind == "png" else {"format": "JPEG", "quality": 95}
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, **options)
    return file.getvalue()


def resize_picture(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return uint8 [C, H, W] in another size, to the bit as cv::resize (INTER_LINEAR) gives it.

    Each new pixel lies between two rows and two columns of old ones; where a picture shrinks to
    less than half, old pixels between them are not looked at.

    Source: OpenCV's fixed-point arithmetic for bytes, held against pictures that the original read.
    """
    if image.shape[1:] == (height, width):
        return image
    low, high, of_low, of_high = _neighbours(image.shape[2], width)
    values = image.astype(np.int32)
    rows = (values[:, :, low] * of_low + values[:, :, high] * of_high) >> 4
    low, high, of_low, of_high = _neighbours(image.shape[1], height)
    upper, lower = rows[:, low] * of_low[:, None], rows[:, high] * of_high[:, None]
    mixed: np.ndarray = ((upper >> 16) + (lower >> 16) + 2) >> 2
    return mixed.clip(0, 255).astype(np.uint8)


def check_size(width: int, height: int) -> None:
    """Raise DataError where a picture would have more pixels than are read."""
    if width * height > MOST_PIXELS:
        raise DataError(f"{width} x {height} pixels, where at most {MOST_PIXELS} are read")


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each new place the old ones before and after it, and what each weighs."""
    at = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    low = np.floor(at).astype(np.int64)
    part = at - low.astype(np.float32)
    outside = (low < 0) | (low >= old - 1)
    low, part = low.clip(0, old - 1), np.where(outside, np.float32(0), part)
    of_low = np.rint((1 - part) * _COEFFICIENT).astype(np.int32)
    of_high = np.rint(part * _COEFFICIENT).astype(np.int32)
    return low, np.minimum(low + 1, old - 1), of_low, of_high


def _is_unknown(error: Exception) -> bool:
    from PIL import UnidentifiedImageError

    return isinstance(error, UnidentifiedImageError)


def _of_bytes(picture: Any) -> Any:
    """Return a picture of 8 bits per channel."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode[0] in "IF":
        raise DataError(f"{picture.mode} pixels, where 8 bits per channel are read")
    return picture


def _on_white(picture: Any) -> Any:
    from PIL import Image

    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
