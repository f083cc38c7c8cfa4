"""Each layer type as the line of PyTorch that a person would write for it.

An emitter looks at a layer of a built net and answers with a ``Code``: the expression that makes a
module, the expression that computes the tops, and the module's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..net import Step
from ..proto import caffe_pb2 as pb


@dataclass
class Code:
    """A layer as PyTorch source.

    Attributes:
        value: the expression of the top, or of a tuple of all tops; ``{self}`` is the module.
        module: the expression that makes the module; empty where none is needed.
        weights: the module's tensors by the names they have in it.
        helper: the class in ``HELPERS`` that the module is of.
    """

    value: str
    module: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict)
    helper: str = ""


class NoCodeError(Exception):
    """A layer's settings have no form here; says which."""


# Of a layer in its net and the Python names of its bottoms.
Emitter = Callable[[Step, list[str]], Code]

EMITTERS: dict[str, Emitter] = {}


def _emits(*types: str) -> Callable[[Emitter], Emitter]:
    def decorate(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(types, emitter))
        return emitter

    return decorate


def _layer(step: Step) -> Any:
    """Return the layer, which has its type's attributes."""
    return step.layer


def _number(value: float) -> str:
    """Write a field's float32 in its shortest form."""
    text = str(np.float32(value))
    return text if text.lstrip("-")[0].isdigit() else f'float("{text}")'


def _extents(values: Sequence[int]) -> str:
    """Write ``3`` for what is 3 along all axes, else ``(3, 5)``."""
    same = len(set(values)) == 1
    return str(int(values[0])) if same else f"({', '.join(str(int(v)) for v in values)})"


def _tuple(values: Sequence[int]) -> str:
    inner = ", ".join(str(int(v)) for v in values)
    return f"({inner},)" if len(values) == 1 else f"({inner})"


def _call(name: str, *arguments: object, **options: tuple[object, object]) -> str:
    """Write a call; an option is its value and the default at which it is left out."""
    words = [str(a) for a in arguments]
    words += [f"{key}={value}" for key, (value, default) in options.items() if value != default]
    return f"{name}({', '.join(words)})"


def _values(blob: Tensor) -> Tensor:
    return blob.detach().cpu().contiguous().clone()


def _named(step: Step, *names: str) -> dict[str, Tensor]:
    return dict(zip(names, map(_values, _layer(step).blobs), strict=False))


# ---- layers with weights


@_emits("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution")
def _convolution(step: Step, bottoms: list[str]) -> Code:
    layer = _layer(step)
    window, axes = layer.window, layer.spatial_axes
    if layer.channel_axis != 1 or not axes:
        raise NoCodeError("channels must lie along axis 1, with 1 to 3 axes behind them")
    name = "ConvTranspose" if layer.type == "Deconvolution" else "Conv"
    module = _call(
        f"nn.{name}{axes}d",
        layer.channels,
        layer.param.num_output,
        kernel_size=(_extents(window.kernel), None),
        stride=(_extents(window.stride), "1"),
        padding=(_extents(window.pad), "0"),
        dilation=(_extents(window.dilation), "1"),
        groups=(layer.param.group, 1),
        bias=(bool(layer.param.bias_term), True),
    )
    value = ", ".join(f"{{self}}({bottom})" for bottom in bottoms)
    return Code(value, module, _named(step, "weight", "bias"))


@_emits("InnerProduct")
def _inner_product(step: Step, bottoms: list[str]) -> Code:
    layer, x = _layer(step), bottoms[0]
    weights = _named(step, "weight", "bias")
    if layer.param.transpose:
        weights["weight"] = weights["weight"].t().contiguous()
    outputs, inputs = weights["weight"].shape
    module = _call("nn.Linear", inputs, outputs, bias=(bool(layer.param.bias_term), True))
    if len(step.bottom_shapes[0]) != layer.start + 1:
        x = f"{x}.flatten({layer.start})"
    return Code(f"{{self}}({x})", module, weights)


