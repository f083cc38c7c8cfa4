"""Functions of each value."""

from __future__ import annotations

import math

import numpy as np

from .. import steps
from ..draft import CannotBeMeant, Draft, Node
from ..registry import converts

_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875
_TYPES = {"Relu": "ReLU", "Sigmoid": "Sigmoid", "Tanh": "TanH", "Softplus": "BNLL", "Abs": "AbsVal",
          "Exp": "Exp", "Log": "Log"}  # fmt: skip


@converts(*_TYPES)
def _same(draft: Draft, node: Node) -> str:
    return draft.layer(_TYPES[node.op], node.blob())


@converts("LeakyRelu")
def _leaky_relu(draft: Draft, node: Node) -> str:
    slope = node.get("alpha", 0.01)
    return draft.layer("ReLU", node.blob(), relu_param={"negative_slope": slope})


@converts("PRelu")
def _prelu(draft: Draft, node: Node) -> str:
    slope, x = node.weight(1), node.blob()
    shape = draft.shape(x)
    if slope.size == 1:
        settings = {"channel_shared": True}
        return draft.layer("PReLU", x, blobs=[slope.reshape(())], prelu_param=settings)
    channels = shape[1] if len(shape) > 1 else 0
    # In old files the slopes line up with the channels, without axes of size 1 behind them.
    lined_up = slope.ndim == 1 or slope.shape[-(len(shape) - 1) :][:1] == (channels,)
    node.need(slope.size == channels and lined_up, "its slopes are not one for each channel")
    return draft.layer("PReLU", x, blobs=[slope.reshape(-1)])


@converts("Elu")
def _elu(draft: Draft, node: Node) -> str:
    return draft.layer("ELU", node.blob(), elu_param={"alpha": node.get("alpha", 1.0)})


@converts("Selu")
def _selu(draft: Draft, node: Node) -> str:
    alpha, gamma = node.get("alpha", _SELU_ALPHA), node.get("gamma", _SELU_GAMMA)
    y = draft.layer("ELU", node.blob(), elu_param={"alpha": alpha})
    return steps.power(draft, y, scale=gamma)


@converts("Celu")
def _celu(draft: Draft, node: Node) -> str:
    alpha = node.get("alpha", 1.0)
    y = draft.layer("ELU", steps.power(draft, node.blob(), scale=1 / alpha))
    return steps.power(draft, y, scale=alpha)


@converts("Clip")
def _clip(draft: Draft, node: Node) -> str:
    low, high = node.number("min", 1, None), node.number("max", 2, None)
    return steps.clip(draft, node.blob(), low, high)


@converts("HardSigmoid")
def _hard_sigmoid(draft: Draft, node: Node) -> str:
    scale, shift = node.get("alpha", 0.2), node.get("beta", 0.5)
    return _gate(draft, node.blob(), scale, shift)


@converts("HardSwish")
def _hard_swish(draft: Draft, node: Node) -> str:
    x = node.blob()
    return steps.eltwise(draft, [x, _gate(draft, x, 1 / 6, 0.5)], "PROD")


def _gate(draft: Draft, x: str, scale: float, shift: float) -> str:
    return steps.clip(draft, steps.power(draft, x, scale=scale, shift=shift), 0, 1)


@converts("Swish")
def _swish(draft: Draft, node: Node) -> str:
    return draft.layer("Swish", node.blob(), swish_param={"beta": node.get("alpha", 1.0)})


@converts("Mish")
def _mish(draft: Draft, node: Node) -> str:
    x = node.blob()
    return steps.eltwise(draft, [x, draft.layer("TanH", draft.layer("BNLL", x))], "PROD")


@converts("Softsign")
def _softsign(draft: Draft, node: Node) -> str:
    x = node.blob()
    below = steps.power(draft, draft.layer("AbsVal", x), power=-1, shift=1)
    return steps.eltwise(draft, [x, below], "PROD")


@converts("ThresholdedRelu")
def _thresholded_relu(draft: Draft, node: Node) -> str:
    x, threshold = node.blob(), node.get("alpha", 1.0)
    mask = draft.layer("Threshold", x, threshold_param={"threshold": threshold})
    return steps.eltwise(draft, [x, mask], "PROD")


@converts("Gelu")
def _gelu(draft: Draft, node: Node) -> str:
    """Only the approximation by a hyperbolic tangent, which has layers: that of erf has none."""
    node.need(
        node.get("approximate", "none") == "tanh",
        "no layer computes erf. Train the net with GELU(approximate='tanh'), which has layers",
    )
    x, scale = node.blob(), math.sqrt(2 / math.pi)
    cubed = steps.power(draft, x, power=3)
    sum_ = steps.eltwise(draft, [x, cubed], "SUM", [scale, scale * 0.044715])
    gate = steps.power(draft, draft.layer("TanH", sum_), scale=0.5, shift=0.5)
    return steps.eltwise(draft, [x, gate], "PROD")


@converts("Neg")
def _neg(draft: Draft, node: Node) -> str:
    return steps.power(draft, node.blob(), scale=-1)


@converts("Sqrt")
def _sqrt(draft: Draft, node: Node) -> str:
    return steps.power(draft, node.blob(), power=0.5)


@converts("Reciprocal")
def _reciprocal(draft: Draft, node: Node) -> str:
    return steps.power(draft, node.blob(), power=-1)


@converts("Pow")
def _pow(draft: Draft, node: Node) -> str:
    exponent = node.constant(1)
    if exponent is None or exponent.size != 1:
        raise CannotBeMeant("its exponent is not one constant number")
    return steps.power(draft, node.blob(), power=float(np.reshape(exponent, -1)[0]))


@converts("Softmax")
def _softmax(draft: Draft, node: Node) -> str:
    return _probabilities(draft, node)


@converts("LogSoftmax")
def _log_softmax(draft: Draft, node: Node) -> str:
    return draft.layer("Log", _probabilities(draft, node))


def _probabilities(draft: Draft, node: Node) -> str:
    x, rank = node.blob(), len(node.shape())
    if draft.opset >= 13:
        axis = node.axis(-1)
    else:  # up to opset 12 all axes from one on are one
        axis = node.axis(1)
        if math.prod(node.shape()[axis + 1 :]) != 1 and axis < rank - 1:
            flat = draft.each(x, lambda s: (*s[:axis], math.prod(s[axis:])))
            y = draft.layer("Softmax", steps.reshape(draft, x, flat), softmax_param={"axis": axis})
            return steps.reshape(draft, y, node.made())
    settings = {} if axis == 1 else {"axis": axis}
    return draft.layer("Softmax", x, softmax_param=settings)


@converts("Dropout")
def _dropout(draft: Draft, node: Node) -> str:
    node.unused(1)
    ratio = node.number("ratio", 1, 0.5)
    return draft.layer("Dropout", node.blob(), dropout_param={"dropout_ratio": ratio})


@converts("Identity")
def _identity(draft: Draft, node: Node) -> str:
    return node.blob()


@converts("Cast", "CastLike")
def _cast(draft: Draft, node: Node) -> str:
    import onnx

    kind = node.get("to", onnx.TensorProto.FLOAT)
    real = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    whole = draft.kinds.get(node.inputs[0], "f") in "iub"
    node.need(kind in real or whole, "it rounds values to whole numbers")
    return node.blob()
