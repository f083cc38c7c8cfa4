"""Interp: resizes planes, keeping the corner values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Interp", param="interp_param", origin="DeepLab")
class Interp(Layer):
    """Resize a plane by bilinear interpolation; its corner values remain the corner values.

    ``pad_beg`` rows and columns are cut off at the beginning and ``pad_end`` at the end, which
    leaves E. The top then has ``(E - 1) // shrink_factor + 1`` or ``(E - 1) zoom_factor + 1``
    pixels if one of the factors is given; else height and width if they are; else shrunk, then
    zoomed.

    Bottom: (N, C, H, W). Top: (N, C, height, width).

    Raises:
        NetError: the bottom does not have 4 axes, a pad is positive or leaves nothing, a factor or
            size is below 1, or no size is given.

    Source: InterpLayer of DeepLab's fork (Chen et al. 2018), with PSPNet's too.

    Sample::

        layer {
          name: "interp"
          type: "Interp"
          bottom: "score"  # (2, 4, 5, 5)
          top: "score_large"  # (2, 4, 33, 33)
          interp_param { zoom_factor: 8 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        for name in ("pad_beg", "pad_end"):
            if getattr(param, name) > 0:
                self.fail(
                    "Only supports non-pos padding (cropping) for now",
                    **{name: getattr(param, name)},
                )
        if param.shrink_factor < 1:
            self.fail("Shrink factor must be positive", shrink_factor=param.shrink_factor)
        if param.zoom_factor < 1:
            self.fail("Zoom factor must be positive", zoom_factor=param.zoom_factor)
        self.shrinks, self.zooms = param.HasField("shrink_factor"), param.HasField("zoom_factor")
        self.has_size = param.HasField("height") and param.HasField("width")
        if not (self.shrinks or self.zooms or self.has_size):
            self.fail("give height and width, or shrink_factor, or zoom_factor")

    def _size(self, shape: Shape) -> tuple[int, int]:
        """Return the top's height and width."""
        param = self.param
        if self.has_size and self.shrinks == self.zooms:
            return param.height, param.width
        height, width = (
            ((size + param.pad_beg + param.pad_end - 1) // param.shrink_factor) * param.zoom_factor
            + 1
            for size in shape[2:]
        )
        return height, width

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), param = bottom_shapes, self.param
        self.check_plane(shape)
        left = min(shape[2:]) + param.pad_beg + param.pad_end
        height, width = self._size(shape)
        if left < 1 or height < 1 or width < 1:
            self.fail(
                "height should be positive, and width should be positive, of what remains of the "
                "bottom and of the top",
                bottom=shape,
                pad_beg=param.pad_beg,
                pad_end=param.pad_end,
                height=height,
                width=width,
            )
        return [(*shape[:2], height, width)]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        size = self._size(tuple(x.shape))
        first, last = self.param.pad_beg, self.param.pad_end
        if first or last:
            x = F.pad(x, (first, last, first, last))
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        (x,) = bottoms
        first, last = self.param.pad_beg, self.param.pad_end
        if first or last:
            x = graph.temporary("cut")
            pads = graph.constant([0, 0, first, first, 0, 0, last, last], "pads")
            graph.node("Pad", [bottoms[0], pads], [x])
        shape, size = graph.temporary("shape"), graph.temporary("size")
        graph.node("Shape", [x], [shape], end=2)
        target = graph.constant(list(self._size(graph.shape(bottoms[0]))), "target")
        graph.node("Concat", [shape, target], [size], axis=0)
        graph.node(
            "Resize",
            [x, "", "", size],
            tops,
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )
