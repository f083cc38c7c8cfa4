"""The parameter blobs of a user's own layer, as numpy arrays."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from ...python_layers.user_layer import ArrayBlob


class ParameterBlob(ArrayBlob):
    """A parameter blob of a user's layer; its shape is the one that ``add_blob`` gave it."""

    def reshape(self, *dims: int) -> NoReturn:
        """Refuse: a parameter cannot change its shape."""
        raise RuntimeError(
            f"a parameter blob keeps the shape from add_blob: {self.shape}. Received: shape={dims}"
        )

    def show(self, tensor: Tensor) -> None:
        """Show a parameter's values: the tensor itself if contiguous on the CPU, else a copy."""
        self.bind(as_array(tensor))

    def write_back(self, tensor: Tensor) -> None:
        """Copy the values to the parameter, unless the array shows the parameter itself."""
        if not (tensor.is_cpu and tensor.is_contiguous()):
            tensor.data.copy_(torch.from_numpy(self.data))


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values: the tensor itself if contiguous on the CPU, else a copy."""
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array
