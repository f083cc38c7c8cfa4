"""Checks of what is trained: initial weights, learning rates, and whether any layer learns."""

from __future__ import annotations

from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..net.queries import filler, has_bias
from ..proto import text
from .findings import Occurrence, Occurrences, net_check, target_check

_MATRICES = {"Convolution", "Deconvolution", "InnerProduct"}


@net_check(
    "learning",
    why="A parameter without a filler starts at 0. A layer with zero weights passes no signal "
    "forward or gradient backward: the layers before it learn nothing until it has changed, and "
    "two such layers in a row never learn.",
    do='weight_filler { type: "msra" } before a ReLU, "xavier" elsewhere; in a BN layer '
    'slope_filler { type: "constant" value: 1 }.',
)
def zero_weights(view: View) -> Occurrences:
    """Trained weights that start at 0."""
    weighted = [n for n in _learning(view) if filler(n.proto) and any(n.lr_mults[:1] or [1.0])]
    begun = [n for n in weighted if not view.has_weights(n)]
    without = [n for n in begun if not filler(n.proto).ListFields()]  # type: ignore[union-attr]
    if len(without) == len(weighted) > 1 and view.solver is None:
        fact = f"none of its {len(weighted)} layers with weights has a filler: it must start from "
        yield Occurrence("note", str(view.file), f"net '{view.param.name}': {fact}weights")
        return
    for node in begun:
        given = filler(node.proto)
        if given is not None and given.type == "constant" and given.value == 0:
            said = "is not given, so it is constant 0" if node in without else "is constant 0"
            yield Occurrence(
                "warning", node.location, f"{node.called}: the filler of its weights {said}"
            )


@net_check(
    "learning",
    why="The standard deviation is then 1, about a hundred times too large for a layer of usual "
    "size.",
    do='Write std, as std: 0.01; or use "xavier" or "msra", which depend on the layer\'s size.',
)
def gaussian_without_std(view: View) -> Occurrences:
    """A gaussian weight filler without std."""
    for node in _learning(view):
        given = filler(node.proto)
        if given is not None and given.type == "gaussian" and not given.HasField("std"):
            if not view.has_weights(node) and node.type != "BN":
                yield Occurrence(
                    "warning", node.location, f'{node.called}: weight_filler "gaussian" has no std'
                )


def _learning(view: View) -> list[Node]:
    """Return the nodes of a trained net, without its teachers."""
    return [n for n in view.nodes if view.learns and not view.of_teacher(n)]


@net_check(
    "learning",
    why="A layer that is not trained keeps its filler's values.",
    do="Start from weights that have the layer (-weights, or weights in the solver), or let it "
    "learn.",
)
def frozen_at_random(view: View) -> Occurrences:
    """A layer with lr_mult 0 and no weights to start from."""
    known = view.solver is not None or bool(view.weights)
    injected = {x.to or x.layer for x in view.solver.inject} if view.solver is not None else set()
    for node in _learning(view):
        mults = node.lr_mults
        if node.type not in _MATRICES or view.has_weights(node) or not mults or mults[0] != 0:
            continue
        if node.proto.name in injected:  # it starts from a teacher's weights
            continue
        given = filler(node.proto)
        if given is not None and given.type == "bilinear":  # upsampling needs no training
            continue
        below = node.parents[0] if node.parents else None
        projects = below is not None and view.of_teacher(below)  # a fixed random projection
        severity = "warning" if known and not projects else "note"
        yield Occurrence(
            severity, node.location, f"{node.called}: lr_mult is 0 and no weights are named"
        )


@net_check(
    "learning",
    why="Training would run, and change nothing.",
    do="Give the layers to train an lr_mult above 0, or leave it out: 1 is the default.",
)
def nothing_learns(view: View) -> Occurrences:
    """A net with an objective in which no parameter learns."""
    if not view.learns or view.inference.problems or view.inference.net is None:
        return
    nodes = [node for node in _learning(view) if node.has_blobs and node.built is not None]
    if all(node.built is not None for node in view.nodes):
        if not any(mult for node in nodes for mult in node.lr_mults):
            severity = "error" if view.solver is not None else "warning"
            fact = "every lr_mult is 0" if nodes else "no layer has parameters"
            yield Occurrence(severity, str(view.file), f"net '{view.param.name}': {fact}")


