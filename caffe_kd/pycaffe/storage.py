"""Values that are a torch tensor and a numpy array at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UsageError

Shape = tuple[int, ...]


class Storage:
    """The values, or the gradients, of one blob or of several that share them.

    A layer's result is taken over as it is. Only when an array is requested is
    memory pinned: from then on later results are copied into it, and what is written to it takes
    effect. Where the result is contiguous in CPU memory, the array is that memory.

    Args:
        count: how many values there are.
        device: that of the tensor.
        fill: their value before anything is computed.
    """

    def __init__(self, count: int, device: torch.device, fill: float = 0.0) -> None:
        self.count = count
        self._device = device
        self.fill = fill
        self._tensor: Tensor | None = None
        self._make: Callable[[], Tensor] | None = None  # makes the tensor when it is needed
        self._array: np.ndarray | None = None
        self._is_copy = False  # whether the array is a copy of the tensor, not its memory
        self._aliased = False  # whether others use the tensor too, so that it is read-only
        self._contiguous: Tensor | None = None  # the tensor behind the last address on the GPU

    @classmethod
    def of(cls, tensor: Tensor) -> Storage:
        """Return a storage of a tensor that is updated in place, such as a parameter."""
        storage = cls(tensor.numel(), tensor.device)
        storage._tensor = tensor.data
        return storage

    @property
    def is_pinned(self) -> bool:
        """Whether an array has been returned, through which the values may have changed."""
        return self._array is not None

    @property
    def is_shared_memory(self) -> bool:
        """Whether the array handed out is the tensor's own memory."""
        return self._array is not None and not self._is_copy

    def holds(self, tensor: Tensor) -> bool:
        """Whether the values are those of a tensor, in its memory."""
        mine = self._tensor
        return mine is not None and mine.data_ptr() == tensor.data_ptr() and not self._aliased

    def tensor(self, shape: Shape) -> Tensor:
        """Return the values as torch sees them, with all that was written to the array.

        The result shares their memory, but no version counter: what is written later goes unseen
        by autograd's checks, as a script expects that changes blobs between forward and backward.
        """
        if self._tensor is None:
            make, self._make = self._make, None
            first = torch.full((self.count,), self.fill, device=self._device)
            self._tensor = first if make is None else make().data
        self.pull()
        return self._tensor.data.reshape(shape)

    def array(self, shape: Shape) -> np.ndarray:
        """Return the values as an array in C order that may be written to, and pin it."""
        if self._array is None:
            self.tensor((self.count,))
            tensor = self._tensor
            assert tensor is not None
            if self._aliased:
                tensor = self._tensor = tensor.clone(memory_format=torch.contiguous_format)
                self._aliased = False
            self._is_copy = not (tensor.device.type == "cpu" and tensor.is_contiguous())
            contiguous = tensor.to("cpu").contiguous() if self._is_copy else tensor
            self._array = contiguous.numpy().reshape(-1)
        return self._array.reshape(shape)

    def gpu_address(self, shape: Shape) -> int:
        """Return where the values lie on the GPU in C order, until they next change.

        Values that lie in another order there, or that several blobs share, are copied for it: what
        is written to the address need not count.

        Raises:
            UsageError: they are computed by the CPU.
        """
        if self._device.type != "cuda":
            raise UsageError(
                "the net is computed by the CPU, so its blobs have no memory on a GPU. "
                "set_mode_gpu() before it is built changes that"
            )
        self._contiguous = self.tensor(shape).contiguous()  # held, so that the address stays valid
        return self._contiguous.data_ptr()

    def set(self, tensor: Tensor, aliased: bool = False) -> None:
        """Take over a result; ``aliased`` says that its memory is used elsewhere too."""
        if tensor.numel() != self.count:
            self.count, self._array = tensor.numel(), None
        self._tensor, self._aliased, self._make = tensor.data, aliased, None
        if self._array is not None:
            self._is_copy, self._aliased = True, False
            if aliased:
                self._tensor = self._tensor.clone()
            self.push()

    def set_later(self, make: Callable[[], Tensor]) -> None:
        """Take over what ``make`` returns, at once if an array shows it, else when it is wanted."""
        if self._array is not None:
            self.set(make())
        else:
            self._tensor, self._make = None, make

    def add(self, tensor: Tensor) -> None:
        """Add a gradient to the values."""
        if self._tensor is None and self._make is None and not self.fill:
            self.set(tensor.clone())
            return
        self.tensor(tuple(tensor.shape)).add_(tensor)
        self.push()

    def set_all(self, value: float) -> None:
        """Set all values to one."""
        if self._array is not None:
            self._array[...] = value
            self.pull()
        else:
            self._tensor, self._make, self.fill, self._aliased = None, None, value, False

    def resize(self, shape: Shape) -> None:
        """Make room for another number of values; where it changes, they are the first ones."""
        count = math.prod(shape)
        if count != self.count:
            self.count, self._aliased = count, False
            self._tensor = self._make = self._array = None

    def release(self) -> None:
        """Let go of a result that is others' memory, since the next one is about to come."""
        if self._aliased:
            self._tensor, self._aliased = None, False

    def pull(self) -> None:
        """Let torch see what was written to the array."""
        if self._is_copy and self._array is not None and self._tensor is not None:
            self._tensor.copy_(torch.from_numpy(self._array).reshape(self._tensor.shape))

    def push(self) -> None:
        """Let the array show what torch has computed in place."""
        if self._is_copy and self._array is not None and self._tensor is not None:
            shown = torch.from_numpy(self._array).reshape(self._tensor.shape)
            shown.copy_(self._tensor)
