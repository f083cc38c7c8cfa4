"""Layers over feature maps: pooling, unpooling, local normalization, rearranging."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import Shape
from ...net import LayerNode
from .base import (
    Code,
    NoCodeError,
    call,
    emits,
    layer_of,
    listed,
    number,
    size_of,
    trailing,
    tuple_of,
)


class AvePool(nn.Module):
    """Average-pool with windows that may extend beyond the padding.

    The map is padded, or cropped, by ``border``; ``rows`` and ``columns`` are how many positions of
    each window count.
    """

    counted: Tensor

    def __init__(
        self,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int],
        border: tuple[int, int, int, int],
        rows: list[int],
        columns: list[int],
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.border = kernel, stride, border
        counted = torch.tensor(rows)[:, None] * torch.tensor(columns)
        self.register_buffer("counted", counted.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.border)
        return F.avg_pool2d(x, self.kernel, self.stride, divisor_override=1) / self.counted


class MaxPoolWithMask(nn.Module):
    """Max-pool with windows that may extend beyond torch's padding.

    The map is padded, or cropped, by ``border``: left, right, top, bottom. The second output is the
    index of the value in the map, as in ``nn.MaxPool2d``; -1 in the border.
    """

    def __init__(
        self,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int],
        border: tuple[int, int, int, int],
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.border = kernel, stride, border

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (height, width), (left, _, top, _) = x.shape[2:], self.border
        x = F.pad(x, self.border, value=torch.finfo(x.dtype).min)
        y, index = F.max_pool2d(x, self.kernel, self.stride, return_indices=True)
        row, column = index // x.shape[3] - top, index % x.shape[3] - left
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return y, torch.where(inside, row * width + column, -1)


class SPP(nn.Module):
    """Pool a map in several ways, and concatenate the results."""

    def __init__(self, *levels: nn.Module) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([level(x).flatten(1) for level in self.levels], dim=1)


class Upsample(nn.Module):
    """Put each value at the index of a larger map that a pooling mask names; the rest is 0."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = height, width

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        plane = x.new_zeros(*x.shape[:2], self.size[0] * self.size[1])
        plane = plane.scatter(2, mask.long().flatten(2), x.flatten(2))
        return plane.reshape(*x.shape[:2], *self.size)


