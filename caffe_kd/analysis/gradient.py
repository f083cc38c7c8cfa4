"""Which layers the gradient of a loss reaches, from the net's connections alone."""

from __future__ import annotations

from ..layers import layer_types
from .view import Node, View

# Through these no gradient passes, whatever their bottoms are.
_WITHOUT_GRADIENT = {"ArgMax", "Threshold", "Accuracy", "ONNXModel", "Silence"}


def receivers(view: View, loss: Node) -> list[Node]:
    """Return the layers whose parameters a loss reaches, itself included, in the net's order.

    Those are the ones that learn and that a path leads to without a detached bottom:
    a teacher's, a label, one with ``propagate_down: false``.
    """
    reached: dict[int, Node] = {}
    waiting = [loss]
    while waiting:
        node = waiting.pop()
        if id(node) in reached or node.type in _WITHOUT_GRADIENT:
            continue
        reached[id(node)] = node
        pairs = zip(node.parents, _detached(node), strict=True)
        waiting += [parent for parent, cut in pairs if parent is not None and not cut]
    return [n for n in view.nodes if id(n) in reached and n.has_blobs and any(n.lr_mults)]


def _detached(node: Node) -> list[bool]:
    """Return which bottoms get no gradient."""
    if node.built is not None:
        return node.built.detached
    given = list(node.proto.propagate_down)
    if len(given) == len(node.parents):
        return [not flag for flag in given]
    kind = layer_types().get(node.type)
    constant = kind.constant_bottoms if kind is not None else ()
    return [i in constant for i in range(len(node.parents))]
