"""``caffe.Layer``: the base class of a user's own layer, and the blobs it gets.

It needs numpy alone, so that a module of layers, as ``caffe_kd.plugin``, is imported at once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..core.errors import NetError

Shape = tuple[int, ...]

_LEGACY_AXES = 4


class LegacyAxesError(NetError, RuntimeError):
    """A legacy accessor was used on a blob of more than four axes."""


class LegacyDims:
    """The dims by the names that blobs had when they always had four axes."""

    @property
    def shape(self) -> Shape:
        """The dims."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def num(self) -> int:
        """The first dim of at most four, 1 if there is none."""
        return self._legacy_dim(0)

    @property
    def channels(self) -> int:
        """The second dim of at most four, 1 if there is none."""
        return self._legacy_dim(1)

    @property
    def height(self) -> int:
        """The third dim of at most four, 1 if there is none."""
        return self._legacy_dim(2)

    @property
    def width(self) -> int:
        """The fourth dim of at most four, 1 if there is none."""
        return self._legacy_dim(3)

    def _legacy_dim(self, axis: int) -> int:
        if len(self.shape) > _LEGACY_AXES:
            raise LegacyAxesError(
                "Cannot use legacy accessors on Blobs with > 4 axes: use shape. "
                f"Received: shape={self.shape}"
            )
        return self.shape[axis] if axis < len(self.shape) else 1


class ArrayBlob(LegacyDims):
    """A blob as numpy arrays: ``data`` and ``diff``, both of ``shape`` and writable in place.

    ``reshape`` keeps as many values as fit, in memory order.
    """

    def __init__(self) -> None:
        self._shape: Shape = (0,)
        self._values = np.zeros(0, np.float32)
        self._diffs = np.zeros(0, np.float32)

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._values[: self.count].reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradient with respect to the values."""
        if self._diffs.size < self.count or self._diffs.dtype != self._values.dtype:
            self._diffs = np.zeros(self.count, self._values.dtype)
        return self._diffs[: self.count].reshape(self._shape)

    @property
    def shape(self) -> Shape:
        """The dims."""
        return self._shape

    def reshape(self, *dims: int) -> None:
        """Give the blob another shape.

        Raises:
            TypeError: a dim is not an integer.
            ValueError: a dim is below 0.
        """
        shape = tuple(operator.index(length) for length in dims)
        if any(length < 0 for length in shape):
            raise ValueError(f"no dim of a blob may be below 0. Received: shape={shape}")
        self._shape = shape
        if self._values.size < self.count:
            self._values = np.zeros(self.count, self._values.dtype)

    # ---- for the layer that wraps the user's

    def bind(self, values: np.ndarray) -> None:
        """Use an array as the values: writing to ``data`` writes to it."""
        self._shape = values.shape
        self._values = values.reshape(-1)

    def fill(self, values: np.ndarray) -> None:
        """Copy values into the blob, which takes their shape."""
        self.convert(values.dtype)
        self.reshape(*values.shape)
        self.data[...] = values

    def convert(self, dtype: Any) -> None:
        """Change the type of the values."""
        if self._values.dtype != dtype:
            self._values = self._values.astype(dtype)


class BlobVector(list):  # type: ignore[type-arg]  # users see a list with one method more
    """The parameter blobs of a user's layer."""

    def __init__(self, add: Callable[[Sequence[int]], ArrayBlob]) -> None:
        super().__init__()
        self._add = add

    def add_blob(self, *shape: int) -> None:
        """Append a parameter blob of zeros."""
        self.append(self._add(shape))


class Layer:
    """The base of a user's own layer, for ``type: "Python"``, as ``caffe.Layer`` of pycaffe.

    A class defines four methods; ``bottom`` and ``top`` are lists of ``ArrayBlob``:

    * ``setup(self, bottom, top)``, once: read ``self.param_str``, add parameters with
      ``self.blobs.add_blob(*shape)`` and fill their ``data``;
    * ``reshape(self, bottom, top)``, before each forward: ``top[0].reshape(*dims)``;
    * ``forward(self, bottom, top)``: write ``top[i].data`` from ``bottom[i].data``;
    * ``backward(self, top, propagate_down, bottom)``: write ``bottom[i].diff`` where
      ``propagate_down[i]``, and ``self.blobs[i].diff``, from ``top[i].diff``.

    Attributes:
        param_str: python_param's string; ``param_str_`` is its name in old versions.
        phase: 0 in TRAIN, 1 in TEST.
        blobs: the parameter blobs.
        type: "Python".
    """

    type = "Python"
    param_str = ""
    param_str_ = ""
    phase = 0
    blobs: BlobVector

    def __init__(self, layer_param: Any) -> None:
        """Store the LayerParameter; initialisation belongs in ``setup``."""

    def setup(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Prepare the layer."""
        self._lacks("setup(self, bottom, top)")

    def reshape(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Give the tops their shapes."""
        self._lacks("reshape(self, bottom, top)")

    def forward(self, bottom: list[ArrayBlob], top: list[ArrayBlob]) -> None:
        """Compute the tops from the bottoms."""
        self._lacks("forward(self, bottom, top)")

    def backward(
        self, top: list[ArrayBlob], propagate_down: list[bool], bottom: list[ArrayBlob]
    ) -> None:
        """Compute the bottoms' and the parameters' gradients from the tops'."""
        self._lacks("backward(self, top, propagate_down, bottom)")

    def _lacks(self, method: str) -> NoReturn:
        raise NotImplementedError(f"class {self.__class__.__name__} has no method {method}")
