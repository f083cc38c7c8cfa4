"""Checks of weights: whether they fit the net, and whether their values are plausible."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..analysis.view import Node, View
from ..core.errors import WeightsError
from ..net.weights import shown
from ..proto.binary import LayerWeights
from .findings import Occurrence, Occurrences, net_check


def _pairs(view: View) -> Iterator[tuple[str, LayerWeights, Node | None]]:
    """Yield each layer of the files that has blobs, with the node of that name."""
    for path, weights, node in _layers(view):
        if any(blob is not None for blob in weights.blobs):
            yield path, weights, node


def _layers(view: View) -> Iterator[tuple[str, LayerWeights, Node | None]]:
    """Yield each layer of the files, with the node of that name."""
    nodes = {node.proto.name: node for node in reversed(view.nodes)}
    for path, layers in view.weights:
        for weights in layers:
            yield path, weights, nodes.get(weights.name)


@net_check(
    "weights",
    why="Weights are copied to the layer of the same name, which must have as many blobs of the "
    "same shapes.",
    do="Use the net these weights were trained with, or rename the layer to train it from scratch.",
)
def weights_do_not_fit(view: View) -> Occurrences:
    """A layer of the file whose blobs differ from the net's in number or shape."""
    net = view.inference.net
    for path, weights, node in _layers(view):
        if net is None or node is None or node.built is None:
            continue
        try:
            net.copy_weights([weights], path)
        except WeightsError as error:
            yield Occurrence("error", node.location, error.message)


@net_check(
    "weights",
    why="These layers start from their fillers: right for a new last layer, wrong if names have "
    "changed.",
    do="Compare the names with those of the file; layers are matched by name only.",
)
def layers_without_weights(view: View) -> Occurrences:
    """Layers with parameters that no weights file has."""
    if not view.weights:
        return
    brings_own = any(not _is_teachers(view, w.name) for _, w, _ in _pairs(view))
    for of_teacher in (True, False):
        nodes = [n for n in view.nodes if n.has_blobs and view.of_teacher(n) == of_teacher]
        lacking = [n for n in nodes if not view.has_weights(n)]
        if lacking and (of_teacher or brings_own or not view.teachers):
            fact = f"no weights for {shown([n.proto.name for n in lacking])}"
            yield Occurrence("error" if of_teacher else "warning", lacking[0].location, fact)


def _is_teachers(view: View, name: str) -> bool:
    return name.startswith(tuple(f"{teacher}/" for teacher in view.teachers))


@net_check(
    "weights",
    why="They are ignored: the net has no layer of that name. Usual for a last layer that was "
    "renamed, or a net that was cut.",
    do="Nothing, if it is intended; otherwise compare the names.",
)
def weights_without_layer(view: View) -> Occurrences:
    """Layers of the file that the net does not have."""
    for path, layers in view.weights:
        held = {w.name for w in layers if w.blobs}
        lost = held.difference(layer.name for layer in view.param.layer)
        lost = {name for name in lost if not _is_teachers(view, name)}  # compose cuts teachers
        if not lost:
            continue
        fact = f"no layer for the weights of {shown(sorted(lost))}"
        own = [n.proto.name for n in view.nodes if n.has_blobs and not view.of_teacher(n)]
        if lost == held and own:
            fact += f", and the net's are {shown(own)}: nothing in the file fits"
            yield Occurrence("error" if view.solver is None else "warning", path, fact)
        else:
            yield Occurrence("note", path, fact)


@net_check(
    "weights",
    why="NaN or infinity in a parameter makes every output NaN: the training diverged.",
    do="Go back to an earlier snapshot, and continue with a smaller base_lr or clip_gradients.",
)
def weights_not_finite(view: View) -> Occurrences:
    """Parameters that are NaN or infinite."""
    for path, weights, _ in _pairs(view):
        for index, blob in enumerate(weights.blobs):
            if blob is not None and blob.size and not np.isfinite(blob).all():
                yield Occurrence(
                    "error", path, f"layer '{weights.name}': blob {index} is not finite"
                )


@net_check(
    "weights",
    why="A layer with zero weights outputs only its bias.",
    do="Check whether the file was written before training, or the layer was never trained.",
)
def weights_all_zero(view: View) -> Occurrences:
    """Weights that are all 0."""
    for path, weights, node in _pairs(view):
        first = weights.blobs[0]
        kind = node.type if node is not None else weights.type
        if first is not None and kind not in ("BatchNorm", "Bias") and not first.any():
            yield Occurrence("warning", path, f"layer '{weights.name}': every weight is 0")


@net_check(
    "weights",
    why="The statistics are divided by the third blob, the number of accumulated batches. If it "
    "is 0, mean and variance are 0, and the layer multiplies by the root of 1 / eps, 316.",
    do="Train in TRAIN without use_global_stats before testing; after merging BatchNorm into the "
    "layer before it, remove it from the net.",
)
def statistics_never_collected(view: View) -> Occurrences:
    """A BatchNorm whose factor is 0 in the weights, and which uses them."""
    for path, weights, node in _pairs(view):
        if node is None or node.type != "BatchNorm" or len(weights.blobs) != 3:
            continue
        given = node.proto.batch_norm_param
        stored = given.use_global_stats if given.HasField("use_global_stats") else None
        uses = stored if stored is not None else not view.is_training or view.of_teacher(node)
        factor = weights.blobs[2]
        if uses and factor is not None and not factor.any():
            fact = f"layer '{weights.name}' (BatchNorm): its scale factor, blob 2, is 0"
            yield Occurrence("error", path, fact)


@net_check(
    "weights",
    why="A variance cannot be negative: the root of it is NaN.",
    do="Check how the file was made; a converter may have swapped mean and variance.",
)
def negative_variance(view: View) -> Occurrences:
    """A BatchNorm or BN with a negative variance."""
    for path, weights, node in _pairs(view):
        index = {"BatchNorm": 1, "BN": 3}.get(node.type if node is not None else "")
        if index is None or len(weights.blobs) <= index:
            continue
        variance = weights.blobs[index]
        if variance is not None and variance.size and variance.min() < 0:
            least = float(variance.min())
            yield Occurrence("error", path, f"layer '{weights.name}': a variance is {least:.3g}")
