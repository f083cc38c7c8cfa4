"""Blob: data and diff of one shape, as arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..core.errors import NetError
from ..layers.base import MAX_COUNT
from ..python_layers.user_layer import LegacyDims
from .storage import Shape, Storage


class Blob(LegacyDims):
    """Values and their gradients, writable as float32 arrays in C order.

    What is written to ``data`` or ``diff`` takes effect in the next pass that reads it. The arrays
    stay valid after the net is deleted, and show the results of later passes until the blob is
    reshaped.

    Source: pycaffe's Blob.
    """

    def __init__(self, shape: Shape, data: Storage, diff: Storage) -> None:
        self._shape = shape
        self._data = data
        self._diff = diff

    @classmethod
    def empty(cls, shape: Shape, device: torch.device | None = None) -> Blob:
        """Return a blob of zeros."""
        count, device = math.prod(shape), device or torch.device("cpu")
        return cls(shape, Storage(count, device), Storage(count, device))

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data.array(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradients."""
        return self._diff.array(self._shape)

    @property
    def shape(self) -> Shape:
        """The shape, one size per axis."""
        return self._shape

    @property
    def _gpu_data_ptr(self) -> int:
        """The read-only address of the values on the GPU, in C order.

        Raises:
            UsageError: the net runs on the CPU.
        """
        return self._data.gpu_address(self._shape)

    @property
    def _gpu_diff_ptr(self) -> int:
        """The address of the gradients on the GPU; see ``_gpu_data_ptr``."""
        return self._diff.gpu_address(self._shape)

    def reshape(self, *dims: int) -> None:
        """Change the shape; the values are kept if their number does not change.

        Later layers are reshaped by ``Net.reshape`` or the next forward pass.

        Raises:
            NetError: a dim is negative, there are more than 2^31 - 1 values, or the blob is a
                parameter and their number would change.
        """
        shape = tuple(int(d) for d in dims)
        if any(d < 0 for d in shape) or math.prod(shape) > MAX_COUNT:
            raise NetError(
                f"a blob's dims must be 0 or more, and blob size must not exceed INT_MAX "
                f"({MAX_COUNT} values). Received: {dims}"
            )
        self.take_shape(shape)

    def take_shape(self, shape: Shape) -> None:
        """Change the shape to one that has been checked."""
        if shape != self._shape:
            self._data.resize(shape)
            self._diff.resize(shape)
            self._shape = shape

    def __repr__(self) -> str:
        return f"<Blob of shape {self._shape}>"


class BlobVec(list[Blob]):
    """The parameter blobs of a layer."""

    def add_blob(self, *dims: int) -> None:
        """Append a blob of zeros."""
        self.append(Blob.empty(tuple(int(d) for d in dims)))


class ParameterBlob(Blob):
    """A layer's parameter; its data is the layer's own memory."""

    def take_shape(self, shape: Shape) -> None:
        """Change the shape, but not the number of values."""
        if math.prod(shape) != self.count:
            raise NetError(
                "the number of values of a parameter blob cannot change: the layer was set up with "
                f"shape {self._shape}. Received: {shape}"
            )
        self._shape = shape


def parameter_storage(parameter: Any) -> Storage:
    """Return the storage of a parameter, the same one for all nets that share it."""
    storage: Storage | None = getattr(parameter, "pycaffe_storage", None)
    if storage is None:
        storage = parameter.pycaffe_storage = Storage.of(parameter)
    return storage
