"""Images and arrays on their way into a net: reading, resizing, ``Transformer``, messages.

Images are arrays [height, width, channel] in the order RGB, float32 from 0 to 1.

Source: pycaffe's io, which reads and resizes images with scikit-image; that is not needed here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.errors import DataError, NetError, did_you_mean
from ..core.files import read_bytes
from ..data.datum import decode_datum
from ..data.image_file import FORMATS, MOST_BYTES, read_header
from ..proto import caffe_pb2

Array = NDArray[Any]
Path = str | PathLike[str]
Dims = Sequence[int] | Array

_ROOM_PIXELS = 2_500_000  # allowed of a small file; decoding takes up to 22 bytes for each
_LUMA = np.array([0.2125, 0.7154, 0.0721], np.float32)  # ITU-R BT.709, as scikit-image greys


# ---- messages


def blobproto_to_array(blob: Any, return_diff: bool = False) -> Array:
    """Return the values of a BlobProto, or its gradients, in its shape.

    Raises:
        ValueError: their number does not match the shape.
    """
    single, double = (blob.diff, blob.double_diff) if return_diff else (blob.data, blob.double_data)
    values = np.array(double or single, np.float64)
    legacy = ("num", "channels", "height", "width")
    if any(blob.HasField(dim) for dim in legacy):
        return values.reshape([getattr(blob, dim) for dim in legacy])
    return values.reshape(list(blob.shape.dim))


def array_to_blobproto(arr: ArrayLike, diff: ArrayLike | None = None) -> Any:
    """Return a BlobProto of an array, and of gradients of the same shape."""
    values = np.asarray(arr)
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.astype(float).flat)
    if diff is not None:
        blob.diff.extend(np.asarray(diff).astype(float).flat)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[ArrayLike]) -> bytes:
    """Return arrays as the bytes of a BlobProtoVector."""
    vector = caffe_pb2.BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist])
    serialized: bytes = vector.SerializeToString()
    return serialized


def blobprotovector_str_to_arraylist(serialized: bytes) -> list[Array]:
    """Return the arrays of a BlobProtoVector's bytes."""
    vector = caffe_pb2.BlobProtoVector.FromString(serialized)
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Array, label: int | None = None) -> Any:
    """Return a Datum of an array [C, H, W]: bytes of uint8, else floats.

    Raises:
        ValueError: the array does not have three axes.
    """
    if arr.ndim != 3:
        raise ValueError(f"Incorrect array shape: a Datum is [C, H, W]. Received: {arr.shape}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> Array:
    """Return the array [C, H, W] of a Datum: uint8, or float64 of floats; BGR of encoded images.

    Raises:
        DataError: the number of values is not C x H x W, or the image is damaged.
    """
    array, _ = decode_datum(datum, "Datum")
    return array if array.dtype == np.uint8 else array.astype(np.float64)


# ---- images


def load_image(filename: Path, color: bool = True) -> Array:
    """Return an image file as float32 [H, W, 3] in RGB or [H, W, 1] in grey, 0 to 1.

    Transparency is left out. A colour image is turned to grey by its ITU-R BT.709 luma.

    Raises:
        ParseError: the file is missing or too large.
        DataError: it is not an image of a known format, is damaged or has too many pixels.
    """
    from PIL import Image

    data = read_bytes(str(filename), MOST_BYTES)
    try:
        read_header(data, _ROOM_PIXELS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sizes, which are checked here
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                pixels = _pixels(opened)
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise DataError(
            f"the image cannot be read: {error}. Known formats: {', '.join(FORMATS)}",
            str(filename),
        ) from error
    if color:
        return pixels if pixels.shape[2] == 3 else np.tile(pixels, (1, 1, 3))
    return pixels if pixels.shape[2] == 1 else (pixels @ _LUMA)[:, :, None]


def _pixels(image: Any) -> Array:
    """Return [H, W, 3] or [H, W, 1] from 0 to 1."""
    if image.mode.startswith("I"):  # grey of 16 bits
        return (np.asarray(image, np.float32) / 65535)[:, :, None]
    if image.mode == "F":
        return np.asarray(image, np.float32)[:, :, None]
    grey = image.mode in ("1", "L", "LA")
    array = np.array(image.convert("L" if grey else "RGB"), np.float32)
    array /= 255
    return array[:, :, None] if grey else array


def resize_image(im: Array, new_dims: Dims, interp_order: int = 1) -> Array:
    """Return an image [H, W, K] in another size, as float32 [new_dims[0], new_dims[1], K].

    Interpolates by splines of order ``interp_order``, 1 being linear. An image of 1 or 3 channels
    is treated as squares of constant colour, padded with its minimum, without smoothing when it is
    made smaller; for other channel counts the corner pixels keep their positions.

    Source: pycaffe, with the scikit-image and SciPy of its time.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    im = np.asarray(im)
    height, width = (int(dim) for dim in new_dims)
    channels = im.shape[-1]
    factors = (height / im.shape[0], width / im.shape[1], 1)
    if channels not in (1, 3):
        return _as_float32(ndimage.zoom(im, factors, order=interp_order))
    least, most = im.min(), im.max()
    if most <= least:
        return np.full((height, width, channels), least, np.float32)
    spread = (im - least) / (most - least)
    options = {"mode": "grid-constant", "grid_mode": True, "order": interp_order}
    resized = ndimage.zoom(spread, factors, **options).clip(0, 1)
    return _as_float32(resized * (most - least) + least)


def _as_float32(array: Any) -> Array:
    result: Array = array.astype(np.float32)
    return result


def oversample(images: Sequence[Array], crop_dims: Dims) -> Array:
    """Return ten crops of each image: four corners and the centre, and their mirror images.

    Args:
        images: arrays [H, W, K] of one size.
        crop_dims: height and width of the crops.

    Returns:
        float32 [10 * N, crop_dims[0], crop_dims[1], K].
    """
    height, width = (int(dim) for dim in crop_dims)
    rows, columns = images[0].shape[0] - height, images[0].shape[1] - width
    corners = [(y, x) for y in (0, rows) for x in (0, columns)]
    positions = [*corners, (int(rows / 2), int(columns / 2))]
    crops = np.empty((10 * len(images), height, width, images[0].shape[-1]), np.float32)
    for number, image in enumerate(images):
        ten = crops[10 * number : 10 * number + 10]
        for index, (y, x) in enumerate(positions):
            ten[index] = image[y : y + height, x : x + width]
        ten[5:] = ten[:5, :, ::-1]
    return crops


class Transformer:
    """Converts images [H, W, K] to a net's inputs [K, H, W], and back.

    ``preprocess`` applies those that were set of: resize, transpose, swap channels, multiply by
    ``raw_scale``, subtract ``mean``, multiply by ``input_scale``.

    Args:
        inputs: the shape of each input blob by name.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = dict(inputs)
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: Array) -> Array:
        """Return an image in the form of an input blob, as float32; ``data`` is not changed."""
        self._check(in_)
        result: Array = np.array(data, np.float32)
        dims = tuple(self.inputs[in_][2:])
        if result.shape[:2] != dims:
            result = resize_image(result, dims)
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            result *= self.raw_scale[in_]
        if in_ in self.mean:
            result -= self.mean[in_]
        if in_ in self.input_scale:
            result *= self.input_scale[in_]
        return result

    def deprocess(self, in_: str, data: Array) -> Array:
        """Return the image of an input blob's values: the inverse of ``preprocess``.

        The size is kept. Axes of size 1 are squeezed first, except that of a single channel where
        axes or channels are to be swapped.
        """
        self._check(in_)
        moves = in_ in self.transpose or in_ in self.channel_swap
        result: Array = data.copy()
        result = result.reshape(result.shape[-3:]) if moves else result.squeeze()
        if in_ in self.input_scale:
            result /= self.input_scale[in_]
        if in_ in self.mean:
            result += self.mean[in_]
        if in_ in self.raw_scale:
            result /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes, (2, 0, 1) for [H, W, K] to [K, H, W]."""
        self._check(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise NetError(
                "Transpose order needs to have the same number of dimensions as the input, which "
                f"without the batch has {len(self.inputs[in_]) - 1}. Received: {tuple(order)}"
            )
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels, (2, 1, 0) for RGB to BGR."""
        self._check(in_)
        if len(order) != self.inputs[in_][1]:
            raise NetError(
                "Channel swap needs to have the same number of dimensions as the input channels, "
                f"{self.inputs[in_][1]}. Received: {tuple(order)}"
            )
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set what an image is multiplied by before the mean is subtracted; 255 for bytes."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """Set what is subtracted: one value per channel, or an image [K, H, W] or [H, W].

        An image of another size than the input is resized.

        Raises:
            ValueError: it has another number of channels or axes than the input.
        """
        self._check(in_)
        mean = np.asarray(mean)
        wanted = tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            if mean.shape[0] != wanted[0]:
                raise ValueError(
                    f"Mean channels incompatible with input, which has {wanted[0]}. Received: "
                    f"{mean.shape[0]}"
                )
            self.mean[in_] = mean[:, None, None]
            return
        image = mean[None] if mean.ndim == 2 else mean
        if image.ndim != 3 or image.shape[0] not in (1, wanted[0]):
            raise ValueError(
                f"Mean shape invalid: wanted {wanted}, or {wanted[:1]}. Received: {mean.shape}"
            )
        if image.shape[1:] != wanted[1:]:
            mean = resize_image(image.transpose(1, 2, 0), wanted[1:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set what an image is multiplied by after the mean is subtracted."""
        self._check(in_)
        self.input_scale[in_] = scale

    def _check(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise NetError(
                f"{in_} is not one of the net inputs: {', '.join(self.inputs)}."
                f"{did_you_mean(in_, self.inputs)}"
            )
