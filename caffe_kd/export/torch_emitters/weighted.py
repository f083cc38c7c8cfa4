"""Layers with weights: convolutions, inner products, and factors and offsets of channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers.normalization.bn import _SEGNET_EPS as SEGNET_EPS
from ...net import LayerNode
from .base import (
    Code,
    NoCodeError,
    call,
    emits,
    layer_of,
    named,
    number,
    size_of,
    trailing,
    tuple_of,
    values_of,
)


class Scale(nn.Module):
    """Multiply by learned factors, and add learned offsets."""

    def __init__(self, shape: tuple[int, ...], bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        return x if self.bias is None else x + self.bias


class Bias(nn.Module):
    """Add learned offsets."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Embed(nn.Embedding):
    """Look up the row of each index, and add learned offsets."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__(rows, size)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, index: Tensor) -> Tensor:
        return super().forward(index) + self.bias


@emits("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def _convolution(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    window, axes = layer.window, layer.spatial_axes
    if layer.channel_axis != 1 or not 1 <= axes <= 3:
        raise NoCodeError(
            "channels must lie along axis 1, with 1 to 3 axes behind them. A Reshape before it, "
            "or an InnerProduct in its place, gives a net that can be written"
        )
    name = "ConvTranspose" if layer.type == "Deconvolution" else "Conv"
    module = call(
        f"nn.{name}{axes}d",
        layer.channels,
        layer.param.num_output,
        kernel_size=(size_of(window.kernel), None),
        stride=(size_of(window.stride), "1"),
        padding=(size_of(window.pad), "0"),
        dilation=(size_of(window.dilation), "1"),
        groups=(layer.param.group, 1),
        bias=(bool(layer.param.bias_term), True),
    )
    value = ", ".join(f"{{self}}({bottom})" for bottom in bottoms)
    return Code(value, module, named(node, "weight", "bias"))


@emits("InnerProduct")
def _inner_product(node: LayerNode, bottoms: list[str]) -> Code:
    layer, x = layer_of(node), bottoms[0]
    weights, transposed = named(node, "weight", "bias"), bool(layer.param.transpose)
    if transposed:
        weights["weight"] = weights["weight"].t().contiguous()
    outputs, inputs = weights["weight"].shape
    module = call("nn.Linear", inputs, outputs, bias=(bool(layer.param.bias_term), True))
    if len(node.bottom_shapes[0]) != layer.start + 1:
        x = f"{x}.flatten({layer.start})"
    return Code(f"{{self}}({x})", module, weights, as_stored=not transposed)


@emits("BatchNorm")
def _batch_norm(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    momentum = 1 - float(number(layer.param.moving_average_fraction))
    if not layer.use_global_stats:
        return _normalized(node, bottoms[0], layer.param.eps, None, affine=False)
    mean, var, scale = layer.blobs
    factor = 0.0 if scale.item() == 0 else 1 / scale
    code = _normalized(node, bottoms[0], layer.param.eps, momentum, affine=False)
    code.weights = {
        "running_mean": values_of(mean * factor),
        "running_var": values_of(var * factor),
        "num_batches_tracked": torch.tensor(0),
    }
    code.as_stored = False
    return code


@emits("BN")
def _bn(node: LayerNode, bottoms: list[str]) -> Code:
    layer, rank = layer_of(node), len(node.bottom_shapes[0])
    if layer.is_affine:
        weights = {
            name: values_of(blob.reshape(-1, *[1] * (rank - 2)))
            for name, blob in zip(("weight", "bias"), layer.blobs, strict=True)
        }
        return _scaled(bottoms[0], weights)
    names: Sequence[str] = ("weight", "bias", "running_mean", "running_var")
    weights = {n: values_of(b.flatten()) for n, b in zip(names, layer.blobs, strict=False)}
    if layer.use_global_stats:
        weights["num_batches_tracked"] = torch.tensor(0)
        momentum = 1 - float(number(layer.param.momentum))
        code = _normalized(node, bottoms[0], layer.param.eps, momentum, affine=True)
    else:
        code = _normalized(node, bottoms[0], SEGNET_EPS, None, affine=True)
    axes = tuple_of([0, *range(2, rank)])
    statistics = [f"{bottoms[0]}.mean({axes})", f"{bottoms[0]}.var({axes}, correction=0)"]
    values = [code.value, *(f"{s}.reshape(1, -1, 1, 1)" for s in statistics)]
    return Code(", ".join(values[: len(node.tops)]), code.module, weights)


def _normalized(node: LayerNode, x: str, eps: float, momentum: float | None, affine: bool) -> Code:
    """Write batch normalization; without a momentum the statistics are always the batch's."""
    rank = len(node.bottom_shapes[0])
    module = call(
        f"nn.BatchNorm{rank - 2 if rank in (4, 5) else 1}d",
        layer_of(node).channels,
        eps=(number(eps), "1e-05"),
        momentum=("0.1" if momentum is None else number(momentum), "0.1"),
        affine=(affine, True),
        track_running_stats=(momentum is not None, True),
    )
    if rank > 5:
        return Code(f"{{self}}({x}.flatten(2)).reshape({x}.shape)", module)
    return Code(f"{{self}}({x})", module)


