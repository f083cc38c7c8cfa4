"""The walk over a model's nodes."""

from __future__ import annotations

from itertools import zip_longest

from ..core.errors import NetError
from ..layers import layer_types
from . import converters, steps  # noqa: F401  # converters registers its functions
from .draft import CannotBeMeant, Draft, Node
from .model import Model
from .registry import CONVERTERS

_CUT = (
    "cut the model there with onnx.utils.extract_model and compute the rest outside the net, or "
    "train a net without it"
)
# What to do about types that come often and have no layer.
_INSTEAD = {
    "GRU": "an LSTM has a layer",
    "RNN": "an LSTM has a layer",
    "Erf": "it belongs to a GELU: train the net with GELU(approximate='tanh'), which has layers",
    "QuantizeLinear": "convert the model in float32, and quantize the net with caffe_kd quantize",
    "DequantizeLinear": "convert the model in float32, and quantize the net with caffe_kd quantize",
    "Attention": "no layer multiplies two blobs as attention does; " + _CUT,
    "NonMaxSuppression": "DetectionOutput selects boxes, after a model that ends before this node",
    "TopK": "ArgMax finds the largest values' places; " + _CUT,
    "Einsum": "write it with Linear, Conv or products by value",
    "GridSample": "Resize has layers",
    "Loop": "write the loop out",
    "Scan": "write the loop out, or use LSTM",
    "If": "export the branch that is taken",
}


def convert(model: Model, for_caffe: bool = False) -> Draft:
    """Return the net that a model means.

    Raises:
        NetError: nodes have no layers; the message lists them all.
    """
    draft = Draft(model, for_caffe)
    live = _live(draft)
    for given in model.inputs:
        if draft.readers(given.name):
            draft.input(given.name, given.shape, model.shapes[given.name])
    problems = []
    for index, node in enumerate(draft.nodes):
        if index in draft.done or index not in live:
            continue
        if all(name in model.constants for name in node.outputs if name):
            continue
        try:
            _node(draft, node)
        except CannotBeMeant as problem:
            problems.append(_line(node, str(problem)))
            draft.give_up(node)
    problems += [
        f"output '{name}' does not depend on the inputs"
        for name in draft.outputs
        if name in model.constants
    ]
    if problems:
        what = "BVLC Caffe's layers" if for_caffe else "layers"
        count = "1 node has" if len(problems) == 1 else f"{len(problems)} nodes have"
        head = f"{count} no {what} that compute the same:"
        raise NetError("\n  ".join([head, *problems]), str(model.path))
    return draft


def _node(draft: Draft, node: Node) -> None:
    converter = CONVERTERS.get(node.op) if node.domain in ("", "ai.onnx") else None
    if converter is None:
        raise CannotBeMeant(f"no layer does this. {_INSTEAD.get(node.op, _CUT)}")
    try:
        made = converter(draft, node)
    except (TypeError, ValueError) as error:
        raise CannotBeMeant(f"no layer has these settings: {error}") from error
    if draft.for_caffe:
        types = layer_types()
        for kind in draft.pending_types():
            if types[kind].origin != "Caffe":
                raise CannotBeMeant(f"BVLC Caffe has no layer of type {kind}")
    results = [made] if isinstance(made, str) else list(made)
    unread = [
        blob
        for value, blob in zip_longest(node.outputs, results)
        if blob in draft.pending_tops() and not (value and draft.readers(value))
    ]
    if unread:
        steps.silence(draft, unread)
    draft.finish(node, results, node.outputs)


def _live(draft: Draft) -> set[int]:
    """Return the nodes that the model's outputs depend on."""
    makers = {name: i for i, node in enumerate(draft.nodes) for name in node.outputs}
    live: set[int] = set()
    waiting = list(draft.outputs)
    while waiting:
        index = makers.get(waiting.pop())
        if index is not None and index not in live:
            live.add(index)
            waiting += draft.nodes[index].inputs
    return live


def _line(node: Node, reason: str) -> str:
    return f"node '{node.name}' ({node.domain + '.' if node.domain else ''}{node.op}): {reason}"
