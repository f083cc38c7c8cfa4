"""Checks of distillation: its student and teacher, their weights, and the temperature."""

from __future__ import annotations

import math
from typing import Any

from ..analysis.gradient import receivers
from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..layers import layer_types
from ..net.exchanged import exchanged
from ..net.queries import called, is_data, shown
from ..proto import caffe_pb2 as pb
from .findings import Occurrence, Occurrences, net_check, target_check

_LOSSES = {"DistillingLoss", "KnowledgeDistillation"}
_HARD = {"SoftmaxWithLoss", "SoftmaxLoss"}
_HIGH_TEMPERATURE = 20


def distilling_losses(view: View) -> list[Node]:
    """Return the losses between student and teacher of a net that is trained."""
    return [node for node in view.nodes if view.learns and _compares(node)]


def _compares(node: Node) -> bool:
    """Return whether a loss has a teacher as its second bottom, and gives it no gradient."""
    kind = layer_types().get(node.type)
    if kind is None or len(node.parents) < 2 or any(list(node.proto.propagate_down)[1:2]):
        return False
    is_ours = kind.origin == "caffe_kd" and kind.is_loss and 1 in kind.constant_bottoms
    return is_ours or node.type in _LOSSES


def learns(node: Node | None) -> bool:
    """Return whether a layer, or one of its ancestors, has trainable parameters."""
    if node is None:
        return False
    return any(any(n.lr_mults) and n.has_blobs for n in [node, *node.ancestors()])


@net_check(
    "distillation",
    why="The first bottom is the student's, the second the teacher's; gradients go only to "
    "the first. If both are the same, or swapped, the student learns nothing from the teacher.",
    do='bottom: "<student\'s logits>" bottom: "teacher/<teacher\'s logits>".',
)
def student_as_teacher(view: View) -> Occurrences:
    """A DistillingLoss whose teacher is the student, or whose bottoms are swapped."""
    for node in distilling_losses(view):
        student, teacher = node.proto.bottom[:2]
        if student == teacher:
            yield Occurrence("error", node.location, f"{node.called}: both bottoms are '{student}'")
    nodes = [node.built for node in view.nodes if node.built is not None]
    for loss, student, teacher in exchanged(nodes) if view.learns else ():
        proto = loss.layer.proto
        fact = f"layers that lead to '{teacher}' are trained, none that leads to '{student}' is"
        yield Occurrence("error", proto.source_line, f"{called(proto)}: {fact}")


@net_check(
    "distillation",
    why="A teacher that has been trained, or that no loss trains, should not change. This loss "
    "gives it no gradient, but other losses and weight decay change it.",
    do="Name the net as the solver's teacher { net weights }, which freezes it; or write "
    "param { lr_mult: 0 decay_mult: 0 } for each of its parameters. If both should learn from "
    "each other, give propagate_down: true for both.",
)
def unfrozen_teacher(view: View) -> Occurrences:
    """A teacher with trainable parameters that is not trained along with the student."""
    for node in distilling_losses(view):
        student = _learning(node, 0)
        own = [n for n in _learning(node, 1) if n not in student]
        if own and student and not _is_trained_along(view, node, own):
            names = ", ".join(f"'{n.proto.name}'" for n in own[:4])
            fact = f"layers that lead to its teacher '{node.proto.bottom[1]}' are trained: {names}"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")


def _learning(node: Node, bottom: int) -> list[Node]:
    """Return the layers that lead to a bottom and have trainable parameters."""
    return [n for n in node.ancestors(bottom) if n.has_blobs and any(n.lr_mults)]


def _is_trained_along(view: View, loss: Node, teacher: list[Node]) -> bool:
    """Return whether the layers that lead only to a loss's teacher are meant to be trained.

    They are if another loss trains them: a net that learns together with the student, a deeper
    exit or another branch of the student. They are not if they are a teacher's by name, or if only
    they have been trained before.
    """
    if any(view.of_teacher(n) for n in teacher):
        return False
    reached = [n for other in view.losses if other is not loss for n in receivers(view, other)]
    if not any(n in reached for n in teacher):
        return False
    student = _learning(loss, 0)
    return any(map(view.has_weights, student)) or not any(map(view.has_weights, teacher))


@net_check(
    "distillation",
    why="alpha is the weight of the teacher's loss, 1 - alpha that of the labels'.",
    do="0.9 is usual; leave the label out to learn only from the teacher.",
)
def alpha_at_the_end(view: View) -> Occurrences:
    """An alpha of 0 or 1."""
    for node in distilling_losses(view):
        if node.type != "DistillingLoss" or len(node.parents) < 3:
            continue
        alpha = node.proto.distilling_loss_param.alpha
        if alpha == 0:
            yield Occurrence(
                "warning", node.location, f"{node.called}: alpha is 0: the teacher has no effect"
            )
        elif alpha == 1:
            yield Occurrence(
                "note", node.location, f"{node.called}: alpha is 1: the labels have no effect"
            )


