"""Sums, products and the like of blobs and constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import steps
from ..draft import CannotBeMeant, Draft, Node
from ..registry import converts


@converts("Add")
def _add(draft: Draft, node: Node) -> str:
    return _two(draft, node, "SUM")


@converts("Mul")
def _mul(draft: Draft, node: Node) -> str:
    return _two(draft, node, "PROD")


def _two(draft: Draft, node: Node, op: str) -> str:
    for constant, blob in ((1, 0), (0, 1)):
        values = node.constant(constant)
        if values is not None and node.constants(blob) is None:
            return steps.with_constant(draft, node.blob(blob), _aligned(node, values), op)
    return steps.combine(draft, node.blob(0), node.blob(1), op)


def _aligned(node: Node, values: np.ndarray) -> np.ndarray:
    """Return a constant with the axes that opset 6 gives by an attribute."""
    axis = node.get("axis")
    if axis is None:
        return values
    behind = len(node.shape()) - axis - values.ndim
    return values.reshape(values.shape + (1,) * max(behind, 0))


@converts("Sub")
def _sub(draft: Draft, node: Node) -> str:
    minus = node.constant(1)
    if minus is not None and node.constants(0) is None:
        return steps.with_constant(draft, node.blob(0), -_aligned(node, minus), "SUM")
    first = node.constant(0)
    if first is not None:
        if first.size == 1:
            number = float(first.reshape(-1)[0])
            return steps.power(draft, node.blob(1), scale=-1, shift=number)
        turned = steps.power(draft, node.blob(1), scale=-1)
        return steps.with_constant(draft, turned, first, "SUM")
    x, y = node.blob(0), node.blob(1)
    if draft.shapes[x] == draft.shapes[y]:
        return steps.eltwise(draft, [x, y], "SUM", [1, -1])
    return steps.combine(draft, x, steps.power(draft, y, scale=-1), "SUM")


@converts("Div")
def _div(draft: Draft, node: Node) -> str:
    below = node.constant(1)
    if below is not None and node.constants(0) is None:
        factor = 1 / np.asarray(_aligned(node, below), np.float64)
        return steps.with_constant(draft, node.blob(0), factor, "PROD")
    inverse = steps.power(draft, node.blob(1), power=-1)
    above = node.constant(0)
    if above is not None:
        return steps.with_constant(draft, inverse, above, "PROD")
    return steps.combine(draft, node.blob(0), inverse, "PROD")


@converts("Sum")
def _sum(draft: Draft, node: Node) -> str:
    return _several(draft, node, "SUM", [])


@converts("Mean")
def _mean(draft: Draft, node: Node) -> str:
    count = len(node.inputs)
    return _several(draft, node, "SUM", [1 / count] * count)


def _several(draft: Draft, node: Node, op: str, coeff: Sequence[float]) -> str:
    blobs = [node.blob(i) for i in range(len(node.inputs))]
    if len(blobs) == 1:
        return blobs[0]
    if any(draft.shapes[blob] != draft.shapes[blobs[0]] for blob in blobs):
        blobs = [steps.expand(draft, blob, node.made()) for blob in blobs]
    return steps.eltwise(draft, blobs, op, coeff)


@converts("Max")
def _max(draft: Draft, node: Node) -> str:
    return _extreme(draft, node, lambda x, limit: steps.clip(draft, x, limit, None), False)


@converts("Min")
def _min(draft: Draft, node: Node) -> str:
    return _extreme(draft, node, lambda x, limit: steps.clip(draft, x, None, limit), True)


def _extreme(draft: Draft, node: Node, limited: Callable[[str, float], str], least: bool) -> str:
    indices = range(len(node.inputs))
    numbers = [c for i in indices if (c := node.constant(i)) is not None]
    blobs = [node.blob(i) for i in indices if node.constants(i) is None]
    if any(c.size != 1 for c in numbers):
        raise CannotBeMeant("it compares with a constant of several numbers")
    sign = -1 if least else 1
    if len(blobs) > 1:
        turned = [steps.power(draft, blob, scale=sign) for blob in blobs]
        if any(draft.shapes[b] != draft.shapes[turned[0]] for b in turned):
            turned = [steps.expand(draft, blob, node.made()) for blob in turned]
        x = steps.power(draft, steps.eltwise(draft, turned, "MAX"), scale=sign)
    else:
        x = blobs[0]
    for number in numbers:
        x = limited(x, float(number.reshape(-1)[0]))
    return x
