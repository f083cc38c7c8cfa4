"""Checks of what a distillation really minimizes: factors, averages, and terms without effect."""

from __future__ import annotations

import math

from ..analysis.gradient import receivers
from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..net.queries import is_data
from ..proto import caffe_pb2 as pb
from ..proto import schedule
from .distilling import distilling_losses, learns
from .findings import Occurrence, Occurrences, net_check, target_check


@net_check(
    "distillation",
    why="These layers of forks handle the temperature differently from DistillingLoss. The "
    "gradient of KnowledgeDistillation has a T^2 that its value lacks, so the logged sum is not "
    "what is minimized; that of TempSoftmaxCrossEntropyLoss is divided by T^2.",
    do="DistillingLoss, which has the T^2 in both; or compare runs by accuracy, and give "
    "TempSoftmaxCrossEntropyLoss a loss_weight of T^2.",
)
def temperature_in_forks(view: View) -> Occurrences:
    """A fork's loss whose value or gradient lacks T^2."""
    for node in distilling_losses(view):
        if node.type == "KnowledgeDistillation" and node.built is not None:
            t = node.built.layer.param.temperature
            if t != 1:
                fact = f"the value lacks the factor {t:g}^2 = {t * t:g} that the gradient has"
                yield Occurrence("note", node.location, f"{node.called}: {fact}")
    for node in view.losses if view.learns else ():
        if node.type == "TempSoftmaxCrossEntropyLoss":
            t, weight = node.proto.tempsoftmax_param.temperature, sum(view.loss_weights(node))
            if 0 < weight < t * t / 2:
                fact = (
                    f"the gradient is divided by {t:g}^2 = {t * t:g}, and loss_weight is {weight:g}"
                )
                yield Occurrence("warning", node.location, f"{node.called}: {fact}")


@net_check(
    "distillation",
    why="The divergence of a sample is a sum over its classes. If it is averaged over them too, "
    "the term is as many times smaller: the more classes, the less the teacher's weight.",
    do="Sum over the classes and divide by the samples, as DistillingLoss does.",
)
def mean_over_classes(view: View) -> Occurrences:
    """A distillation term that is divided by the number of classes."""
    for node in distilling_losses(view):
        axis = getattr(node.built.layer, "class_axis", None) if node.built is not None else None
        if axis is None or node.built is None:
            continue
        classes, weight = node.built.bottom_shapes[0][axis], sum(view.loss_weights(node))
        if axis == 0:
            fact = f"axis 0 is the batch: the softmax is over its {classes} samples"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")
        elif classes > 2 and math.isclose(weight, 1 / classes, rel_tol=1e-3):
            fact = f"loss_weight {weight:g} is one over its {classes} classes"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")
    for node in view.losses if view.learns else ():
        is_mean = node.proto.reduction_param.operation == pb.ReductionParameter.MEAN
        if node.type != "Reduction" or not is_mean or node.built is None:
            continue
        shape = node.built.bottom_shapes[0]
        if len(shape) > 1 and math.prod(shape[1:]) > 1 and _of_both(view, node):
            fact = f"averages over {math.prod(shape[1:])} values of a sample, not only over samples"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")


def _of_both(view: View, node: Node) -> bool:
    """Return whether a value depends on a teacher and on trained layers."""
    before = [n for n in node.ancestors() if n.has_blobs]
    frozen = any(view.of_teacher(n) or not any(n.lr_mults) for n in before)
    return frozen and any(any(n.lr_mults) for n in before)


@net_check(
    "distillation",
    why="A term without a gradient to any parameter costs time, and its value in the log misleads.",
    do="Give it a weight, and let gradients pass from its first bottom to the student: no "
    "propagate_down: false on the way.",
)
def term_without_effect(view: View) -> Occurrences:
    """A distillation loss without effect: by its schedule, or as its gradient reaches nothing."""
    for node in distilling_losses(view):
        weights = view.loss_weights(node)
        if not any(weights):
            continue  # reported by zero_loss_weight
        points = node.proto.loss_weight_schedule
        if points.point and schedule.fault(points) is None and _always_zero(points, view):
            fact = "loss_weight_schedule is 0 in all iterations"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")
        elif learns(node.parents[0]) and not set(_ids(receivers(view, node))) - {id(node)}:
            fact = f"no gradient of it reaches the layers that make '{node.proto.bottom[0]}'"
            yield Occurrence("error", node.location, f"{node.called}: {fact}")


