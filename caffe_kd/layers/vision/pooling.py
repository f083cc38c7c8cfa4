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
    "pool: STOCHASTIC is not implemented; in the original, too, it is NOT_IMPLEMENTED on the CPU. "
    "Use MAX or AVE"
)


@dataclass(frozen=True)
class Plan:
    """How one size of plane is pooled, height before width.

    Attributes:
        extent: height and width of the plane.
        kernel: height and width of the window.
        stride: steps from window to window.
        pad: places before and behind the plane that windows may cover.
        places: how many windows fit, by Caffe's rule.
        ceil: whether they were counted by rounding up.
        clipped: whether Caffe's rule left out a last window, which ONNX's would count.
    """

    length: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    places: Pair
    ceil: bool
    clipped: bool

    @property
    def is_plain(self) -> bool:
        """Whether torch's pooling has the same windows; it has none with more than half pad."""
        return all(
            2 * p <= k and (o - 1) * s < e + p
            for e, k, s, p, o in zip(
                self.length, self.kernel, self.stride, self.pad, self.places, strict=True
            )
        )

    @property
    def covered(self) -> Pair:
        """Height and width of what all windows cover, the padding before included."""
        height, width = (
            (o - 1) * s + k for k, s, o in zip(self.kernel, self.stride, self.places, strict=True)
        )
        return height, width

    @property
    def border(self) -> tuple[int, int, int, int]:
        """What to add before and behind: left, right, top, bottom. Negative: to crop."""
        (height, width), (down, right), (tall, wide) = self.length, self.pad, self.covered
        return right, wide - width - right, down, tall - height - down

    def sizes(self, axis: int, device: torch.device | None = None) -> Tensor:
        """Return each window's length along an axis: padding counts, overhang does not."""
        pad, kernel = self.pad[axis], self.kernel[axis]
        start = torch.arange(self.places[axis], device=device) * self.stride[axis] - pad
        return (start + kernel).clamp(max=self.length[axis] + pad) - start


