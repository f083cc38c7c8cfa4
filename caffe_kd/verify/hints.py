"""Why a layer's values may differ from recorded ones: guesses, tried before they are reported.

A guess computes the layer's output under another assumption, such as colours in the other order.
It is reported only where that gives what was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..net import LayerNode, Net
from .compare import Comparison, Line, greatest_difference, run
from .recording import Arrays

# A guess is reported where it matches the recording about as well as float32 can.
_CLOSE = 1e-3
_COLOURS = 3
_SCALES = (1 / 255, 1 / 256, 255.0, 256.0)

# What a layer would give, and why, in words.
Guesses = Iterator[tuple[Tensor, str]]


def hints(net: Net, comparison: Comparison) -> list[str]:
    """Return what explains the first value that differs, as far as it is known."""
    line = comparison.first
    if line is None:
        return []
    number = next(i for i, node in enumerate(net.nodes) if node is line.node)
    bottoms = comparison.inputs[number]
    found = [_known_before(net, comparison, line)]
    if line.got.shape != line.want.shape:
        return [*found, *_shape_hints(line)]
    if not np.isfinite(line.want).all() or not np.isfinite(line.got).all():
        found.append(_not_finite(line))
    with torch.no_grad():
        for guess, words in _guesses(net, comparison, line, number):
            if _explains(guess, line):
                found.append(words)
        if not found[1:]:
            found += _of_the_difference(net, line, bottoms)
    return found


def _explains(guess: Tensor, line: Line) -> bool:
    value = guess.numpy()
    if value.shape != line.want.shape:
        return False
    bound = _CLOSE * max(line.scale, 1e-6)
    return greatest_difference(value, line.want) <= min(bound, line.difference / 4)


def _known_before(net: Net, comparison: Comparison, line: Line) -> str:
    """Return whether the layer itself differs, or one before it that was not recorded."""
    unknown = _unknown(net, comparison, line)
    if unknown:
        names = ", ".join(f"'{name}'" for name in unknown)
        return f"its bottom {names} was not recorded: a layer before it may be the one that differs"
    return "its bottoms agree: it is this layer, its settings or its weights"


def _unknown(net: Net, comparison: Comparison, line: Line) -> list[str]:
    """Return the bottoms of a line's layer whose values were computed and not compared."""
    checked = {id(other.node) for other in comparison.lines}
    makers: dict[str, LayerNode] = {}
    for node in net.nodes:
        if node is line.node:
            break
        makers.update((top, node) for top in node.tops)
    return [
        name
        for name in line.node.bottoms
        if name in makers and makers[name].bottoms and id(makers[name]) not in checked
    ]


def _not_finite(line: Line) -> str:
    who = "the recording" if not np.isfinite(line.want).all() else "the net here"
    return f"{who} has NaN or infinity where the other has numbers"


