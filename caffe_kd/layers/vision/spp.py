"""SPP: pools a plane of any size to a fixed number of values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register
from .pooling import NO_STOCHASTIC, Pair, Pooling

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("SPP", param="spp_param")
class SPP(Layer):
    """Pool the plane into 1 x 1, 2 x 2, 4 x 4, ... windows, and join what comes out.

    Level l of the pyramid_height levels cuts each axis into ``b = 2^l`` windows: kernel and stride
    are ``ceil(H / b)``, pad is ``(kernel b - H + 1) / 2`` cut, and the rest is Pooling's: MAX or
    AVE.

    Bottom: (N, C, H, W). Top: (N, values of level 0, then of level 1, ...), each level's in the
    order of its (C, windows down, windows across); with pyramid_height 1 it is (N, C, 1, 1).

    Raises:
        NetError: the bottom does not have 4 axes, pyramid_height is missing, a level has a pad that
            isn't smaller than its kernel, as for many levels on a small plane, or pool is
            STOCHASTIC.

    Source: He et al. 2014; Caffe's SPPLayer. STOCHASTIC is refused as in Pooling.

    Sample::

        layer {
          name: "spp"
          type: "SPP"
          bottom: "conv5"  # (2, 4, 8, 8)
          top: "spp"  # (2, 84)
          spp_param { pyramid_height: 3 pool: MAX }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.param.pyramid_height < 1:
            self.fail("pyramid_height must be at least 1", pyramid_height=self.param.pyramid_height)
        if self.param.pool == pb.SPPParameter.STOCHASTIC:
            self.fail(NO_STOCHASTIC)
        self._plane: Pair | None = None
        self._levels: list[Pooling] = []

    def _pyramid(self, shape: Shape) -> list[Pooling]:
        """Return the Pooling layer of each level for a bottom of this shape."""
        plane = int(shape[2]), int(shape[3])
        if plane != self._plane:
            levels = range(self.param.pyramid_height)
            self._levels = [self._pooling(level, plane) for level in levels]
            self._plane = plane
        return self._levels

    def _pooling(self, level: int, plane: Pair) -> Pooling:
        bins = 2**level
        kernel_h, kernel_w = kernel = [-(-size // bins) for size in plane]
        pad = [(k * bins - e + 1) // 2 for k, e in zip(kernel, plane, strict=True)]
        if any(p >= k for p, k in zip(pad, kernel, strict=True)):
            self.fail(
                f"level {level} of the pyramid is too fine for the plane: its pad must be smaller "
                "than its kernel. Use a smaller pyramid_height",
                pyramid_height=self.param.pyramid_height,
                plane=plane,
                kernel=tuple(kernel),
                pad=tuple(pad),
            )
        proto = pb.LayerParameter()
        proto.CopyFrom(self.proto)  # its name, line and one top
        proto.pooling_param.CopyFrom(
            pb.PoolingParameter(
                pool=self.param.pool,
                kernel_h=kernel_h,
                kernel_w=kernel_w,
                stride_h=kernel_h,
                stride_w=kernel_w,
                pad_h=pad[0],
                pad_w=pad[1],
            )
        )
        pooling = Pooling(proto, self.phase, self.context)
        pooling.setup([(1, 1, *plane)])
        return pooling

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        self.check_plane(shape)
        pooled = [pooling.top_shapes([shape])[0] for pooling in self._pyramid(shape)]
        if len(pooled) == 1:
            return pooled
        return [(shape[0], sum(c * height * width for _, c, height, width in pooled))]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor:
        pooled: list[Tensor] = [pooling(x) for pooling in self._pyramid(x.shape)]
        return pooled[0] if len(pooled) == 1 else torch.cat([y.flatten(1) for y in pooled], 1)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        pyramid = self._pyramid(graph.shape(bottoms[0]))
        if len(pyramid) == 1:
            pyramid[0].onnx(graph, bottoms, tops)
            return
        flats = []
        for level, pooling in enumerate(pyramid):
            pooled, flat = graph.temporary(f"level{level}"), graph.temporary(f"flat{level}")
            pooling.onnx(graph, bottoms, [pooled])
            graph.node("Flatten", [pooled], [flat], axis=1)
            flats.append(flat)
        graph.node("Concat", flats, tops, axis=1)
