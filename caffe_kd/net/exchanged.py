"""Losses whose student's and teacher's bottoms are exchanged, so that nothing learns from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .net import LayerNode

_OF_FORKS = {"KnowledgeDistillation"}  # beside the losses of ours


def exchanged(nodes: Iterable[LayerNode]) -> Iterator[tuple[LayerNode, str, str]]:
    """Yield each loss between student and teacher whose bottoms are exchanged.

    They are if nothing that leads to the bottoms with a gradient learns, but what leads to one of
    the others does.

    Args:
        nodes: the layers of a net in their order.

    Yields:
        The loss, its first bottom with a gradient, and the first other one that learns.
    """
    learning: set[str] = set()
    for node in nodes:
        layer = node.layer
        if layer.is_loss and (layer.origin == "caffe_kd" or layer.type in _OF_FORKS):
            pairs = list(zip(node.bottoms, node.detached, strict=True))
            with_gradient = [bottom for bottom, is_cut in pairs if not is_cut]
            others = [bottom for bottom, is_cut in pairs if is_cut and bottom in learning]
            if with_gradient and others and learning.isdisjoint(with_gradient):
                yield node, with_gradient[0], others[0]
        own = any(blob.requires_grad for blob in layer.parameters_in_order)
        if own or not learning.isdisjoint(node.bottoms):
            learning.update(node.tops)