@_emits("BatchNorm")
def _batch_norm(step: Step, bottoms: list[str]) -> Code:
    layer, rank = _layer(step), len(step.bottom_shapes[0])
    if not layer.use_global:
        raise NoCodeError("use_global_stats: false, statistics of the batch in phase TEST")
    if not 2 <= rank <= 5:
        raise NoCodeError(f"a bottom of {rank} axes, where PyTorch takes 2 to 5")
    mean, var, scale = layer.blobs
    factor = 0.0 if scale.item() == 0 else 1 / scale
    module = _call(
        f"nn.BatchNorm{max(1, rank - 2)}d",
        layer.channels,
        eps=(_number(layer.param.eps), "1e-05"),
        momentum=(_number(1 - float(_number(layer.param.moving_average_fraction))), "0.1"),
        affine=(False, True),
    )
    weights = {
        "running_mean": _values(mean * factor),
        "running_var": _values(var * factor),
        "num_batches_tracked": scale.new_zeros(()).long(),
    }
    return Code(f"{{self}}({bottoms[0]})", module, weights)


def _trailing(name: str, count: int) -> str:
    """Write an operand with axes of extent 1 behind its own."""
    return f"{name}[...{', None' * count}]" if count else name


@_emits("Scale", "Bias")
def _scale(step: Step, bottoms: list[str]) -> Code:
    layer, rank = _layer(step), len(step.bottom_shapes[0])
    axes = rank - layer.start
    names = ["bias"] if layer.type == "Bias" else ["weight", "bias"]
    x, weights = bottoms[0], {}
    if len(bottoms) == 2:
        operand = _trailing(bottoms[1], axes - len(step.bottom_shapes[1]))
        x = f"{x} {'+' if layer.type == 'Bias' else '*'} {operand}"
        names = names[1:]
        if not layer.blobs:
            return Code(x)
    for name, blob in zip(names, layer.blobs, strict=False):
        weights[name] = _values(blob.reshape(*blob.shape, *[1] * (axes - blob.dim())))
    shape = next(iter(weights.values())).shape
    helper = "Bias" if list(weights) == ["bias"] else "Scale"
    options = {"bias": ("bias" in weights, False)} if helper == "Scale" else {}
    return Code(f"{{self}}({x})", _call(helper, _tuple(shape), **options), weights, helper)


@_emits("PReLU")
def _prelu(step: Step, bottoms: list[str]) -> Code:
    slope = _values(_layer(step).blobs[0]).reshape(-1)
    return Code(f"{{self}}({bottoms[0]})", f"nn.PReLU({len(slope)})", {"weight": slope})


@_emits("Normalize")
def _normalize(step: Step, bottoms: list[str]) -> Code:
    layer, rank = _layer(step), len(step.bottom_shapes[0])
    scale = _values(layer.blobs[0])
    weight = scale.reshape(-1, *[1] * (rank - 2)) if scale.dim() else scale
    axes = _tuple(range(1, rank) if layer.param.across_spatial else [1])
    x = bottoms[0]
    value = f"{x} / ({x}.square().sum({axes}, keepdim=True) + {_number(layer.param.eps)}).sqrt()"
    return Code(f"{{self}}({value})", f"Scale({_tuple(weight.shape)})", {"weight": weight}, "Scale")


# ---- layers that are a module without weights


@_emits("Pooling")
def _pooling(step: Step, bottoms: list[str]) -> Code:
    layer, x = _layer(step), bottoms[0]
    if layer.with_mask:
        raise NoCodeError("a mask as the second top")
    kind = "Max" if layer.is_max else "Avg"
    if layer.kernel is None:
        return Code(f"{{self}}({x})", f"nn.Adaptive{kind}Pool2d(1)")
    plan = layer._plan(step.bottom_shapes[0])
    kernel, stride = _extents(plan.kernel), _extents(plan.stride)
    if plan.is_plain:
        module = _call(
            f"nn.{kind}Pool2d",
            kernel_size=(kernel, None),
            stride=(stride, kernel),
            padding=(_extents(plan.pad), "0"),
            ceil_mode=(plan.ceil, False),
        )
        return Code(f"{{self}}({x})", module)
    # Windows that torch does not place: the plane is padded to what they cover, or cut.
    if layer.is_max:
        lowest = "torch.finfo(torch.float32).min"
        module = f"nn.MaxPool2d(kernel_size={kernel}, stride={stride})"
        return Code(f"{{self}}(F.pad({x}, {_tuple(plan.border)}, value={lowest}))", module)
    rows, columns = plan.sizes(0).tolist(), plan.sizes(1).tolist()
    if min(*rows, *columns) < 1:
        raise NoCodeError("a window lies outside the plane, where a mean is undefined")
    module = f"AvePool({kernel}, {stride}, {_tuple(plan.border)}, {rows}, {columns})"
    return Code(f"{{self}}({x})", module, helper="AvePool")


