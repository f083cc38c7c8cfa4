"""Pooling: the largest or the mean value of each window."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import ExportError
from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph

Pair = tuple[int, int]

_FLOAT = 1  # as ONNX numbers it

NO_STOCHASTIC = (
    "pool: STOCHASTIC is not implemented; in Caffe, too, it is NOT_IMPLEMENTED on the CPU. "
    "Use MAX or AVE"
)


@dataclass(frozen=True)
class PoolGeometry:
    """The windows of a pooling for one size of plane, height before width.

    Attributes:
        plane: height and width of the plane.
        kernel: height and width of the window.
        stride: steps from window to window.
        pad: positions before and after the plane that windows may cover.
        out_size: how many windows fit, by Caffe's rule.
        ceil: whether they were counted by rounding up.
        clipped: whether Caffe's rule left out a last window, which ONNX's would count.
    """

    plane: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    out_size: Pair
    ceil: bool
    clipped: bool

    @property
    def is_plain(self) -> bool:
        """Whether torch's pooling has the same windows; it has none with more than half pad."""
        return all(
            2 * p <= k and (o - 1) * s < e + p
            for e, k, s, p, o in zip(
                self.plane, self.kernel, self.stride, self.pad, self.out_size, strict=True
            )
        )

    @property
    def covered(self) -> Pair:
        """Height and width of the area that all windows cover, from the padding on."""
        height, width = (
            (o - 1) * s + k for k, s, o in zip(self.kernel, self.stride, self.out_size, strict=True)
        )
        return height, width

    @property
    def border(self) -> tuple[int, int, int, int]:
        """The padding to add: left, right, top, bottom; negative: to crop."""
        (height, width), (down, right), (tall, wide) = self.plane, self.pad, self.covered
        return right, wide - width - right, down, tall - height - down

    def sizes(self, axis: int, device: torch.device | None = None) -> Tensor:
        """Return each window's length along an axis: padding counts, overhang does not."""
        pad, kernel = self.pad[axis], self.kernel[axis]
        start = torch.arange(self.out_size[axis], device=device) * self.stride[axis] - pad
        return (start + kernel).clamp(max=self.plane[axis] + pad) - start


