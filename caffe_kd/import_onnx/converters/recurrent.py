"""LSTM, whose gates Caffe has in another order and which needs to know where sequences begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import steps
from ..draft import Draft, Node
from ..registry import converts

_GATES = [0, 2, 1, 3]  # ONNX: input, output, forget, cell; Caffe: input, forget, output, cell


@converts("LSTM")
def _lstm(draft: Draft, node: Node) -> Sequence[str]:
    _check(node)
    direction, size = node.get("direction", "forward"), node.get("hidden_size")
    x, time = node.blob(), node.shape()[0]
    weights, recurrent = node.weight(1), node.weight(2)
    biases = node.weight(3) if node.has(3) else np.zeros((len(weights), 8 * size), np.float32)
    starts = _starts(draft, x)
    backwards = list(range(time))[::-1]
    ways = {"forward": [False], "reverse": [True]}.get(direction, [False, True])
    sequences, lasts = [], []
    for way, is_reverse in enumerate(ways):
        given = steps.take(draft, x, 0, backwards) if is_reverse else x
        bias = biases[way][: 4 * size] + biases[way][4 * size :]
        blobs = [_in_order(blob) for blob in (weights[way], bias, recurrent[way])]
        settings = {"num_output": size}
        y = draft.layer("LSTM", [given, starts], blobs=blobs, recurrent_param=settings)
        if len(node.outputs) > 1 and draft.readers(node.outputs[1]):
            lasts.append(steps.part(draft, y, 0, time - 1, time))
        y = steps.take(draft, y, 0, backwards) if is_reverse else y
        sequences.append(steps.reshape(draft, y, draft.each(y, lambda s: (s[0], 1, *s[1:]))))
    made = [steps.concat(draft, sequences, 1)]
    return [*made, steps.concat(draft, lasts, 0)] if lasts else made


def _check(node: Node) -> None:
    """Raise CannotBeMeant for what Caffe's LSTM does not have."""
    usual = ["Sigmoid", "Tanh", "Tanh"]
    given = [a.decode() for a in node.get("activations") or []]
    node.need(given in ([], usual, usual * 2), "its gates have other functions than sigmoid, tanh")
    node.need(node.get("clip") is None, "it clips the sums of its gates")
    node.need(not node.get("input_forget", 0), "it couples input and forget gate")
    node.need(not node.get("layout", 0), "its batch comes first (layout: 1)")
    node.need(not node.has(7), "it has peepholes")
    if node.has(4):
        lengths = node.constants(4) or []
        whole = bool(lengths) and all((v == node.shape()[0]).all() for v in lengths)
        node.need(whole, "its sequences differ in length")
    for index in (5, 6):
        if node.has(index):
            zero = node.constants(index)
            is_zero = zero is not None and not any(v.any() for v in zero)
            node.need(is_zero, "its first state is given, where Caffe's LSTM starts from zero")
    node.unused(2)


def _starts(draft: Draft, x: str) -> str:
    """Return (T, N): 0 for the first step and 1 for the others, from the data's own shape."""
    time = draft.shape(x)[0]
    zeros = steps.reduce(draft, x, "SUM", 2, 0)
    if time == 1:
        return zeros
    first, others = steps.cut(draft, zeros, 0, [1, time - 1])
    return steps.concat(draft, [first, steps.power(draft, others, shift=1)], 0)


def _in_order(blob: np.ndarray) -> np.ndarray:
    gates = blob.reshape(4, -1, *blob.shape[1:])
    return np.asarray(gates[_GATES].reshape(blob.shape))
