"""Datum, the message that a database holds for each sample."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ..core.errors import DataError
from ..proto import caffe_pb2
from .image_file import FORMATS, decode_pixels, to_planes
from .source import SampleSource


def parse_datum(message: bytes, where: str) -> Any:
    """Return the Datum that ``message`` holds; ``where`` names the sample in errors.

    Raises:
        DataError: the bytes are not a Datum.
    """
    try:
        return caffe_pb2.Datum.FromString(message)
    except DecodeError as error:
        raise DataError(
            f"the sample is not a Datum. Received: {len(message)} bytes that do not decode.", where
        ) from error


def decode_datum(datum: Any, where: str, force_color: bool | None = None) -> tuple[np.ndarray, int]:
    """Return image [C, H, W] and label of a Datum.

    Raw bytes give uint8, ``float_data`` gives float32, an encoded image gives uint8 in BGR channel
    order; one channel stays one channel. ``force_color`` acts on encoded images only: True makes
    them BGR, False grey; None takes them as they are, ignoring EXIF orientation.

    Raises:
        DataError: the length is not channels x height x width, or the image does not decode.

    Source: DecodeDatum and DecodeDatumNative, which are cv::imdecode.
    """
    if datum.encoded:
        return _decode_image(datum.data, where, force_color), datum.label
    shape = (datum.channels, datum.height, datum.width)
    values = (
        np.frombuffer(datum.data, np.uint8)
        if datum.data or not datum.float_data
        else np.fromiter(datum.float_data, np.float32, len(datum.float_data))
    )
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise DataError(
            f"Incorrect data field size {values.size}. Expected: channels x height x width = "
            f"{shape[0]} x {shape[1]} x {shape[2]}, each at least 1.",
            where,
        )
    return values.reshape(shape), datum.label


def _decode_image(data: bytes, where: str, force_color: bool | None) -> np.ndarray:
    """Return the image [C, H, W] in OpenCV's channel order: grey, BGR or BGRA."""
    try:
        return to_planes(decode_pixels(data, force_color))
    except DataError as error:
        raise DataError(
            f"Could not decode datum: {error}. Received: {len(data)} bytes. "
            f"Expected: an image of 8 bits per channel, {', '.join(FORMATS)}.",
            where,
        ) from error


class DatumSamples(SampleSource):
    """The samples of a database: a key, and a Datum as its value."""

    _force_color: bool | None

    @abc.abstractmethod
    def key(self, index: int) -> bytes:
        """Return the key of a sample."""

    @abc.abstractmethod
    def _value(self, index: int) -> bytes:
        """Return the Datum of a sample as bytes."""

    def read(self, index: int) -> tuple[np.ndarray, int]:
        """Return image [C, H, W] and label.

        Raises:
            DataError: the sample is damaged; the message names its key.
        """
        where = self._where(index)
        return decode_datum(parse_datum(self._value(index), where), where, self._force_color)

    def label(self, index: int) -> int:
        """Return the label; the image is not decoded."""
        return int(parse_datum(self._value(index), self._where(index)).label)

    def datum(self, index: int) -> bytes:
        """Return the Datum as it is stored."""
        return self._value(index)

    def _is_encoded(self) -> bool:
        return bool(parse_datum(self._value(0), self._where(0)).encoded)

    def _where(self, index: int) -> str:
        return f"{self.name}: key '{self.key(index).decode(errors='replace')}'"