def _ids(nodes: list[Node]) -> list[int]:
    return [id(node) for node in nodes]


def _always_zero(points: object, view: View) -> bool:
    last = view.solver.max_iter - 1 if view.solver is not None and view.solver.max_iter else 0
    ends = [p.iter for p in points.point if p.iter <= last]  # type: ignore[attr-defined]
    return not any(schedule.value_at(points, i) for i in [0, *ends, last])


@net_check(
    "distillation",
    why="If a parameter has an lr_mult above 0, weight decay pulls it towards 0 in each iteration, "
    "even without a gradient: the weights of a teacher inside the net shrink during training.",
    do="Name it as the solver's teacher { net weights }; or param { lr_mult: 0 decay_mult: 0 }.",
)
def decay_on_teacher(view: View) -> Occurrences:
    """A teacher with weight decay."""
    decay = view.solver.weight_decay if view.solver is not None else 0
    for node in distilling_losses(view) if decay else ():
        with_gradient = {id(n) for loss in view.losses for n in receivers(view, loss)}
        for layer in [node.parents[1], *node.ancestors(1)]:
            if layer is None or not layer.has_blobs or id(layer) in with_gradient:
                continue
            decays = [spec.decay_mult for spec in layer.proto.param]
            decays += [1.0] * (len(layer.lr_mults) - len(decays))
            if any(lr and d for lr, d in zip(layer.lr_mults, decays, strict=True)):
                fact = f"weight_decay {decay:g} shrinks it, and no gradient compensates"
                yield Occurrence("warning", layer.location, f"{layer.called}: {fact}")


@net_check(
    "distillation",
    why="The recorded outputs are for other crops of the images than the student gets: its targets "
    "are wrong.",
    do="Take mirror, crop_size, jitter and shuffle out of the layer, or run the teacher "
    "as the solver's teacher { net weights }.",
)
def recorded_outputs_of_other_crops(view: View) -> Occurrences:
    """A teacher's outputs from a database with images that are augmented at random."""
    for node in distilling_losses(view):
        source = node.source(1)
        if source is None or not is_data(source.proto):
            continue
        for images in view.data:
            random = _random(images)
            if images is not source and random and images in node.ancestors(0):
                fact = f"{images.called} has {random}; '{node.proto.bottom[1]}' is recorded"
                yield Occurrence("warning", images.location, f"{fact} ({source.called})")


@net_check(
    "distillation",
    why="Samples are augmented at random, so the teacher's outputs cannot be cached: it runs on "
    "each batch, as it should. -teacher_cache memory and disk are refused.",
    do="Nothing, if the augmentation is wanted; without it the cache saves the teacher's time.",
)
def teacher_not_cached(view: View) -> Occurrences:
    """Random augmentation before a frozen teacher."""
    if not view.learns or not view.teachers:
        return
    for node in view.data:
        random = _random(node, with_order=False)
        fed = [n for n in view.nodes if view.of_teacher(n) and node in n.ancestors()]
        if random and fed:
            yield Occurrence("note", node.location, f"{node.called}: {random} before the teacher")


def _random(node: Node, with_order: bool = True) -> str:
    """Return the settings that augment samples at random, or shuffle them."""
    transform = node.proto.transform_param
    given = {
        "mirror": transform.mirror,
        "a random crop": transform.crop_size,
        "jitter": transform.jitter,
        "shuffle": with_order and _shuffles(node),
    }
    return " and ".join(name for name, on in given.items() if on)


def _shuffles(node: Node) -> bool:
    return bool(node.proto.image_data_param.shuffle or node.proto.hdf5_data_param.shuffle)


@target_check(
    "distillation",
    why="A loss that is left out of the solver's train net is never minimized, whatever its "
    "weight.",
    do="Remove the TEST rule, or give the solver the train_state that the rule asks for.",
)
def loss_not_in_train(target: Target) -> Occurrences:
    """A distillation loss whose rules leave it out of TRAIN."""
    view = target.training()
    if view is None or not view.teachers or distilling_losses(view):
        return
    for other in target.layers:
        compares = any(b.startswith(f"{name}/") for name in view.teachers for b in other.bottom)
        ours = any(other.name.startswith(f"{name}/") for name in view.teachers)
        if compares and not ours and other.type.endswith(("Loss", "Distillation")):
            if other.name not in {n.proto.name for n in view.nodes}:
                fact = f"layer '{other.name}' ({other.type}) is left out of TRAIN by its rules"
                yield Occurrence("error", other.source_line, fact)