@net_check(
    "distillation",
    why="The gradient of softened outputs shrinks as 1 / T^2. Multiplied by T^2 it keeps its size; "
    "without it the teacher's loss becomes negligible, and with it twice the labels' loss does.",
    do="scale_by_temperature: true (the default) and a loss_weight that has no T^2 in it.",
)
def temperature_squared(view: View) -> Occurrences:
    """A factor T^2 that is missing, or applied twice."""
    for node in distilling_losses(view):
        param = node.proto.distilling_loss_param
        temperature, weight = param.temperature, sum(view.loss_weights(node))
        if node.type != "DistillingLoss" or temperature == 1 or _is_mse(param):
            continue
        square = temperature**2
        if not param.scale_by_temperature and weight < square / 2:
            fact = f"scale_by_temperature is false and loss_weight {weight:g}, at temperature "
            yield Occurrence("warning", node.location, f"{node.called}: {fact}{temperature:g}")
        elif param.scale_by_temperature and math.isclose(weight, square, rel_tol=1e-3):
            fact = f"loss_weight {weight:g} is T^2, which the layer applies itself"
            yield Occurrence("warning", node.location, f"{node.called}: {fact}")
    for node in view.nodes if view.learns else ():
        temperature = node.proto.softmax_with_temperature_param.temperature
        if node.type != "SoftmaxWithTemperature" or temperature <= 1 or view.of_teacher(node):
            continue
        for child in node.children:
            weight = sum(view.loss_weights(child))
            if child.is_loss and 0 < weight < temperature**2 / 2 and learns(node):
                fact = f"takes outputs softened at {temperature:g} with loss_weight {weight:g}"
                yield Occurrence("warning", child.location, f"{child.called} {fact}")


def _is_mse(param: Any) -> bool:
    return bool(param.divergence == pb.DistillingLossParameter.MSE)


@net_check(
    "distillation",
    why="At 1 the teacher's outputs are nearly as hard as labels; at high temperatures only the "
    "logits' differences count. MSE uses no temperature.",
    do="2 to 20; lower for small students.",
)
def temperature(view: View) -> Occurrences:
    """A temperature that is 1, very high, or without effect."""
    for node in distilling_losses(view):
        if node.type not in _LOSSES:
            continue
        is_ours = node.type == "DistillingLoss"
        param = node.proto.knowledge_distillation_param
        if is_ours:
            param = node.proto.distilling_loss_param
        elif node.proto.HasField("Knowledge_distillation_param"):  # the spelling of one fork
            param = node.proto.Knowledge_distillation_param
        if is_ours and _is_mse(param):
            if param.HasField("temperature"):
                yield Occurrence("note", node.location, f"{node.called}: MSE uses no temperature")
        elif param.temperature == 1:
            yield Occurrence("note", node.location, f"{node.called}: the temperature is 1")
        elif param.temperature > _HIGH_TEMPERATURE:
            yield Occurrence(
                "note", node.location, f"{node.called}: the temperature is {param.temperature:g}"
            )


@net_check(
    "distillation",
    why="With two classes there is only one besides the label, whose share is always 1: "
    "the term that beta multiplies is 0 for every sample, and so is its gradient.",
    do="Use DistillingLoss; with two classes the first term of DecoupledDistillingLoss is all "
    "there is.",
)
def decoupled_of_two_classes(view: View) -> Occurrences:
    """A DecoupledDistillingLoss on two classes, whose second term is always 0."""
    for node in distilling_losses(view):
        if node.type != "DecoupledDistillingLoss" or node.built is None:
            continue
        param, shape = node.proto.decoupled_distilling_loss_param, node.built.bottom_shapes[0]
        if shape[param.axis] == 2:
            fact = f"{node.called}: 2 classes, so that the term with beta {param.beta:g} is 0"
            yield Occurrence("warning", node.location, fact)


@net_check(
    "distillation",
    why="With a label a DistillingLoss includes (1 - alpha) of the labels' loss; with another loss "
    "of full weight the teacher's share is less than alpha.",
    do="Leave the student's own loss out during distillation, by exclude { phase: TRAIN stage: "
    '"distil" } and a train_state in the solver; or remove the label from the DistillingLoss.',
)
def labels_twice(view: View) -> Occurrences:
    """The labels' loss both in the DistillingLoss and as a separate loss."""
    for node in distilling_losses(view):
        if node.type != "DistillingLoss" or len(node.parents) < 3:
            continue
        if node.proto.distilling_loss_param.alpha == 1:
            continue
        for other in view.losses:
            if other.type in _HARD and list(other.proto.bottom) == list(node.proto.bottom)[::2]:
                fact = f"{other.called} and {node.called} both use the labels"
                yield Occurrence("warning", other.location, fact)


@target_check(
    "distillation",
    why="The teacher gets the student's data. If it was trained on pixels of another scale or "
    "mean, its outputs are wrong.",
    do="Give both nets the same transform_param, or train the teacher again.",
)
def teacher_sees_other_data(target: Target) -> Occurrences:
    """A teacher whose own data layer has another scale or mean than the student's."""
    view = target.training()
    if view is None:
        return
    mine = {top: node.proto for node in view.data for top in node.proto.top[:1]}
    for name, net in target.teachers:
        for layer in net.layer:
            own = mine.get(layer.top[0]) if is_data(layer) and layer.top else None
            if own is None or own.type != layer.type:
                continue
            for field in ("scale", "mean_file", "mean_value"):
                here, there = (getattr(x.transform_param, field) for x in (own, layer))
                if here != there:
                    fact = f"teacher '{name}' was written for {field} {shown(there)}, and gets "
                    position = f"{shown(here)} ({own.source_line})"
                    yield Occurrence("warning", layer.source_line, fact + position)


@target_check(
    "distillation",
    why="The solver names a teacher, but no trained layer uses it.",
    do='Name its blobs in a DistillingLoss, as bottom: "teacher/<blob>", in the distiller_net.',
)
def teacher_unused(target: Target) -> Occurrences:
    """A teacher whose outputs no loss uses in TRAIN."""
    view = target.training()
    if view is None or not view.teachers:
        return
    # One that gives a layer need not be used; without a name it is the only one.
    giving = {entry.teacher or view.teachers[0] for entry in view.solver.inject}
    for name in view.teachers:
        used = name in giving or any(
            b.startswith(f"{name}/")
            for node in view.nodes
            if not view.of_teacher(node)
            for b in node.proto.bottom
        )
        if not used:
            yield Occurrence(
                "error", target.where("teacher"), f"no layer of TRAIN takes a blob of '{name}'"
            )