@target_check(
    "learning",
    why="Without a loss there is no gradient: no parameter is updated.",
    do="Add a loss layer, such as SoftmaxWithLoss; check its include rules and its loss_weight.",
)
def nothing_to_minimise(target: Target) -> Occurrences:
    """A solver's net without an objective."""
    view = target.training()
    if target.solver is not None and view is not None and not view.losses:
        yield Occurrence("error", str(view.file), f"net '{view.param.name}' has no loss in TRAIN")


@net_check(
    "learning",
    why="The first param is for the weights, the second for the bias. Usually the bias has twice "
    "the learning rate and no weight decay; here it is the other way round.",
    do="Swap the two param blocks.",
)
def multipliers_reversed(view: View) -> Occurrences:
    """Multipliers of weights and bias in the wrong order."""
    for node in _learning(view):
        specs = list(node.proto.param)
        if len(specs) != 2 or not has_bias(node.proto) or node.type == "BN":
            continue
        (fast, slow), (decay, other) = (
            [getattr(spec, name) for spec in specs] for name in ("lr_mult", "decay_mult")
        )
        if fast == 2 * slow > 0:
            fact = f"lr_mult is {fast:g} for the weights and {slow:g} for the bias"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")
        if decay == 0 and other > 0:
            fact = f"decay_mult is 0 for the weights and {other:g} for the bias"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")


@net_check(
    "learning",
    why="The parameter moves up the gradient, so the loss grows.",
    do="Make it positive; to reverse a gradient on purpose, give the loss a negative weight.",
)
def negative_multiplier(view: View) -> Occurrences:
    """A negative lr_mult or decay_mult."""
    for node in view.nodes if view.is_training else ():
        for index, spec in enumerate(node.proto.param):
            for name in ("lr_mult", "decay_mult"):
                if getattr(spec, name) < 0:
                    fact = f"{node.called}: {name} of param {index} is {getattr(spec, name):g}"
                    yield Occurrence("warning", node.location, fact)


@target_check(
    "learning",
    why="Weight decay pulls every parameter towards 0 unless its decay_mult is 0. For a bias, a "
    "PReLU's slope or the scale after a BatchNorm this is rarely intended; the harm is small.",
    do="param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }.",
)
def decay_on_bias(target: Target) -> Occurrences:
    """Biases with weight decay."""
    view = target.training()
    if view is None or target.solver is None or not target.solver.weight_decay:
        return
    decaying = []
    for node in _learning(view):
        specs = [spec.decay_mult for spec in node.proto.param]
        index = 1 if has_bias(node.proto) and node.type != "Scale" else None
        if index is not None and (specs[index] if len(specs) > index else 1) != 0:
            if not node.lr_mults[index:] or node.lr_mults[index] != 0:
                decaying.append(node.proto.name)
    if decaying:
        names = ", ".join(decaying[:4]) + (f" and {len(decaying) - 4} more" * (len(decaying) > 4))
        fact = f"weight_decay {target.solver.weight_decay:g} pulls on the bias of {names}"
        yield Occurrence("note", text.locate(target.file, "weight_decay"), fact)


@net_check(
    "learning",
    why="A teacher, or a trunk, that is frozen by lr_mult 0 is still in phase TRAIN: BatchNorm "
    "uses the batch's statistics and updates the stored ones, and Dropout is active. Its outputs "
    "differ from those of the trained net.",
    do="Write phase: TEST in these layers (use_global_stats: true for BatchNorm), or name the net "
    "as the solver's teacher, which does it all.",
)
def frozen_but_training(view: View) -> Occurrences:
    """An active BatchNorm or Dropout among layers that are not trained."""
    if not view.learns:
        return
    for node in view.nodes:
        if node.type not in ("BatchNorm", "Dropout") or view.of_teacher(node):
            continue
        if node.proto.HasField("phase") or node.proto.batch_norm_param.use_global_stats:
            continue
        if node.type == "Dropout" and node.proto.dropout_param.dropout_ratio == 0:
            continue
        before = [n for n in node.ancestors() if n.has_blobs and n.type in _MATRICES]
        if before and all(not any(n.lr_mults) for n in before):
            fact = f"{node.called} is in phase TRAIN; the layers before it have lr_mult 0"
            yield Occurrence("warning", node.location, fact)
