"""DummyData: blobs made by fillers, for trying out nets without data."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import NetError
from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register
from ..fillers import fill

_LEGACY = ("num", "channels", "height", "width")


@register("DummyData", param="dummy_data_param", bottoms=0, tops=(1, None))
class DummyData(Layer):
    """Fill blobs of the given shapes: with a constant once, with random values at each forward.

    Tops: one for each ``shape``, or all of the one shape. The shape may be four lists instead: num,
    channels, height, width. data_filler is given never (zeros), once, or once for each top.

    Raises:
        NetError: the numbers of shapes or fillers don't fit the tops, shapes are given in both
            forms, or a filler can't fill its shape.

    Source: Caffe's DummyDataLayer.

    Sample::

        layer {
          name: "noise"
          type: "DummyData"
          top: "noise"  # (2, 3, 8, 8)
          dummy_data_param {
            shape { dim: 2 dim: 3 dim: 8 dim: 8 } data_filler { type: "gaussian" std: 1 }
          }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        tops = len(self.proto.top)
        fillers = list(self.param.data_filler) or [pb.FillerParameter()]
        if len(fillers) not in (1, tops):
            self.fail(
                f"Number of data fillers must be 0, 1 or equal to the number of tops: {tops}; you "
                f"specified {len(fillers)} data fillers"
            )
        self.fillers = fillers * tops if len(fillers) == 1 else fillers
        self.shapes = self._legacy_shapes(tops) or self._shapes(tops)
        for name, shape in zip(self.proto.top, self.shapes, strict=True):
            self.check_shape(shape, f"top '{name}'")
        self.values = [self._filled(index) for index in range(tops)]

    def _shapes(self, tops: int) -> list[Shape]:
        shapes = [tuple(shape.dim) for shape in self.param.shape]
        return self._for_each_top(shapes, tops, "shape")

    def _legacy_shapes(self, tops: int) -> list[Shape]:
        """Return the shapes given as four lists, or none."""
        lists = {name: list(getattr(self.param, name)) for name in _LEGACY}
        if not any(lists.values()):
            return []
        if self.param.shape:
            self.fail("Both shape and legacy fields were specified")
        columns = [self._for_each_top(values, tops, name) for name, values in lists.items()]
        return list(zip(*columns, strict=True))

    def _for_each_top(self, values: list, tops: int, name: str) -> list:  # type: ignore[type-arg]
        if len(values) not in (1, tops):
            self.fail(
                f"Must specify '{name}' once, or once per top blob ({tops} top blobs); "
                f"specified {len(values)}"
            )
        return values * tops if len(values) == 1 else values

    def _filled(self, index: int) -> Tensor:
        value = torch.empty(self.shapes[index], device=self.context.device)
        try:
            fill(value, self.fillers[index])
        except NetError as error:
            self.fail(error.message)
        return value

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self.shapes

    def forward(self) -> tuple[Tensor, ...]:
        for index, (filler, value) in enumerate(zip(self.fillers, self.values, strict=True)):
            moved = value.device.type != self.context.device.type
            if moved or filler.type != "constant":
                self.values[index] = self._filled(index)
        return tuple(self.values)
