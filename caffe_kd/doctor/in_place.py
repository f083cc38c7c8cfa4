"""The check of in-place layers that overwrite what another layer's gradient needs."""

from __future__ import annotations

from ..analysis.view import Node, View
from .distilling import learns
from .findings import Occurrence, Occurrences, net_check

# Types whose gradient Caffe computes from the layer's top, which may be overwritten by then.
_FROM_TOP = {"TanH", "Sigmoid", "ELU", "Swish", "Exp", "Softmax", "LRN", "MVN"}
# Types whose gradient it computes from the bottom, which an in-place layer has overwritten.
_FROM_BOTTOM = {"BNLL", "Clip", "Log", "Power"}
_CHANGING = {
    *("AbsVal", "BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Exp", "Log", "PReLU"),
    *("Power", "ReLU", "Scale", "Sigmoid", "Swish", "TanH"),
}


@net_check(
    "numbers",
    why="Trained in BVLC Caffe this net gets a wrong gradient here, computed from values that the "
    "in-place layer has overwritten. Here it is exact, so the numbers differ.",
    do="Nothing, for training here. To get the same numbers in both, give the in-place layer a "
    "top of its own.",
)
def overwritten_in_place(view: View) -> Occurrences:
    """An in-place layer that overwrites what a gradient needs in BVLC Caffe."""
    for node in view.nodes if view.learns else ():
        if view.of_teacher(node) or not learns(node.parents[0] if node.parents else None):
            continue
        top, bottom = (list(names)[:1] for names in (node.proto.top, node.proto.bottom))
        if node.type in _FROM_BOTTOM and top == bottom and not _is_linear(node):
            yield Occurrence("warning", node.location, f"{node.called} works in place")
        if node.type in _FROM_TOP:
            after = next((c for c in node.children if top[0] in c.proto.top), None)
            if after is not None and _changes(node, after):
                fact = f"{after.called} works in place on the top of {node.called}"
                yield Occurrence("warning", after.location, fact)


def _is_linear(node: Node) -> bool:
    return node.type == "Power" and node.proto.power_param.power == 1


def _changes(node: Node, after: Node) -> bool:
    """Return whether an in-place layer changes values that the gradient of the layer before needs.

    Where a plain ReLU writes 0 the gradient is 0 anyway; only MVN's sums are wrong then.
    """
    if after.type == "ReLU" and after.proto.relu_param.negative_slope == 0:
        return node.type == "MVN"
    return after.type in _CHANGING