@emits("Scale", "Bias")
def _scale(node: LayerNode, bottoms: list[str]) -> Code:
    layer, rank = layer_of(node), len(node.bottom_shapes[0])
    axes = rank - layer.start
    names = ["bias"] if layer.type == "Bias" else ["weight", "bias"]
    x, weights = bottoms[0], {}
    if len(bottoms) == 2:
        operand = trailing(bottoms[1], axes - len(node.bottom_shapes[1]))
        x = f"{x} {'+' if layer.type == 'Bias' else '*'} {operand}"
        names = names[1:]
        if not layer.blobs:
            return Code(x)
    for name, blob in zip(names, layer.blobs, strict=False):
        weights[name] = values_of(blob.reshape(*blob.shape, *[1] * (axes - blob.dim())))
    return _scaled(x, weights)


def _scaled(x: str, weights: dict[str, Tensor]) -> Code:
    shape = tuple_of(next(iter(weights.values())).shape)
    if "weight" not in weights:
        return Code(f"{{self}}({x})", f"Bias({shape})", weights, helpers=(Bias,))
    module = call("Scale", shape, bias=("bias" in weights, False))
    return Code(f"{{self}}({x})", module, weights, helpers=(Scale,))


@emits("PReLU")
def _prelu(node: LayerNode, bottoms: list[str]) -> Code:
    slope = values_of(layer_of(node).blobs[0]).reshape(-1)
    return Code(f"{{self}}({bottoms[0]})", f"nn.PReLU({len(slope)})", {"weight": slope})


@emits("Normalize")
def _normalize(node: LayerNode, bottoms: list[str]) -> Code:
    layer, rank = layer_of(node), len(node.bottom_shapes[0])
    scale = values_of(layer.blobs[0])
    weight = scale.reshape(-1, *[1] * (rank - 2)) if scale.dim() else scale
    axes = tuple_of(range(1, rank) if layer.param.across_spatial else [1])
    x = bottoms[0]
    value = f"{x} / ({x}.square().sum({axes}, keepdim=True) + {number(layer.param.eps)}).sqrt()"
    return _scaled(value, {"weight": weight})


@emits("Embed")
def _embed(node: LayerNode, bottoms: list[str]) -> Code:
    param, value = layer_of(node).param, f"{{self}}({bottoms[0]}.long())"
    sizes = f"({param.input_dim}, {param.num_output})"
    weights = named(node, "weight", "bias")
    if "bias" in weights:
        return Code(value, f"Embed{sizes}", weights, helpers=(Embed,))
    return Code(value, f"nn.Embedding{sizes}", weights)


@emits("Parameter")
def _parameter(node: LayerNode, bottoms: list[str]) -> Code:
    shape = tuple_of(layer_of(node).blob_shapes[0])
    return Code("{self}", f"nn.Parameter(torch.zeros({shape}))", named(node, ""))
