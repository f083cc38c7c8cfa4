"""Upsample: values put back where a pooling took them from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NoReturn

from torch import Tensor

from ..base import Shape, register
from ..shared.indices import IndexingLayer

if TYPE_CHECKING:
    from ...export.graph import Graph

_INT64 = 7  # as ONNX numbers it


@register("Upsample", param="upsample_param", bottoms=2, origin="SegNet")
class Upsample(IndexingLayer):
    """Put each value at the position of a larger plane that a mask names; the rest is 0.

    The larger plane is upsample_h x upsample_w; else ``H scale - pad_out_h`` by
    ``W scale - pad_out_w``, the scale of each side being scale, or scale_h and scale_w. Where
    several values name a position, one of them is there (on the CPU the last), and each gets that
    position's gradient.

    Bottoms: (N, C, H, W); mask of the same shape, the second top of a Pooling layer: ``h W + w`` in
    the larger plane. Top: (N, C, height, width).

    Raises:
        NetError: a bottom does not have 4 axes or their shapes differ, a size is not above 1 or
            given in part or twice, pad_out comes with a scale other than 2, or the mask names a
            position outside the plane.

    Source: Badrinarayanan et al. 2017; UpsampleLayer of Kendall's fork for SegNet. The type of the
    same name with one bottom, in forks for YOLOv3, is another.

    Sample::

        layer {
          name: "upsample1"
          type: "Upsample"
          bottom: "conv1"  # (2, 4, 4, 4)
          bottom: "pool1_mask"  # (2, 4, 4, 4)
          top: "upsample1"  # (2, 4, 8, 8)
          upsample_param { scale: 2 }
        }
    """

    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        self.size: tuple[int, int] | None = None
        if param.HasField("upsample_h") != param.HasField("upsample_w"):
            self.fail("upsample_h & upsample_w are required together")
        if param.HasField("upsample_h"):
            self.size = param.upsample_h, param.upsample_w
            if min(self.size) < 2:
                self.fail("upsample_h and upsample_w must be greater than 1", size=self.size)
            return
        given = [param.HasField(name) for name in ("scale_h", "scale_w")]
        if any(given) and (param.HasField("scale") or not all(given)):
            self.fail(
                "upsample_h & upsample_w are required, else scale OR scale_h & scale_w are required"
            )
        self.scale = (param.scale_h, param.scale_w) if all(given) else (param.scale, param.scale)
        if min(self.scale) < 2:
            self.fail("scale must be greater than 1", scale=self.scale)
        self.less = int(param.pad_out_h), int(param.pad_out_w)
        if any(less and scale != 2 for less, scale in zip(self.less, self.scale, strict=True)):
            self.fail(
                "Output padding compensation requires scale == 2, otherwise the output size is "
                "ill-defined",
                scale=self.scale,
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape, mask = bottom_shapes
        if len(shape) != 4 or mask != shape:
            self.fail(
                "Input and mask must have 4 axes, corresponding to (num, channels, height, width), "
                "and the same shape",
                bottom=shape,
                mask=mask,
            )
        if self.size is not None:
            return [(*shape[:2], *self.size)]
        sides = zip(shape[2:], self.scale, self.less, strict=True)
        return [(*shape[:2], *(size * scale - less for size, scale, less in sides))]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        (top,) = self.top_shapes([tuple(x.shape), tuple(mask.shape)])
        positions = top[2] * top[3]
        index = self.read_indices(mask.detach().flatten(2), positions)
        return x.new_zeros(*top[:2], positions).scatter(2, index, x.flatten(2)).reshape(top)

    def refuse_index(self, index: int, count: int) -> NoReturn:
        self.fail(
            f"upsample top index {index} out of range - check scale settings match input pooling "
            "layer's downsample setup",
            positions=count,
        )

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        (top,) = self.top_shapes([graph.shape(name) for name in bottoms])
        flat = graph.constant([0, top[1], -1], "flat")
        values, mask, index, batch, shape, zeros, filled = (
            graph.temporary(n)
            for n in ("values", "mask", "index", "batch", "shape", "zeros", "filled")
        )
        graph.node("Reshape", [bottoms[0], flat], [values])
        graph.node("Reshape", [bottoms[1], flat], [mask])
        graph.node("Cast", [mask], [index], to=_INT64)
        graph.node("Shape", [bottoms[0]], [batch], end=1)
        plane = graph.constant([top[1], math.prod(top[2:])], "plane")
        graph.node("Concat", [batch, plane], [shape], axis=0)
        graph.node("ConstantOfShape", [shape], [zeros])
        graph.node("ScatterElements", [zeros, index, values], [filled], axis=2)
        graph.node("Reshape", [filled, graph.constant([0, *top[1:]], "top")], tops)