@lru_cache(maxsize=1024)
def _geometry(plane: Pair, kernel: Pair, stride: Pair, pad: Pair, ceil: bool) -> PoolGeometry:
    out_size = []
    clipped = False
    for e, k, s, p in zip(plane, kernel, stride, pad, strict=True):
        room = e + 2 * p - k
        o = (-(-room // s) if ceil else room // s) + 1
        # The last window must start within the plane or the padding before it.
        if any(pad) and (o - 1) * s >= e + p:
            o -= 1
            clipped = True
        out_size.append(o)
    return PoolGeometry(plane, kernel, stride, pad, (out_size[0], out_size[1]), ceil, clipped)


@register("Pooling", param="pooling_param", tops=(1, 2))
class Pooling(Layer):
    """Take the largest (MAX) or the mean (AVE) value of each window of a plane.

    ``out = ceil((H + 2 pad - kernel) / stride) + 1``, one fewer with a pad if the last window
    would start after plane and padding. The mean counts padding, but not the part of a window
    beyond it. Of equal largest values the first gets the gradient.

    Bottom: (N, C, H, W). Top: (N, C, out, out).
    Second top, for MAX: where in the plane the largest value is, ``h W + w``; -1 for none.

    Raises:
        NetError: the bottom does not have 4 axes, the kernel is missing or given twice, pad isn't
            smaller than the kernel, no window fits, or pool is STOCHASTIC.

    Source: Caffe's PoolingLayer. STOCHASTIC is refused; Caffe has it for GPUs alone.

    Sample::

        layer {
          name: "pool1"
          type: "Pooling"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "pool1"  # (2, 4, 4, 4)
          pooling_param { pool: MAX kernel_size: 2 stride: 2 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.pool == pb.PoolingParameter.STOCHASTIC:
            self.fail(NO_STOCHASTIC)
        self.is_max = param.pool == pb.PoolingParameter.MAX
        self.with_mask = len(self.proto.top) == 2
        if self.with_mask and not self.is_max:
            self.fail("takes 1 top blob(s); only pool: MAX has a mask as its second", tops=2)
        self.pad = self._pair("pad", "pad", "Pad is pad OR pad_h and pad_w are required")
        self.stride = self._pair(
            "stride", "stride", "Stride is stride OR stride_h and stride_w are required"
        )
        if 0 in self.stride:
            self.fail("Stride cannot be zero", stride=self.stride)
        self.kernel = self._kernel()
        self.ceil = param.round_mode == pb.PoolingParameter.CEIL

    def _pair(self, one: str, stem: str, rule: str) -> Pair:
        """Read height and width: both from ``one``, or each from its own field."""
        param = self.param
        names = [f"{stem}_h", f"{stem}_w"]
        given = [param.HasField(name) for name in names]
        if any(given):
            if param.HasField(one) or not all(given):
                received = [n for n in (one, *names) if param.HasField(n)]
                self.fail(rule, **{name: getattr(param, name) for name in received})
            return getattr(param, names[0]), getattr(param, names[1])
        return getattr(param, one), getattr(param, one)

    def _kernel(self) -> Pair | None:
        """Return the kernel, or None for the whole plane."""
        param = self.param
        given = any(param.HasField(n) for n in ("kernel_size", "kernel_h", "kernel_w"))
        if param.global_pooling:
            if given:
                self.fail("With Global_pooling: true Filter size cannot specified")
            if self.pad != (0, 0) or self.stride != (1, 1):
                self.fail(
                    "With Global_pooling: true; only pad = 0 and stride = 1",
                    pad=self.pad,
                    stride=self.stride,
                )
            return None
        rule = "Filter size is kernel_size OR kernel_h and kernel_w; not both"
        if not given:
            self.fail(f"{rule}. Received: none of them")
        kernel = self._pair("kernel_size", "kernel", rule)
        if 0 in kernel:
            self.fail("Filter dimensions cannot be zero", kernel=kernel)
        if any(p >= k for p, k in zip(self.pad, kernel, strict=True)):
            self.fail("pad must be smaller than the kernel", pad=self.pad, kernel=kernel)
        return kernel

    def geometry(self, shape: Shape) -> PoolGeometry:
        """Return the windows for a bottom of a shape."""
        plane = int(shape[2]), int(shape[3])  # while torch.onnx traces, they are tensors
        return _geometry(plane, self.kernel or plane, self.stride, self.pad, self.ceil)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        self.check_plane(shape)
        pool = self.geometry(shape)
        if min(pool.out_size) < 1:
            self.fail("no window fits: the kernel is too large", bottom=shape, kernel=pool.kernel)
        self.check_shape((*shape[:2], *pool.covered), "the padded bottom")
        return [(*shape[:2], *pool.out_size)] * len(self.proto.top)

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pool = self.geometry(x.shape)
        if self.with_mask:
            return self._max_with_mask(x, pool)
        if self.is_max:
            return self._max(x, pool)
        if self.kernel is None:
            return x.mean((2, 3), keepdim=True)
        return self._ave(x, pool)

    @staticmethod
    def _max(x: Tensor, pool: PoolGeometry) -> Tensor:
        if pool.is_plain:
            return F.max_pool2d(x, pool.kernel, pool.stride, pool.pad, ceil_mode=pool.ceil)
        lowest = torch.finfo(x.dtype).min
        return F.max_pool2d(F.pad(x, pool.border, value=lowest), pool.kernel, pool.stride)

    @staticmethod
    def _ave(x: Tensor, pool: PoolGeometry) -> Tensor:
        if pool.is_plain:
            return F.avg_pool2d(x, pool.kernel, pool.stride, pool.pad, ceil_mode=pool.ceil)
        mean = F.avg_pool2d(F.pad(x, pool.border), pool.kernel, pool.stride)
        counted = pool.sizes(0, x.device)[:, None] * pool.sizes(1, x.device)
        return mean * (pool.kernel[0] * pool.kernel[1] / counted.to(x.dtype))

    @staticmethod
    def _max_with_mask(x: Tensor, pool: PoolGeometry) -> tuple[Tensor, Tensor]:
        if pool.is_plain:
            y, index = F.max_pool2d(
                x,
                pool.kernel,
                pool.stride,
                pool.pad,
                ceil_mode=pool.ceil,
                return_indices=True,
            )
            return y, index.to(x.dtype)
        lowest = torch.finfo(x.dtype).min
        padded = F.pad(x, pool.border, value=lowest)
        y, index = F.max_pool2d(padded, pool.kernel, pool.stride, return_indices=True)
        height, width = pool.plane
        row = index // padded.shape[3] - pool.pad[0]
        column = index % padded.shape[3] - pool.pad[1]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return y, torch.where(inside, row * width + column, -1).to(x.dtype)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if self.kernel is None and not self.with_mask:
            graph.node("GlobalMaxPool" if self.is_max else "GlobalAveragePool", bottoms, tops)
            return
        pool = self.geometry(graph.shape(bottoms[0]))
        counted = pool.sizes(0)[:, None] * pool.sizes(1)
        if (self.with_mask or not self.is_max) and counted.min() < 1:
            raise ExportError(
                f"layer '{self.name}' (Pooling): a window lies outside the plane, where a mean "
                "or an index is undefined. Use a smaller stride or round_mode: FLOOR",
                self.proto.source_line or None,
            )
        if self.with_mask:
            self._onnx_mask(graph, bottoms, tops, pool)
        elif self.is_max:
            self._onnx_max(graph, bottoms, tops, pool)
        else:
            self._onnx_ave(graph, bottoms, tops, pool, counted)

    @staticmethod
    def _onnx_mask(graph: Graph, bottoms: list[str], tops: list[str], pool: PoolGeometry) -> None:
        # ONNX counts the index from the first value of the batch, Caffe from that of the plane.
        left, right, above, below = (max(side, 0) for side in pool.border)
        index, in_plane = graph.temporary("index"), graph.temporary("in_plane")
        pads = (above, left, below, right)
        options = {"kernel_shape": pool.kernel, "strides": pool.stride}
        graph.node("MaxPool", bottoms, [tops[0], index], pads=pads, **options)
        graph.node("Mod", [index, graph.constant(math.prod(pool.plane), "plane")], [in_plane])
        graph.node("Cast", [in_plane], [tops[1]], to=_FLOAT)

    @staticmethod
    def _onnx_max(graph: Graph, bottoms: list[str], tops: list[str], pool: PoolGeometry) -> None:
        options = {"kernel_shape": pool.kernel, "strides": pool.stride}
        if pool.is_plain and not pool.clipped:
            ceil = int(pool.ceil)
            graph.node("MaxPool", bottoms, tops, pads=pool.pad * 2, ceil_mode=ceil, **options)
            return
        padded = _onnx_pad(graph, bottoms[0], pool, float(np.finfo(np.float32).min))
        graph.node("MaxPool", [padded], tops, **options)

    @staticmethod
    def _onnx_ave(
        graph: Graph, bottoms: list[str], tops: list[str], pool: PoolGeometry, counted: Tensor
    ) -> None:
        options = {"kernel_shape": pool.kernel, "strides": pool.stride}
        size = math.prod(pool.kernel)
        # Without ceil_mode: ONNX Runtime up to 1.23 counts the part of a window beyond the padding.
        if pool.is_plain and not pool.clipped and counted.min() == size:
            pads = pool.pad * 2
            graph.node("AveragePool", bottoms, tops, pads=pads, count_include_pad=1, **options)
            return
        padded, mean = _onnx_pad(graph, bottoms[0], pool, 0.0), graph.temporary("mean")
        graph.node("AveragePool", [padded], [mean], **options)
        factor = graph.constant((size / counted.float()).numpy(), "factor")
        graph.node("Mul", [mean, factor], tops)


def _onnx_pad(graph: Graph, bottom: str, pool: PoolGeometry, value: float) -> str:
    """Add the border that the windows cover to a plane, and return the result's name."""
    left, right, above, below = pool.border
    pads = graph.constant([0, 0, above, left, 0, 0, below, right], "pads")
    padded = graph.temporary("padded")
    graph.node("Pad", [bottom, pads, graph.constant(value, "fill")], [padded])
    return padded