class LRNWithinChannel(nn.Module):
    """Divide by a power of the mean square of neighbouring positions in the same channel."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x * x, self.size, 1, self.size // 2)
        return x * (1 + self.alpha * mean) ** -self.beta


class MVN(nn.Module):
    """Subtract the mean over some axes, and divide by the standard deviation plus eps."""

    def __init__(self, dim: tuple[int, ...], eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(self.dim, keepdim=True)
        return x / (x.square().mean(self.dim, keepdim=True).sqrt() + self.eps)


@emits("Pooling")
def _pooling(node: LayerNode, bottoms: list[str]) -> Code:
    module, helpers = _pool(layer_of(node), node.bottom_shapes[0])
    return Code(f"{{self}}({bottoms[0]})", module, helpers=helpers)


def _pool(layer: Any, shape: Shape) -> tuple[str, tuple[Any, ...]]:
    """Write the module that pools a bottom of this shape as a Pooling layer does."""
    kind, mask = "Max" if layer.is_max else "Avg", (layer.with_mask, False)
    if layer.kernel is None:
        return call(f"nn.Adaptive{kind}Pool2d", 1, return_indices=mask), ()
    geometry = layer.geometry(shape)
    kernel, stride = size_of(geometry.kernel), size_of(geometry.stride)
    if geometry.is_plain:
        module = call(
            f"nn.{kind}Pool2d",
            kernel_size=(kernel, None),
            stride=(stride, kernel),
            padding=(size_of(geometry.pad), "0"),
            ceil_mode=(geometry.ceil, False),
            return_indices=mask,
        )
        return module, ()
    # Windows that torch does not produce: the map is padded to what they cover, or cropped.
    border = tuple_of(geometry.border)
    if layer.with_mask:
        return f"MaxPoolWithMask({kernel}, {stride}, {border})", (MaxPoolWithMask,)
    if layer.is_max:
        pad = f"nn.ConstantPad2d({border}, torch.finfo(torch.float32).min)"
        pool = f"nn.MaxPool2d(kernel_size={kernel}, stride={stride})"
        return f"nn.Sequential({pad}, {pool})", ()
    rows, columns = geometry.sizes(0).tolist(), geometry.sizes(1).tolist()
    if min(*rows, *columns) < 1:
        raise NoCodeError(
            "a window lies outside the map, where a mean is undefined. Use a smaller stride or "
            "round_mode: FLOOR"
        )
    return f"AvePool({kernel}, {stride}, {border}, {rows}, {columns})", (AvePool,)


@emits("SPP")
def _spp(node: LayerNode, bottoms: list[str]) -> Code:
    shape = node.bottom_shapes[0]
    levels = [_pool(pooling, shape) for pooling in layer_of(node)._pyramid(shape)]
    value = f"{{self}}({bottoms[0]})"
    if len(levels) == 1:
        return Code(value, levels[0][0], helpers=levels[0][1])
    helpers = tuple(helper for _, used in levels for helper in used)
    return Code(value, f"SPP({listed([m for m, _ in levels])})", helpers=(*helpers, SPP))


@emits("Upsample")
def _upsample(node: LayerNode, bottoms: list[str]) -> Code:
    height, width = node.top_shapes[0][2:]
    return Code(f"{{self}}({listed(bottoms)})", f"Upsample({height}, {width})", helpers=(Upsample,))


@emits("LRN")
def _lrn(node: LayerNode, bottoms: list[str]) -> Code:
    param = layer_of(node).param
    alpha, beta = number(param.alpha), number(param.beta)
    if layer_of(node).within:
        module = f"LRNWithinChannel({param.local_size}, alpha={alpha}, beta={beta})"
        return Code(f"{{self}}({bottoms[0]})", module, helpers=(LRNWithinChannel,))
    module = f"nn.LocalResponseNorm({param.local_size}, {alpha}, {beta}, k={number(param.k)})"
    return Code(f"{{self}}({bottoms[0]})", module)


@emits("MVN")
def _mvn(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    x, axes = trailing(bottoms[0], 4 - len(node.bottom_shapes[0])), tuple_of(layer.axes)
    if layer.param.normalize_variance:
        module = f"MVN({axes}, eps={number(layer.param.eps)})"
        return Code(f"{{self}}({x})", module, helpers=(MVN,))
    return Code(f"{x} - {x}.mean({axes}, keepdim=True)")


@emits("Crop")
def _crop(node: LayerNode, bottoms: list[str]) -> Code:
    layer, (x, reference) = layer_of(node), bottoms
    for axis, offset in enumerate(layer.offsets, layer.first_axis):
        x += f".narrow({axis}, {offset}, {reference}.shape[{axis}])"
    return Code(x)


@emits("Interp")
def _interp(node: LayerNode, bottoms: list[str]) -> Code:
    x, param = bottoms[0], layer_of(node).param
    if param.pad_beg or param.pad_end:
        x = f"F.pad({x}, {tuple_of([param.pad_beg, param.pad_end] * 2)})"
    size = tuple_of(node.top_shapes[0][2:])
    return Code(f'F.interpolate({x}, {size}, mode="bilinear", align_corners=True)')


@emits("Reorg")
def _reorg(node: LayerNode, bottoms: list[str]) -> Code:
    read_as, order = layer_of(node)._plan(node.bottom_shapes[0])
    x = f"{bottoms[0]}.reshape(-1, {listed(read_as)}).permute({listed(order)})"
    return Code(f"{x}.reshape(-1, {listed(node.top_shapes[0][1:])})")


@emits("Im2col")
def _im2col(node: LayerNode, bottoms: list[str]) -> Code:
    layer, rank = layer_of(node), len(node.bottom_shapes[0])
    if (layer.channel_axis, rank) != (1, 4):
        raise NoCodeError(
            "the bottom must be (N, C, H, W) with axis: 1. A Reshape before it gives it these axes"
        )
    window = layer.window
    value = call(
        "F.unfold",
        bottoms[0],
        size_of(window.kernel),
        stride=(size_of(window.stride), "1"),
        padding=(size_of(window.pad), "0"),
        dilation=(size_of(window.dilation), "1"),
    )
    return Code(f"{value}.unflatten(2, {tuple_of(node.top_shapes[0][2:])})")
