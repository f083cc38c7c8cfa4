"""MemoryData: arrays that a program sets."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...data.source import digest
from ..base import Shape, register
from ..shared.sample_layer import Indices, SampleLayer, State


@register("MemoryData", param="memory_data_param", bottoms=0, tops=2)
class MemoryData(SampleLayer):
    """Batch the images and labels of the last call of ``set``, in order, starting over at the end.

    Tops: data (batch_size, channels, height, width), as they are: ``transform_param`` changes
    nothing; label (batch_size).

    Raises:
        NetError: one of the four sizes is missing, or the layer runs before ``set``.

    Source: Caffe's MemoryDataLayer, fed as by pycaffe's ``set_input_arrays``.

    Sample::

        layer {
          name: "data"
          type: "MemoryData"
          top: "data"  # (2, 3, 8, 8)
          top: "label"  # (2)
          memory_data_param { batch_size: 2 channels: 3 height: 8 width: 8 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        self.sample_shape: Shape = (param.channels, param.height, param.width)
        if min(param.batch_size, *self.sample_shape) < 1:
            self.fail(
                "batch_size, channels, height, and width must be specified and positive in "
                "memory_data_param",
                batch_size=param.batch_size,
                channels=param.channels,
                height=param.height,
                width=param.width,
            )
        self._samples: tuple[Tensor, Tensor] | None = None
        self.seed()

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        batch = self.param.batch_size
        return [(batch, *self.sample_shape), (batch,)]

    def set(self, images: ArrayLike, labels: ArrayLike) -> None:
        """Set the layer's samples; the next batch begins with the first.

        The arrays are not copied where they are float32 and contiguous; after changing them, set
        them again. A resumed run must set its samples before ``restore``.

        Args:
            images: float32 [N, channels, height, width]; N is a multiple of batch_size.
            labels: N numbers.

        Raises:
            NetError: the arrays do not fit the layer or each other.
        """
        data, targets = _array(images), _array(labels)
        count, batch = len(data) if data.ndim else 0, self.param.batch_size
        if data.shape[1:] != self.sample_shape or data.ndim != 4:
            self.fail(
                "images must be [N, channels, height, width] as memory_data_param says",
                images=data.shape,
                memory_data_param=self.sample_shape,
            )
        if targets.size != count:
            self.fail(
                "data and labels must have the same first dimension",
                images=data.shape,
                labels=targets.shape,
            )
        if not count or count % batch:
            self.fail("num must be a multiple of batch size", num=count, batch_size=batch)
        if self.proto.HasField("transform_param"):
            self.context.notify(f"layer '{self.name}': MemoryData does not transform array data")
        self._samples = torch.from_numpy(data), torch.from_numpy(targets.reshape(count))
        self.position = 0
        self.contents += 1

    def _given(self) -> tuple[Tensor, Tensor]:
        if self._samples is None:
            self.fail(
                "MemoryDataLayer needs to be initialized by calling Reset: set its samples from "
                "Python with set(images, labels)"
            )
        return self._samples

    @property
    def sample_count(self) -> int:
        return len(self._given()[0])

    @property
    def deterministic(self) -> bool:
        return True

    def next_indices(self) -> Indices:
        start, end = self.position, self.position + self.param.batch_size
        self.position = end % self.sample_count
        return slice(start, end)

    def fingerprint(self) -> dict[str, str]:
        return {} if self._samples is None else super().fingerprint()

    def digests(self) -> dict[str, str]:
        images, labels = self._given()
        return {"images": digest(images.numpy()), "labels": digest(labels.numpy())}

    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        rows = indices if isinstance(indices, slice) else torch.from_numpy(indices)
        return tuple(values[rows] for values in self._given())

    def go_on(self, state: State) -> None:
        super().go_on(state)
        if self._samples is not None and self.position >= self.sample_count:
            raise ValueError(
                f"layer '{self.name}' has {self.sample_count} samples, but the state is at sample "
                f"{self.position}"
            )


def _array(values: ArrayLike) -> np.ndarray:
    return np.require(values, np.float32, ["C", "W"])