def _shape_hints(line: Line) -> list[str]:
    layer: Any = line.node.layer
    if layer.type != "Pooling" or line.got.ndim != 4 or line.want.ndim != 4:
        return []
    plane = line.node.bottom_shapes[0][2:]
    kernel = layer.kernel or plane
    numbers = zip(plane, kernel, layer.stride, layer.pad, strict=True)
    floor = tuple((e + 2 * p - k) // s + 1 for e, k, s, p in numbers)
    if line.want.shape[2:] == floor:
        return ["the recording rounds the number of windows down; Caffe rounds up (round_mode)"]
    return []


def _guesses(net: Net, comparison: Comparison, line: Line, number: int) -> Guesses:
    layer: Any = line.node.layer
    if layer.type in _BY_TYPE:
        yield from _BY_TYPE[layer.type](layer, comparison.inputs[number])
    if line.node.bottoms[:1] and _is_unchecked(net, comparison, line):
        for inputs, words in _other_inputs(comparison.given):
            yield run(net, inputs)[0][number][line.top], words


def _is_unchecked(net: Net, comparison: Comparison, line: Line) -> bool:
    """Return whether a layer's bottoms are inputs, or values that were not compared."""
    return bool(_unknown(net, comparison, line)) or line.node.bottoms[0] in net.inputs


def _other_inputs(given: Arrays) -> Iterator[tuple[Arrays, str]]:
    """Yield the inputs as another program may have prepared them, and in words how."""
    coloured = [n for n, x in given.items() if x.ndim == 4 and x.shape[1] == _COLOURS]
    if coloured:
        turned = {name: given[name][:, ::-1] for name in coloured}
        yield given | turned, "with the input's colours in the other order (BGR, RGB) it agrees"
    images = [name for name, x in given.items() if x.ndim == 4]
    for scale in _SCALES if images else ():
        scaled = {name: given[name] * np.float32(scale) for name in images}
        yield given | scaled, f"with the input times {scale:.6g} it agrees: look at the scale"


def _inner_product(layer: Any, bottoms: list[Tensor]) -> Guesses:
    weight, *bias = layer.blobs
    x = bottoms[0].flatten(layer.start)
    stored = weight.reshape(tuple(reversed(weight.shape))).t()
    yield (
        F.linear(x, stored if not layer.param.transpose else stored.t(), *bias),
        ("with its weights transposed it agrees: they were stored as inputs x outputs"),
    )
    if bottoms[0].dim() == 4 and layer.start == 1 and not layer.param.transpose:
        last = bottoms[0].permute(0, 2, 3, 1).flatten(1)
        yield (
            F.linear(last, weight, *bias),
            ("with its bottom flattened channels last (H, W, C) it agrees; Caffe has C, H, W"),
        )
    if bias:
        wide = weight.t() if layer.param.transpose else weight
        yield F.linear(x, wide), "without its bias it agrees"


def _convolution(layer: Any, bottoms: list[Tensor]) -> Guesses:
    blobs = layer._blobs
    weight = blobs[0]
    spatial = tuple(range(2, weight.dim()))
    try:
        if spatial:
            layer._blobs = [torch.nn.Parameter(weight.flip(spatial)), *blobs[1:]]
            yield layer(*bottoms)[0], "with its kernels turned round (true convolution) it agrees"
        if len(blobs) > 1:
            layer._blobs = [weight, torch.nn.Parameter(torch.zeros_like(blobs[1]))]
            yield layer(*bottoms)[0], "without its bias it agrees"
    finally:
        layer._blobs = blobs


def _batch_norm(layer: Any, bottoms: list[Tensor]) -> Guesses:
    x = bottoms[0]
    if x.dim() < 2:
        return
    mean, var, factor = layer.blobs
    eps = layer.param.eps
    if x.numel() > x.shape[1]:
        yield (
            F.batch_norm(x, None, None, training=True, eps=eps),
            (
                "with the batch's own statistics it agrees: the recording was made in phase TRAIN, "
                "or with use_global_stats: false"
            ),
        )
    yield (
        F.batch_norm(x, mean, var, eps=eps),
        (
            "with mean and variance undivided it agrees: the scale factor, blob 2, "
            f"{float(factor):g} here, was left out"
        ),
    )
    for other in (1e-3, 1e-4, 1e-6, 1e-9):
        known = float(factor)
        share = 1 / known if known else 0.0
        yield (
            F.batch_norm(x, mean * share, var * share, eps=other),
            (f"with an eps of {other:g} it agrees; here it is {eps:g}"),
        )


def _pooling(layer: Any, bottoms: list[Tensor]) -> Guesses:
    x = bottoms[0]
    if layer.is_max:
        mean = F.avg_pool2d(x, layer.kernel or x.shape[2:], layer.stride, ceil_mode=layer.ceil)
        yield mean, "as the mean of each window (AVE) it agrees; here it is the greatest value"
        return
    kernel = layer.kernel or tuple(x.shape[2:])
    if all(2 * p <= k for p, k in zip(layer.pad, kernel, strict=True)):
        yield (
            F.avg_pool2d(
                x, kernel, layer.stride, layer.pad, ceil_mode=layer.ceil, count_include_pad=False
            ),
            "with a mean that leaves the padding out it agrees; Caffe counts it",
        )
        biggest = F.max_pool2d(x, kernel, layer.stride, layer.pad, ceil_mode=layer.ceil)
        yield biggest, "as the greatest value of each window (MAX) it agrees; here it is the mean"
    full = math.prod(kernel)
    pool = layer.geometry(x.shape)
    counted = (pool.sizes(0)[:, None] * pool.sizes(1)).to(x.dtype)
    yield (
        layer(x) * counted / full,
        (
            "with windows over the far edge divided by the whole window it agrees; Caffe divides "
            "by what lies in the padded plane"
        ),
    )


def _lrn(layer: Any, bottoms: list[Tensor]) -> Guesses:
    param = layer.param
    x, size = bottoms[0], param.local_size
    if x.dim() == 4:
        yield (
            F.local_response_norm(x, size, param.alpha * size, param.beta, param.k),
            ("with alpha not divided by local_size it agrees, as in TensorFlow; Caffe divides"),
        )


def _dropout(layer: Any, bottoms: list[Tensor]) -> Guesses:
    ratio = layer.param.dropout_ratio
    yield (
        bottoms[0] * (1 - ratio),
        ("times 1 - dropout_ratio it agrees: the recording scales in TEST, Caffe in TRAIN"),
    )


def _softmax(layer: Any, bottoms: list[Tensor]) -> Guesses:
    x = bottoms[0]
    for axis in range(x.dim()):
        if axis != layer.param.axis % x.dim():
            yield x.softmax(axis), f"along axis {axis} it agrees; here it is {layer.param.axis}"
    yield x.log_softmax(layer.param.axis), "as the softmax's logarithm it agrees"
    yield x, "as its bottom it agrees: the recording is of the logits"


def _relu(layer: Any, bottoms: list[Tensor]) -> Guesses:
    x = bottoms[0]
    yield x, "as its bottom it agrees: the recording is of the value before the layer"
    yield x.clamp(0, 6), "limited to 6 it agrees: the recording is of a ReLU6"
    for slope in (0.01, 0.1, 0.2):
        yield F.leaky_relu(x, slope), f"with a negative_slope of {slope:g} it agrees"


_BY_TYPE: dict[str, Callable[[Any, list[Tensor]], Guesses]] = {
    "BatchNorm": _batch_norm,
    "Convolution": _convolution,
    "Dropout": _dropout,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "Pooling": _pooling,
    "ReLU": _relu,
    "Softmax": _softmax,
}


def _of_the_difference(net: Net, line: Line, bottoms: list[Tensor]) -> list[str]:
    """Examine the difference itself, where no guess explains it."""
    difference = line.want - line.got
    bound = _CLOSE * max(float(np.abs(difference).max()), 1e-30)
    found = []
    if line.node.layer.type in ("Convolution", "InnerProduct") and difference.ndim > 1:
        axes = tuple(i for i in range(difference.ndim) if i != 1)
        spread = (difference.max(axes) - difference.min(axes)).max()
        if difference.size > difference.shape[1] and spread <= bound * 10:
            words = "its channels are off by a constant each: another bias"
            if line.node.bottoms[0] in net.inputs:
                words += ", or another mean taken from the input"
            found.append(words)
    if line.node.layer.type == "Dropout" and bottoms:
        ratio = line.node.layer.param.dropout_ratio
        x = bottoms[0].numpy()
        kept = np.isclose(line.want, x / (1 - ratio), rtol=_CLOSE, atol=1e-6)
        if (kept | (line.want == 0)).all() and not kept.all():
            found.append("values are dropped at random: the recording was made in phase TRAIN")
    return found