@_emits("LRN")
def _lrn(step: Step, bottoms: list[str]) -> Code:
    param = _layer(step).param
    alpha, beta = _number(param.alpha), _number(param.beta)
    if _layer(step).within:
        module = f"LRNWithinChannel({param.local_size}, alpha={alpha}, beta={beta})"
        return Code(f"{{self}}({bottoms[0]})", module, helper="LRNWithinChannel")
    module = f"nn.LocalResponseNorm({param.local_size}, {alpha}, {beta}, k={_number(param.k)})"
    return Code(f"{{self}}({bottoms[0]})", module)


def _plain(module: str) -> Emitter:
    return lambda step, bottoms: Code(f"{{self}}({bottoms[0]})", module)


EMITTERS.update(
    Sigmoid=_plain("nn.Sigmoid()"), TanH=_plain("nn.Tanh()"), ReLU6=_plain("nn.ReLU6()")
)


@_emits("ReLU")
def _relu(step: Step, bottoms: list[str]) -> Code:
    slope = _layer(step).param.negative_slope
    module = f"nn.LeakyReLU({_number(slope)})" if slope else "nn.ReLU()"
    return Code(f"{{self}}({bottoms[0]})", module)


@_emits("ELU")
def _elu(step: Step, bottoms: list[str]) -> Code:
    return Code(f"{{self}}({bottoms[0]})", f"nn.ELU({_number(_layer(step).param.alpha)})")


@_emits("Dropout")
def _dropout(step: Step, bottoms: list[str]) -> Code:
    return Code(f"{{self}}({bottoms[0]})", f"nn.Dropout({_number(_layer(step).ratio)})")


@_emits("Softmax")
def _softmax(step: Step, bottoms: list[str]) -> Code:
    layer, x = _layer(step), bottoms[0]
    if layer.temperature != 1:
        x = f"{x} / {_number(layer.temperature)}"
    return Code(f"{{self}}({x})", f"nn.Softmax(dim={layer.class_axis})")


@_emits("Flatten")
def _flatten(step: Step, bottoms: list[str]) -> Code:
    layer = _layer(step)
    end = -1 if layer.end == len(step.bottom_shapes[0]) - 1 else layer.end
    return Code(f"{{self}}({bottoms[0]})", f"nn.Flatten({layer.start}, {end})")


# ---- layers that are an expression


@_emits("Eltwise")
def _eltwise(step: Step, bottoms: list[str]) -> Code:
    layer = _layer(step)
    if layer.param.operation == pb.EltwiseParameter.PROD:
        return Code(" * ".join(bottoms))
    if layer.param.operation == pb.EltwiseParameter.MAX:
        value = bottoms[0]
        for bottom in bottoms[1:]:
            value = f"torch.maximum({value}, {bottom})"
        return Code(value)
    pairs = zip(layer.coeff, bottoms, strict=True)
    return Code(" + ".join(x if c == 1 else f"{_number(c)} * {x}" for c, x in pairs))


@_emits("Concat")
def _concat(step: Step, bottoms: list[str]) -> Code:
    return Code(f"torch.cat([{', '.join(bottoms)}], dim={_layer(step).concat_axis})")


@_emits("Slice")
def _slice(step: Step, bottoms: list[str]) -> Code:
    axis = _layer(step).slice_axis
    sizes = [shape[axis] for shape in step.top_shapes]
    value = f"torch.split({bottoms[0]}, {sizes}, dim={axis})"
    return Code(value if len(sizes) > 1 else f"{value}[0]")


@_emits("Split")
def _split(step: Step, bottoms: list[str]) -> Code:
    return Code(", ".join(bottoms * len(step.tops)))


@_emits("Reshape")
def _reshape(step: Step, bottoms: list[str]) -> Code:
    (shape,), (top,) = step.bottom_shapes, step.top_shapes
    keeps_batch = shape[:1] == top[:1] and -1 not in list(_layer(step).param.shape.dim[:1])
    if keeps_batch or _layer(step).param.axis > 0:
        return Code(f"{bottoms[0]}.reshape({bottoms[0]}.shape[0], {_listed(top[1:])})")
    return Code(f"{bottoms[0]}.reshape(-1, {_listed(top[1:])})")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


