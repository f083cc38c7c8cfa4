"""Input: blobs whose values are set from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Layer, Shape, register


@register("Input", param="input_param", bottoms=0, tops=(1, None))
class Input(Layer):
    """Hold blobs of the given shapes, zero until they are set.

    Tops: one for each ``shape`` of input_param, or all of the one shape.

    Raises:
        NetError: neither one shape nor one for each top is given, or a shape is not positive.

    Source: Caffe's InputLayer.

    Sample::

        layer {
          name: "data"
          type: "Input"
          top: "data"  # (2, 3, 8, 8)
          input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        shapes = [tuple(s.dim) for s in self.param.shape]
        names = list(self.proto.top)
        if len(shapes) not in (1, len(names)):
            self.fail(
                f"Must specify 'shape' once, or once per top blob ({len(names)})",
                shapes=len(shapes),
            )
        if len(shapes) == 1:
            shapes *= len(names)
        for name, shape in zip(names, shapes, strict=True):
            self.check_shape(shape, f"top '{name}'")
        self.shapes: list[Shape] = shapes
        self.values: list[Tensor | None] = [None] * len(names)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return list(self.shapes)

    def set(self, index: int, value: Tensor) -> None:
        """Set the value, and with it the shape, of top ``index``."""
        self.values[index] = value
        self.shapes[index] = tuple(value.shape)

    def forward(self) -> tuple[Tensor, ...]:
        for index, (value, shape) in enumerate(zip(self.values, self.shapes, strict=True)):
            if value is None:
                self.values[index] = torch.zeros(shape, device=self.context.device)
        return tuple(v for v in self.values if v is not None)
