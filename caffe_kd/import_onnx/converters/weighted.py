"""Convolutions and matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import steps
from ..draft import CannotBeMeant, Draft, Node
from ..registry import converts


@converts("Conv")
def _conv(draft: Draft, node: Node) -> str:
    weight = node.weight(1)
    rank = weight.ndim - 2
    blobs = [weight, node.weight(2)] if node.has(2) else [weight]
    stride, dilation = _list(node, "strides", rank), _list(node, "dilations", rank)
    windows = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    begin, end = pads_of(node, windows, stride, node.shape()[2:])
    x, begin, end = _with_pad_before(draft, node, begin, end)
    # A kernel with more zeros on one side makes up for a pad that is larger on the other.
    before = [max(e - b, 0) for b, e in zip(begin, end, strict=True)]
    after = [max(b - e, 0) for b, e in zip(begin, end, strict=True)]
    blobs[0] = _widened(weight, before, after, dilation)
    pad = [max(b, e) for b, e in zip(begin, end, strict=True)]
    if min([*begin, *end], default=0) < 0:
        raise CannotBeMeant("a pad is negative")
    settings = {
        "num_output": weight.shape[0],
        "bias_term": len(blobs) == 2,
        "group": node.get("group", 1),
        **_geometry(blobs[0].shape[2:], stride, pad, dilation),
    }
    return draft.layer("Convolution", x, blobs=blobs, convolution_param=_lean(settings))


@converts("ConvTranspose")
def _conv_transpose(draft: Draft, node: Node) -> str:
    weight = node.weight(1)
    rank = weight.ndim - 2
    group = node.get("group", 1)
    blobs = [weight, node.weight(2)] if node.has(2) else [weight]
    stride, dilation = _list(node, "strides", rank), _list(node, "dilations", rank)
    begin, end = [], []
    pads = node.get("pads") or [0] * 2 * rank
    same = node.get("auto_pad", "NOTSET")
    extra = _list(node, "output_padding", rank, 0)
    for i in range(rank):
        whole = stride[i] * (node.shape()[2 + i] - 1) + dilation[i] * (weight.shape[2 + i] - 1) + 1
        cut = whole - node.made()[0][2 + i]  # what is cut off at both ends, with output_padding
        if same in ("SAME_UPPER", "SAME_LOWER") or node.get("output_shape"):
            first = (cut + extra[i]) // 2
            first = cut + extra[i] - first if same == "SAME_LOWER" else first
        else:
            first = pads[i]
        begin.append(first)
        end.append(cut - first)
    before = [max(e - b, 0) for b, e in zip(begin, end, strict=True)]
    after = [max(b - e, 0) for b, e in zip(begin, end, strict=True)]
    blobs[0] = _widened(weight, before, after, dilation)
    pad = [max(b, e) for b, e in zip(begin, end, strict=True)]
    settings = {
        "num_output": weight.shape[1] * group,
        "bias_term": len(blobs) == 2,
        "group": group,
        **_geometry(blobs[0].shape[2:], stride, pad, dilation),
    }
    return draft.layer("Deconvolution", node.blob(), blobs=blobs, convolution_param=_lean(settings))


@converts("Gemm")
def _gemm(draft: Draft, node: Node) -> str:
    node.need(not node.get("transA", 0), "it transposes its data (transA)")
    weight = node.weight(1) * np.float32(node.get("alpha", 1.0))
    weight = weight if node.get("transB", 0) else weight.T
    bias = None
    if node.has(2):
        bias = node.weight(2) * np.float32(node.get("beta", 1.0))
        node.need(bias.ndim < 2 or bias.shape[0] == 1, "its bias differs between samples")
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1])
    return inner_product(draft, node.blob(), weight, bias, 1)


@converts("MatMul")
def _matmul(draft: Draft, node: Node) -> str:
    weight = node.constant(1)
    if weight is None or weight.ndim != 2:
        raise CannotBeMeant(
            "it multiplies two blobs, and no layer does that. Attention has no layers here"
            if weight is None
            else "its weights differ along the batch"
        )
    axis = len(node.shape()) - 1
    bias, adding = _bias_after(draft, node, weight.shape[1])
    blob = inner_product(draft, node.blob(), node.weight(1).T, bias, axis)
    if adding is not None:
        draft.take_with(adding)
        node.outputs[0] = adding.outputs[0]
    return blob


def _bias_after(draft: Draft, node: Node, size: int) -> tuple[np.ndarray | None, Node | None]:
    """Return the constant that an Add adds to a product, and that Add."""
    adding = draft.only_reader(node.outputs[0], "Add")
    if adding is None or len(node.shape()) < 2:
        return None, None
    bias = adding.constant(1 if adding.inputs[0] == node.outputs[0] else 0)
    if bias is None or bias.size not in (1, size) or bias.shape[-1:] != (bias.size,):
        return None, None
    if bias.ndim > len(node.made()[0]):
        return None, None
    return np.broadcast_to(np.asarray(bias, np.float32).reshape(-1), (size,)), adding


def inner_product(
    draft: Draft, x: str, weight: np.ndarray, bias: np.ndarray | None, axis: int
) -> str:
    """Multiply the last axis by a matrix (outputs, inputs)."""
    settings: dict[str, Any] = {"num_output": weight.shape[0]}
    if axis != 1:
        settings["axis"] = axis
    if bias is None:
        settings["bias_term"] = False
    blobs = [weight] if bias is None else [weight, bias]
    return draft.layer("InnerProduct", x, blobs=blobs, inner_product_param=settings)


@converts("Gather")
def _gather(draft: Draft, node: Node) -> str:
    axis = node.axis(0)
    if node.constants(0) is not None:
        return _embed(draft, node, axis)
    indices = node.constant(1)
    if indices is None:
        raise CannotBeMeant("it takes positions that are computed from the data")
    taken = steps.take(draft, node.blob(), axis, indices.reshape(-1).tolist())
    return steps.reshape(draft, taken, node.made())


def _embed(draft: Draft, node: Node, axis: int) -> str:
    table = node.weight(0)
    node.need(axis == 0 and table.ndim == 2, "it looks up other than the rows of a matrix")
    settings = {"num_output": table.shape[1], "input_dim": table.shape[0], "bias_term": False}
    return draft.layer("Embed", node.blob(1), blobs=[table], embed_param=settings)


# ---- pads and kernels


def _list(node: Node, name: str, rank: int, default: int = 1) -> list[int]:
    return [int(v) for v in node.get(name) or [default] * rank]


def pads_of(
    node: Node, windows: Sequence[int], stride: Sequence[int], sizes: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return a node's pads before and after each axis, from ``pads`` or ``auto_pad``."""
    rank = len(windows)
    rule = node.get("auto_pad", "NOTSET")
    if rule in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((math.ceil(e / s) - 1) * s + k - e, 0)
            for e, s, k in zip(sizes, stride, windows, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return (small, large) if rule == "SAME_UPPER" else (large, small)
    pads = [int(p) for p in node.get("pads") or [0] * 2 * rank] if rule == "NOTSET" else []
    pads = pads or [0] * 2 * rank
    return pads[:rank], pads[rank:]


def _with_pad_before(
    draft: Draft, node: Node, begin: list[int], end: list[int]
) -> tuple[str, list[int], list[int]]:
    """Return a convolution's bottom and pads, with those of a Pad of zeros that was put off."""
    found = draft.put_off.get(node.inputs[0])
    if found is None:
        return node.blob(), begin, end
    blob, pads = found
    rank = len(pads) // 2
    return (
        blob,
        [b + p for b, p in zip(begin, pads[2:rank], strict=True)],
        [e + p for e, p in zip(end, pads[rank + 2 :], strict=True)],
    )


def _widened(
    weight: np.ndarray, before: list[int], after: list[int], dilation: list[int]
) -> np.ndarray:
    """Return a kernel with zeros added before and after its own taps."""
    border = [(0, 0), (0, 0)]
    for first, last, step in zip(before, after, dilation, strict=True):
        if first % step or last % step:
            raise CannotBeMeant("its pads differ between the ends by other than its dilation")
        border.append((first // step, last // step))
    return np.pad(weight, border)


def _geometry(
    kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int]
) -> dict[str, Any]:
    """Return the fields of a window, short where all axes are alike."""
    fields: dict[str, Any] = {}
    named = {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    for name, values in named.items():
        alike = len(set(values)) == 1
        fields[name] = [int(values[0])] if alike else [int(v) for v in values]
    return fields


def _lean(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is the default."""
    usual = {"bias_term": True, "group": 1, "stride": [1], "pad": [0], "dilation": [1]}
    return {name: value for name, value in settings.items() if usual.get(name) != value}