@_emits("Permute")
def _permute(step: Step, bottoms: list[str]) -> Code:
    return Code(f"{bottoms[0]}.permute({_listed(_layer(step).order)})")


@_emits("ShuffleChannel")
def _shuffle_channel(step: Step, bottoms: list[str]) -> Code:
    return Code(f"F.channel_shuffle({bottoms[0]}, {_layer(step).group})")


@_emits("Tile")
def _tile(step: Step, bottoms: list[str]) -> Code:
    axis, tiles = _layer(step).tile_axis, _layer(step).param.tiles
    return Code(f"torch.cat([{bottoms[0]}] * {tiles}, dim={axis})")


@_emits("Reduction")
def _reduction(step: Step, bottoms: list[str]) -> Code:
    layer, x, ops = _layer(step), bottoms[0], pb.ReductionParameter
    axes = _tuple(range(layer.first_axis, len(step.bottom_shapes[0])))
    value = {
        ops.SUM: f"{x}.sum({axes})",
        ops.ASUM: f"{x}.abs().sum({axes})",
        ops.SUMSQ: f"{x}.square().sum({axes})",
        ops.MEAN: f"{x}.mean({axes})",
    }[layer.param.operation]
    coeff = layer.param.coeff
    return Code(value if coeff == 1 else f"{_number(coeff)} * {value}")


@_emits("Crop")
def _crop(step: Step, bottoms: list[str]) -> Code:
    layer, (x, reference) = _layer(step), bottoms
    for axis, offset in enumerate(layer.offsets, layer.first_axis):
        x += f".narrow({axis}, {offset}, {reference}.shape[{axis}])"
    return Code(x)


@_emits("Interp")
def _interp(step: Step, bottoms: list[str]) -> Code:
    x, param = bottoms[0], _layer(step).param
    if param.pad_beg or param.pad_end:
        x = f"F.pad({x}, {_tuple([param.pad_beg, param.pad_end] * 2)})"
    size = _tuple(step.top_shapes[0][2:])
    return Code(f'F.interpolate({x}, {size}, mode="bilinear", align_corners=True)')


@_emits("AbsVal")
def _abs_val(step: Step, bottoms: list[str]) -> Code:
    return Code(f"{bottoms[0]}.abs()")


@_emits("BNLL")
def _bnll(step: Step, bottoms: list[str]) -> Code:
    return Code(f"-F.logsigmoid(-{bottoms[0]})")


@_emits("Clip")
def _clip(step: Step, bottoms: list[str]) -> Code:
    param = _layer(step).param
    return Code(f"{bottoms[0]}.clamp({_number(param.min)}, {_number(param.max)})")


@_emits("Swish")
def _swish(step: Step, bottoms: list[str]) -> Code:
    x, beta = bottoms[0], _layer(step).param.beta
    return Code(f"F.silu({x})" if beta == 1 else f"{x} * torch.sigmoid({_number(beta)} * {x})")


@_emits("Threshold")
def _threshold(step: Step, bottoms: list[str]) -> Code:
    x, threshold = bottoms[0], _number(_layer(step).param.threshold)
    return Code(f"({x} > {threshold}).to({x}.dtype)")


@_emits("Power")
def _power(step: Step, bottoms: list[str]) -> Code:
    param, x = _layer(step).param, bottoms[0]
    if param.power == 0 or param.scale == 0:  # whatever x is, even infinite
        constant = f"torch.full_like({x}, {_number(param.shift)})"
        return Code(f"{constant} ** {_number(param.power)}")
    y = _linear(x, param.scale, param.shift)
    return Code(y if param.power == 1 else f"({y}) ** {_number(param.power)}")


@_emits("Exp")
def _exp(step: Step, bottoms: list[str]) -> Code:
    layer = _layer(step)
    return Code(f"torch.exp({_linear(bottoms[0], layer.scale, layer.shift)})")


@_emits("Log")
def _log(step: Step, bottoms: list[str]) -> Code:
    layer = _layer(step)
    y = f"torch.log({_linear(bottoms[0], layer.param.scale, layer.param.shift)})"
    return Code(y if layer.factor == 1 else f"{_number(layer.factor)} * {y}")


def _linear(x: str, scale: float, shift: float) -> str:
    y = x if scale == 1 else f"{_number(scale)} * {x}"
    return y if shift == 0 else f"{y} + {_number(shift)}"
