"""Reads and writes BlobProto, the message that holds an array, without unpacking its numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from . import schema
from .wire import I32, I64, LEN, VARINT, Damaged, Field, Walker, header, signed, varint

Array = NDArray[np.float32]

MAX_AXES = 32  # Caffe's limit for a blob
MAX_DIM = 2**31 - 1

# Field numbers of caffe.proto, with the wire types a field may have.
_LEGACY_DIMS = (1, 2, 3, 4)  # num, channels, height, width
_DATA, _DIFF, _SHAPE, _DOUBLE_DATA = 5, 6, 7, 8
_RAW_TYPE, _RAW_DATA = 10, 12  # of NVIDIA's fork: the values as in memory, and their type
_RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
_BLOB = {
    **{number: (VARINT,) for number in _LEGACY_DIMS},
    _DATA: (LEN, I32),
    _SHAPE: (LEN,),
    _DOUBLE_DATA: (LEN, I64),
    _RAW_TYPE: (VARINT, I64, LEN, I32),  # elsewhere the number may mean anything
    _RAW_DATA: (LEN, VARINT, I64, I32),
}
_DIMS = {1: (LEN, VARINT)}


def read_blob_message(walker: Walker, start: int, end: int, name: str) -> tuple[Array, bool]:
    """Return the values of the BlobProto at ``[start, end)``, and whether its shape is legacy.

    num, channels, height and width, if any is set, take precedence over ``shape``, ``double_data``
    over ``data``, and the ``raw_data`` of NVIDIA's fork over both. float32 in one packed
    run becomes a view of the walker's data.

    Raises:
        Damaged: the blob is malformed, or its number of values does not match its shape; the
            message begins with ``name``.
    """
    sizes: dict[int, int] = {}
    dims: list[int] = []
    payloads: dict[int, Field] = {}
    in_pieces = False
    raw_type = -1
    for field in walker.fields(start, end, _BLOB):
        if field.number == _SHAPE:
            for dim in walker.fields(field.start, field.end, _DIMS):
                dims.extend(signed(value, 64) for value in walker.varints(dim))
        elif field.number in _LEGACY_DIMS:
            sizes[field.number] = signed(field.value, 32)
        elif field.number in (_RAW_TYPE, _RAW_DATA):
            if field.number == _RAW_TYPE and field.kind == VARINT:
                raw_type = field.value
            elif field.number == _RAW_DATA and field.kind == LEN:
                payloads[_RAW_DATA] = field
        elif field.kind == LEN and field.number not in payloads:
            payloads[field.number] = field
        else:  # one by one, or in several runs
            in_pieces = True
            break
    if in_pieces:
        values, dims, legacy = _blob_in_pieces(bytes(walker.data[start:end]))
    else:
        legacy = bool(sizes)
        dims = [sizes.get(number, 0) for number in _LEGACY_DIMS] if legacy else dims
        values = _values(walker, payloads, raw_type, name)
    return _shaped(values, dims, name), legacy


def _values(walker: Walker, payloads: dict[int, Field], raw_type: int, name: str) -> Array:
    raw = payloads.get(_RAW_DATA)
    if raw is not None and raw.end > raw.start and raw_type >= 0:
        if raw_type not in _RAW_TYPES:
            raise Damaged(f"{name} has raw_data that is neither float16, float32 nor float64")
        with np.errstate(all="ignore"):
            return _numbers(walker, raw, _RAW_TYPES[raw_type]).astype(np.float32, copy=False)
    double = payloads.get(_DOUBLE_DATA)
    if double is not None and double.end > double.start:
        with np.errstate(all="ignore"):  # too large becomes infinite, as in Caffe's cast
            return _numbers(walker, double, "<f8").astype(np.float32)
    single = payloads.get(_DATA)
    return np.empty(0, np.float32) if single is None else _numbers(walker, single, "<f4")


def _numbers(walker: Walker, field: Field, dtype: str) -> NDArray[Any]:
    count, rest = divmod(field.end - field.start, np.dtype(dtype).itemsize)
    if rest:
        raise Damaged(f"at byte {field.start} a blob's values end inside a value")
    if not count:
        return np.empty(0, dtype)
    return np.frombuffer(walker.data, dtype, count, field.start)


def _blob_in_pieces(serialized: bytes) -> tuple[Array, list[int], bool]:
    """Parse with protobuf a blob whose values are not one packed run: rare, and slower."""
    blob = schema.messages()["BlobProto"]()
    try:
        blob.ParseFromString(serialized)
    except DecodeError:
        raise Damaged("a blob cannot be parsed") from None
    numbers = blob.double_data or blob.data
    with np.errstate(all="ignore"):
        values = np.fromiter(numbers, np.float64, len(numbers)).astype(np.float32)
    legacy = any(blob.HasField(axis) for axis in ("num", "channels", "height", "width"))
    dims = [blob.num, blob.channels, blob.height, blob.width] if legacy else list(blob.shape.dim)
    return values, dims, legacy


def _shaped(values: Array, dims: list[int], name: str) -> Array:
    shape = " ".join(map(str, dims[: MAX_AXES + 1]))
    if len(dims) > MAX_AXES or any(not 0 <= dim <= MAX_DIM for dim in dims):
        raise Damaged(f"{name} has the shape {shape}")
    if math.prod(dims) != values.size:
        raise Damaged(
            f"{name} has the shape {shape}, which is {math.prod(dims)} values. "
            f"Received: {values.size} values"
        )
    try:
        return values.reshape(dims)
    except ValueError:  # no values, but dims beyond any array
        raise Damaged(f"{name} has the shape {shape}") from None


def blob_parts(array: NDArray[Any], gradient: NDArray[Any] | None) -> list[bytes | memoryview]:
    """Return a BlobProto in consecutive pieces: headers and views of the values."""
    parts: list[bytes | memoryview] = []
    for number, values in ((_DATA, array), (_DIFF, gradient)):
        if values is not None and values.size:
            flat = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
            parts += [header(number, flat.size), flat.data]
    dims = b"".join(varint(length) for length in array.shape)
    shape = header(1, len(dims)) + dims if dims else b""
    parts.append(header(_SHAPE, len(shape)) + shape if dims else b"")
    return parts