@lru_cache(maxsize=1024)
def _plan(length: Pair, kernel: Pair, stride: Pair, pad: Pair, ceil: bool) -> Plan:
    places = []
    clipped = False
    for e, k, s, p in zip(length, kernel, stride, pad, strict=True):
        room = e + 2 * p - k
        o = (-(-room // s) if ceil else room // s) + 1
        # The last window must start within the plane or the padding before it.
        if any(pad) and (o - 1) * s >= e + p:
            o -= 1
            clipped = True
        places.append(o)
    return Plan(length, kernel, stride, pad, (places[0], places[1]), ceil, clipped)


@register("Pooling", param="pooling_param", tops=(1, 2))
class Pooling(Layer):
    """Take the largest (MAX) or the mean (AVE) value of each window of a plane.

    ``places = ceil((H + 2 pad - kernel) / stride) + 1``, one fewer with a pad if the last window
    would start behind plane and padding. The mean counts padding, but not what a window hangs over
    beyond it. Of equal largest values the first gets the gradient.

    Bottom: (N, C, H, W). Top: (N, C, places, places).
    Second top, for MAX: where in the plane the largest value is, ``h W + w``; -1 for none.

    Raises:
        NetError: the bottom hasn't 4 axes, the kernel is missing or given twice, pad isn't smaller
            than the kernel, no window fits, or pool is STOCHASTIC.

    Source: Caffe's PoolingLayer. STOCHASTIC is refused; the original has it for GPUs alone.

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

    def _plan(self, shape: Shape) -> Plan:
        length = int(shape[2]), int(shape[3])  # while torch.onnx traces, they are tensors
        return _plan(length, self.kernel or length, self.stride, self.pad, self.ceil)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        self.check_plane(shape)
        plan = self._plan(shape)
        if min(plan.places) < 1:
            self.fail("no window fits: the kernel is too large", bottom=shape, kernel=plan.kernel)
        self.check_shape((*shape[:2], *plan.covered), "the padded bottom")
        return [(*shape[:2], *plan.places)] * len(self.proto.top)

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        plan = self._plan(x.shape)
        if self.with_mask:
            return self._max_with_mask(x, plan)
        if self.is_max:
            return self._max(x, plan)
        if self.kernel is None:
            return x.mean((2, 3), keepdim=True)
        return self._ave(x, plan)

    @staticmethod
    def _max(x: Tensor, plan: Plan) -> Tensor:
        if plan.is_plain:
            return F.max_pool2d(x, plan.kernel, plan.stride, plan.pad, ceil_mode=plan.ceil)
        lowest = torch.finfo(x.dtype).min
        return F.max_pool2d(F.pad(x, plan.border, value=lowest), plan.kernel, plan.stride)

    @staticmethod
    def _ave(x: Tensor, plan: Plan) -> Tensor:
        if plan.is_plain:
            return F.avg_pool2d(x, plan.kernel, plan.stride, plan.pad, ceil_mode=plan.ceil)
        mean = F.avg_pool2d(F.pad(x, plan.border), plan.kernel, plan.stride)
        counted = plan.sizes(0, x.device)[:, None] * plan.sizes(1, x.device)
        return mean * (plan.kernel[0] * plan.kernel[1] / counted.to(x.dtype))

    @staticmethod
    def _max_with_mask(x: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        if plan.is_plain:
            y, index = F.max_pool2d(
                x, plan.kernel, plan.stride, plan.pad, ceil_mode=plan.ceil, return_indices=True
            )
            return y, index.to(x.dtype)
        lowest = torch.finfo(x.dtype).min
        padded = F.pad(x, plan.border, value=lowest)
        y, index = F.max_pool2d(padded, plan.kernel, plan.stride, return_indices=True)
        height, width = plan.length
        row = index // padded.shape[3] - plan.pad[0]
        column = index % padded.shape[3] - plan.pad[1]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return y, torch.where(inside, row * width + column, -1).to(x.dtype)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if self.kernel is None and not self.with_mask:
            graph.node("GlobalMaxPool" if self.is_max else "GlobalAveragePool", bottoms, tops)
            return
        plan = self._plan(graph.shape(bottoms[0]))
        counted_places = plan.sizes(0)[:, None] * plan.sizes(1)
        if (self.with_mask or not self.is_max) and counted_places.min() < 1:
            raise ExportError(
                f"layer '{self.name}' (Pooling): a window lies outside the plane, where a mean "
                "or a place is undefined. Use a smaller stride or round_mode: FLOOR",
                self.proto.source_line or None,
            )
        if self.with_mask:
            self._onnx_mask(graph, bottoms, tops, plan)
        elif self.is_max:
            self._onnx_max(graph, bottoms, tops, plan)
        else:
            self._onnx_ave(graph, bottoms, tops, plan, counted_places)

    @staticmethod
    def _onnx_mask(graph: Graph, bottoms: list[str], tops: list[str], plan: Plan) -> None:
        # ONNX counts the place from the first value of the batch, Caffe from that of the plane.
        left, right, above, below = (max(side, 0) for side in plan.border)
        index, place = graph.temporary("index"), graph.temporary("place")
        pads = (above, left, below, right)
        options = {"kernel_shape": plan.kernel, "strides": plan.stride}
        graph.node("MaxPool", bottoms, [tops[0], index], pads=pads, **options)
        graph.node("Mod", [index, graph.constant(math.prod(plan.length), "plane")], [place])
        graph.node("Cast", [place], [tops[1]], to=_FLOAT)

    @staticmethod
    def _onnx_max(graph: Graph, bottoms: list[str], tops: list[str], plan: Plan) -> None:
        options = {"kernel_shape": plan.kernel, "strides": plan.stride}
        if plan.is_plain and not plan.clipped:
            ceil = int(plan.ceil)
            graph.node("MaxPool", bottoms, tops, pads=plan.pad * 2, ceil_mode=ceil, **options)
            return
        padded = _onnx_pad(graph, bottoms[0], plan, float(np.finfo(np.float32).min))
        graph.node("MaxPool", [padded], tops, **options)

    @staticmethod
    def _onnx_ave(
        graph: Graph, bottoms: list[str], tops: list[str], plan: Plan, counted: Tensor
    ) -> None:
        options = {"kernel_shape": plan.kernel, "strides": plan.stride}
        size = math.prod(plan.kernel)
        # ceil_mode is left out: ONNX Runtime up to 1.23 counts what a window hangs over.
        if plan.is_plain and not plan.clipped and counted.min() == size:
            pads = plan.pad * 2
            graph.node("AveragePool", bottoms, tops, pads=pads, count_include_pad=1, **options)
            return
        padded, mean = _onnx_pad(graph, bottoms[0], plan, 0.0), graph.temporary("mean")
        graph.node("AveragePool", [padded], [mean], **options)
        factor = graph.constant((size / counted.float()).numpy(), "factor")
        graph.node("Mul", [mean, factor], tops)


def _onnx_pad(graph: Graph, bottom: str, plan: Plan, value: float) -> str:
    """Add the border that the windows cover to a plane, and return the result's name."""
    left, right, above, below = plan.border
    pads = graph.constant([0, 0, above, left, 0, 0, below, right], "pads")
    padded = graph.temporary("padded")
    graph.node("Pad", [bottom, pads, graph.constant(value, "fill")], [padded])
    return padded
