"""Given inputs of a model: .npy, .npz, or a tensor as ONNX's test data has it (.pb)."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ..core.errors import DataError
from ..core.files import reading
from .model import Model


def read_input(path: str | Path, model: Model) -> dict[str, np.ndarray]:
    """Return the values for a model's inputs that a file holds.

    An .npz has an array for each input, by name; other files have that of the only input.

    Raises:
        DataError: the file is damaged, or its arrays do not fit the model.
        ParseError: it is missing.
    """
    names = [given.name for given in model.inputs]
    with reading(path):
        arrays = _arrays(Path(path), names)
    lacking = [name for name in names if name not in arrays]
    if lacking:
        raise DataError(
            f"has no array for the model's input '{lacking[0]}'. It has: "
            + (", ".join(arrays) or "none"),
            str(path),
        )
    for given in model.inputs:
        array = arrays[given.name]
        fits = array.ndim == len(given.shape) and all(
            a == b or (i == 0 and given.varies)
            for i, (a, b) in enumerate(zip(array.shape, given.shape, strict=True))
        )
        if not fits:
            raise DataError(
                f"its array is {array.shape}, and the model's input '{given.name}' {given.shape}",
                str(path),
            )
    return {g.name: np.ascontiguousarray(arrays[g.name], g.dtype) for g in model.inputs}


def _arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".pb":
            from google.protobuf.message import DecodeError
            from onnx import TensorProto, numpy_helper

            try:
                tensor = TensorProto.FromString(path.read_bytes())
                return {names[0]: numpy_helper.to_array(tensor)}
            except DecodeError as error:
                raise DataError(f"is not an ONNX tensor: {error}", str(path)) from None
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {names[0]: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, IndexError) as error:
        raise DataError(f"is not an array that numpy can read: {error}", str(path)) from None
