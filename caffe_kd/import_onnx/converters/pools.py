"""Poolings over windows and whole planes, of one to three axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import steps
from ..draft import Draft, Node
from ..registry import converts
from .weighted import pads_of

_GREATEST = float(np.finfo(np.float32).max)


@dataclass
class Axis:
    """The windows along one axis: window i begins at ``i stride - begin``."""

    size: int
    kernel: int
    stride: int
    begin: int
    end: int
    out: int

    def out_in_caffe(self, ceil: bool, padded: bool) -> int:
        """Return how many windows Caffe has with pad ``begin`` on both sides."""
        room = self.size + 2 * self.begin - self.kernel
        out = (-(-room // self.stride) if ceil else room // self.stride) + 1
        return out - 1 if padded and (out - 1) * self.stride >= self.size + self.begin else out

    def counts(self, first: int, last: int) -> np.ndarray:
        """Return how many positions from first to last each window has."""
        start = np.arange(self.out) * self.stride - self.begin
        return np.minimum(start + self.kernel, last) - np.maximum(start, first)


@converts("MaxPool")
def _max_pool(draft: Draft, node: Node) -> str:
    node.unused(1)
    return _pool(draft, node, "MAX")


@converts("AveragePool")
def _average_pool(draft: Draft, node: Node) -> str:
    return _pool(draft, node, "AVE")


@converts("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(draft: Draft, node: Node) -> str:
    return whole(draft, node.blob(), "MAX" if "Max" in node.op else "AVE", node)


def whole(draft: Draft, x: str, kind: str, node: Node) -> str:
    """Pool all axes from the third on."""
    plane = draft.each(x, lambda s: s if len(s) == 4 else (*s[:2], 1, math.prod(s[2:])))
    x = steps.reshape(draft, x, plane)
    y = draft.layer("Pooling", x, pooling_param={"pool": kind, "global_pooling": True})
    return steps.reshape(draft, y, node.made())


def _pool(draft: Draft, node: Node, kind: str) -> str:
    sizes, made = node.shape()[2:], node.made()[0][2:]
    rank = len(sizes)
    node.need(
        set(node.get("dilations") or [1]) == {1},
        "its windows have gaps (dilations), which no pooling layer has",
    )
    kernel = [int(k) for k in node.get("kernel_shape")]
    stride = [int(s) for s in node.get("strides") or [1] * rank]
    begin, end = pads_of(node, kernel, stride, sizes)
    axes = [Axis(*a) for a in zip(sizes, kernel, stride, begin, end, made, strict=True)]
    padding_counts = bool(node.get("count_include_pad", 0))
    x = node.blob()
    if rank == 2:
        return _plane(draft, x, kind, axes, padding_counts)
    if rank == 3:
        height, width = sizes[1:]
        flat = draft.each(x, lambda s: (s[0], s[1] * s[2], height, width))
        x = _plane(draft, steps.reshape(draft, x, flat), kind, axes[1:], padding_counts)
    along = node.shape()[2]
    planes = [
        (s[0], s[1], along, math.prod(t[3:]))
        for s, t in zip(node.shapes(), node.made(), strict=True)
    ]
    rest = Axis(planes[0][3], 1, 1, 0, 0, planes[0][3])
    x = _plane(draft, steps.reshape(draft, x, planes), kind, [axes[0], rest], padding_counts)
    return steps.reshape(draft, x, node.made())


def _plane(draft: Draft, x: str, kind: str, axes: Sequence[Axis], padding_counts: bool) -> str:
    """Pool a plane by the windows of its two axes."""
    wanted = 1.0
    for axis in axes:
        edges = (-axis.begin, axis.size + axis.end) if padding_counts else (0, axis.size)
        wanted = np.multiply.outer(wanted, axis.counts(*edges))
    padded = any(a.begin for a in axes)
    rounding = next(
        (
            name
            for name, ceil in (("CEIL", True), ("FLOOR", False))
            if all(a.out_in_caffe(ceil, padded) == a.out for a in axes)
        ),
        None,
    )
    if rounding is None or any(a.begin >= a.kernel for a in axes):
        x, axes = _padded(draft, x, kind, axes)
        rounding = "CEIL"
    counted = 1.0
    for axis in axes:
        edges = (-axis.begin, axis.size + axis.begin)
        counted = np.multiply.outer(counted, axis.counts(*edges))
    settings = {"pool": kind, **_pairs(axes)}
    if rounding != "CEIL":
        settings["round_mode"] = rounding
    y = draft.layer("Pooling", x, pooling_param=settings)
    if kind == "MAX" or np.array_equal(counted, wanted):
        return y
    # Caffe divides by the size of the window with its padding.
    factor = np.asarray(counted / wanted)
    param = {"axis": 2, "num_axes": 2}
    return draft.layer("Scale", y, blobs=[factor], frozen=True, scale_param=param)


def _padded(draft: Draft, x: str, kind: str, axes: Sequence[Axis]) -> tuple[str, list[Axis]]:
    """Pad a plane so that its windows fit without a pad of the pooling."""
    value = -_GREATEST if kind == "MAX" else 0.0
    fitting = []
    for index, axis in enumerate(axes):
        covered = (axis.out - 1) * axis.stride + axis.kernel
        after = covered - axis.size - axis.begin
        x = steps.pad(draft, x, 2 + index, axis.begin, after, value)
        fitting.append(Axis(covered, axis.kernel, axis.stride, 0, 0, axis.out))
    return x, fitting


def _pairs(axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the fields of a window, short where both axes are alike."""
    fields: dict[str, Any] = {}
    for name, short, usual in (
        ("kernel", "kernel_size", 0),
        ("stride", "stride", 1),
        ("begin", "pad", 0),
    ):
        height, width = (int(getattr(axis, name)) for axis in axes)
        stem = "pad" if name == "begin" else name
        if height == width:
            fields |= {short: height} if height != usual else {}
        else:
            fields |= {f"{stem}_h": height, f"{stem}_w": width}
    return fields
