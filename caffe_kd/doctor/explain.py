"""The objective that a solver really optimizes: its terms, their formulas, and what they train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..analysis.gradient import receivers
from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..core.tables import text_table
from ..layers import formula, layer_types
from ..proto import caffe_pb2 as pb
from ..proto import schedule, text
from ..solver.callbacks.slimming import scaling_layers
from .examine import findings_of
from .findings import Finding
from .quantizing import quantized

# Besides all distillation checks and all errors: those that change what is distilled.
_OTHER_CHECKS = {
    "zero_loss_weight",
    "softmax_twice",
    "frozen_but_training",
    "weights_missing",
    "data_absent",
    "python_layer",
}
_MOST_NAMES = 12


@dataclass
class Term:
    """A term of the objective.

    Attributes:
        node: the layer.
        top: its top with the loss.
        weight: its factor; with a schedule the factor before the schedule's.
        formula: lines with the layer's values.
        temperature: as text; empty if the type has none.
        reduction: as text; empty if the layer could not be built.
        schedules: a line for each stage of each scheduled setting.
        with_gradient: the layers whose parameters get its gradient, by their owner; empty for a
            teacher that only gives values.
        without_gradient: the student's trained layers that get none from this term.
    """

    node: Node
    top: str
    weight: float
    formula: list[str]
    temperature: str
    reduction: str
    schedules: list[str]
    with_gradient: dict[str, list[str]]
    without_gradient: list[str]


@dataclass
class Objective:
    """The loss of a net, in one phase and its stages.

    Attributes:
        view: the net.
        terms: the terms.
        left_out: losses of other phases or stages: layer, location, and the rule.
        decays: the layers that weight decay acts on, by their owner.
        slimmed: those whose factors slimming acts on, by their owner.
    """

    view: View
    terms: list[Term]
    left_out: list[str] = field(default_factory=list)
    decays: dict[str, list[str]] = field(default_factory=dict)
    slimmed: dict[str, list[str]] = field(default_factory=dict)


def objectives(target: Target) -> list[Objective]:
    """Return the objective of each net of a target; the one that is trained comes first."""
    return [_objective(target, view) for view in target.views]


def findings(target: Target) -> list[Finding]:
    """Return the doctor's findings about the objective; errors first."""
    return [
        finding
        for finding in findings_of(target)
        if finding.check.theme == "distillation"
        or finding.occurrence.severity == "error"
        or finding.check.name in _OTHER_CHECKS
    ]


def _objective(target: Target, view: View) -> Objective:
    terms = [
        _term(target, view, node, index, weight)
        for node in view.losses
        for index, weight in enumerate(view.loss_weights(node))
        if weight
    ]
    decaying = [n for n in view.nodes if view.learns and any(_decays(n))]
    names = {(n.proto.name, n.location) for n in view.nodes}
    left_out = [
        _left_out(layer)
        for layer in target.layers
        if (layer.name, layer.source_line) not in names and _is_loss(layer)
    ]
    return Objective(
        view,
        terms,
        left_out,
        decays=_by_owner(target, view, decaying),
        slimmed=_by_owner(target, view, [n for n in decaying if _is_slimmed(target, view, n)]),
    )


def _is_loss(layer: Any) -> bool:
    kind = layer_types().get(layer.type)
    return any(layer.loss_weight) or bool(kind and kind.is_loss and not layer.loss_weight)


def _left_out(layer: Any) -> str:
    rules = pb.LayerParameter(include=layer.include, exclude=layer.exclude)
    rule = " ".join(text.to_text(rules).split())
    return f"'{layer.name}' ({layer.type}), {layer.source_line}: {rule or 'no rule'}"


def _decays(node: Node) -> list[bool]:
    """Return for each blob of a layer whether it learns and has a decay_mult."""
    decays = [spec.decay_mult for spec in node.proto.param]
    decays += [1.0] * (len(node.lr_mults) - len(decays))
    pairs = zip(node.lr_mults, decays, strict=False) if node.has_blobs else []
    return [bool(rate and decay) for rate, decay in pairs]


def _is_slimmed(target: Target, view: View, node: Node) -> bool:
    is_factor = node.proto.name in scaling_layers(view.param.layer)
    return is_factor and _decays(node)[0] and _owner(target, view, node) == "student"


def _term(target: Target, view: View, node: Node, index: int, weight: float) -> Term:
    tops = list(node.proto.top) or [node.proto.name]  # an automatic top has no name
    with_gradient = receivers(view, node) if view.learns else []
    learning = [n for n in view.nodes if n.has_blobs and any(n.lr_mults)]
    without_gradient = [
        n.proto.name
        for n in learning
        if n not in with_gradient and _owner(target, view, n) == "student" and view.learns
    ]
    lines, reduction = _formula(node)
    return Term(
        node=node,
        top=tops[index],
        weight=weight,
        formula=lines,
        temperature=_temperature(node),
        reduction=reduction,
        schedules=_schedules(node),
        with_gradient=_by_owner(target, view, with_gradient)
        | _detached(target, view, node, with_gradient),
        without_gradient=without_gradient,
    )


def _detached(
    target: Target, view: View, node: Node, with_gradient: Sequence[Node]
) -> dict[str, list[str]]:
    """Return the teachers that a term takes values from without giving them a gradient."""
    owners = {_owner(target, view, n) for n in node.ancestors() if view.of_teacher(n)}
    return {
        owner: [] for owner in sorted(owners - {_owner(target, view, n) for n in with_gradient})
    }


def _formula(node: Node) -> tuple[list[str], str]:
    if node.built is not None:
        layer, shapes = node.built.layer, node.built.bottom_shapes
        with layer.naming("explain"):
            return layer.explain(shapes), formula.reduction(layer, shapes)
    kind = layer_types().get(node.type)
    if node.type == "Python" or kind is None:
        return ["unknown: its code is not run here"], ""
    return [*formula.of_docstring(kind.__doc__), "(its values are not known: see below)"], ""


def _param(node: Node) -> Any:
    if node.built is not None:
        return node.built.layer.settings
    kind = layer_types().get(node.type)
    return kind.settings_in(node.proto) if kind is not None else None


def _temperature(node: Node) -> str:
    param = _param(node)
    names = param.DESCRIPTOR.fields_by_name if param is not None else ()
    if "temperature" not in names or node.type == "SoftmaxWithLoss":
        return ""
    if "temperature_schedule" in names and param.HasField("temperature_schedule"):
        return "by temperature_schedule"
    given = "" if param.HasField("temperature") else " (the default)"
    return f"{param.temperature:g}{given}"


def _schedules(node: Node) -> list[str]:
    lines = []
    for message in (node.proto, _param(node)):
        for known, value in message.ListFields() if message is not None else ():
            if known.message_type is pb.ScheduleParameter.DESCRIPTOR:
                if schedule.fault(value) is None:
                    starts = sorted({0, *(p.iter for p in value.point)})
                    lines += [
                        f"{known.name}, iteration {i}: {schedule.outlook(value, i)}" for i in starts
                    ]
    return lines


def _owner(target: Target, view: View, node: Node) -> str:
    """Return a layer's owner: a teacher, the student, or the distiller."""
    name = node.proto.name
    teacher = next((t for t in view.teachers if name.startswith(f"{t}/")), None)
    if teacher is not None:
        return f"teacher '{teacher}'"
    own = target.student if target.student is not None else view.param
    return "student" if any(layer.name == name for layer in own.layer) else "distiller"


def _by_owner(target: Target, view: View, nodes: Sequence[Node]) -> dict[str, list[str]]:
    owners: dict[str, list[str]] = {}
    for node in nodes:
        owners.setdefault(_owner(target, view, node), []).append(node.proto.name)
    return owners


# ---- as text


def as_text(target: Target, notes: Sequence[str] = ()) -> Iterator[str]:
    """Yield the lines that explain a solver's or a net's objective.

    Args:
        target: the solver or net.
        notes: more lines about the run, printed after its teachers.
    """
    yield f"{target.file}"
    yield from _teachers_as_text(target)
    yield from _rounding_as_text(target)
    yield from notes
    seen: list[list[str]] = []
    for objective in objectives(target):
        lines = list(_objective_as_text(target, objective))
        if lines not in seen:
            yield ""
            yield from lines
        seen.append(lines)


def _teachers_as_text(target: Target) -> Iterator[str]:
    view = target.training()
    for name in view.teachers if view is not None else ():
        nodes = [n for n in view.nodes if n.proto.name.startswith(f"{name}/")]  # type: ignore[union-attr]
        learning = [n.proto.name for n in nodes if n.has_blobs and any(n.lr_mults)]
        gets = "no gradient" if not learning else f"TRAINED: {', '.join(learning)}"
        path = (
            next((t.path for t in target.plan.teachers if t.name == name), None)
            if target.plan
            else None
        )
        weights = f"weights {path}, " if path else ""
        yield f"teacher '{name}': {weights}{len(nodes)} layers in phase TEST, {gets}"


def _rounding_as_text(target: Target) -> Iterator[str]:
    layers: dict[tuple[int, int], list[str]] = {}
    for name, bits in quantized(target).items():
        layers.setdefault(bits, []).append(name)
    for (read, weights), names in layers.items():
        yield f"quantised: {_listed(names)}: reads {read} bits, weights of {weights} bits"


def _objective_as_text(target: Target, objective: Objective) -> Iterator[str]:
    view = objective.view
    stages = ", ".join(view.param.state.stage) or _stages(target, view)
    phase = view.phase_name + (f", stage {stages}" if stages else "")
    does = "what is minimised" if view.learns else "computed without training"
    sums = [f"{_weight(t)} * {t.top}" for t in objective.terms] or ["no loss"]
    yield f"{phase}: {does}"
    yield f"  objective = {' + '.join(sums)}"
    if view.learns:
        yield from _decay_as_text(target, objective)
        for term in objective.terms:
            yield ""
            yield from _term_as_text(term)
    for line in objective.left_out:
        yield f"  left out in {view.phase_name}: {line}"


def _stages(target: Target, view: View) -> str:
    """Return the stages that the solver gives a net."""
    if target.solver is None:
        return ""
    state = (
        target.solver.train_state
        if view.is_training
        else next(iter(target.solver.test_state), None)
    )
    return ", ".join(state.stage) if state is not None else ""


def _weight(term: Term) -> str:
    scheduled = term.node.proto.HasField("loss_weight_schedule")
    return f"{term.weight:g}" + (" * loss_weight_schedule" if scheduled else "")


def _decay_as_text(target: Target, objective: Objective) -> Iterator[str]:
    solver = target.solver
    if solver is None:
        return
    size = "|w|" if solver.regularization_type == "L1" else "w^2 / 2"
    yield from _penalty(solver, "weight_decay", size, objective.decays)
    yield from _penalty(solver, "slimming", "|gamma|", objective.slimmed)


def _penalty(solver: Any, field: str, size: str, layers: dict[str, list[str]]) -> Iterator[str]:
    """Describe a penalty on weights whose strength a field of the solver gives."""
    strength = getattr(solver, field)
    if strength and layers:
        yield f"    + {strength:g} * sum of decay_mult * {size} ({field}) over"
        for owner, names in layers.items():
            yield f"        {owner}: {_listed(names)}"


def _term_as_text(term: Term) -> Iterator[str]:
    node = term.node
    yield f"  {term.top}: {node.called}, {node.location}"
    rows = [("formula", line) for line in term.formula]
    rows += [("bottoms", _bottoms(node))]
    rows += [("averages", line) for line in _averages(node)]
    rows += [("weight", _weight(term) + ("" if node.proto.loss_weight else " (the default)"))]
    rows += [("schedule", line) for line in term.schedules]
    rows += [("temperature", term.temperature), ("reduction", term.reduction)]
    is_known = node.built is not None
    if not is_known:
        rows.append(("gradient to", "not known: see below"))
    elif not any(term.with_gradient.values()):
        rows.append(("gradient to", "none"))
    for owner, names in term.with_gradient.items() if is_known else ():
        rows.append(("gradient to", f"{owner}: {_listed(names) or 'none'}"))
        if owner == "student" and term.without_gradient:
            rows.append(("gradient to", f"    not {_listed(term.without_gradient)}"))
    shown = [row for row in rows if row[1]]
    names = ["", *(name for name, _ in shown)]
    table = [
        ["" if name == before else name, value]
        for before, (name, value) in zip(names, shown, strict=False)
    ]
    yield from (f"    {line}" for line in text_table(table, right=()))


def _averages(node: Node) -> Iterator[str]:
    """Describe the average of each TeacherEnsemble among the bottoms."""
    for parent in node.parents:
        if parent is None or parent.type != "TeacherEnsemble":
            continue
        param, names = parent.proto.teacher_ensemble_param, list(parent.proto.bottom)
        weights = list(param.weight) or [1.0] * len(names)
        shares = ", ".join(
            f"{weight / (sum(weights) or 1):.3g} of {name}"
            for weight, name in zip(weights, names, strict=False)
        )
        what = "the logits (a geometric mean of the probabilities, at any temperature)"
        if param.mean == pb.TeacherEnsembleParameter.PROBABILITIES:
            what = f"the probabilities softened at temperature {_temperature(parent)}"
        yield f"'{parent.proto.name}' (TeacherEnsemble) averages {what}: {shares}"


def _bottoms(node: Node) -> str:
    shapes = node.built.bottom_shapes if node.built is not None else [()] * len(node.proto.bottom)
    sizes = [" x ".join(map(str, shape)) for shape in shapes]
    pairs = zip((b for b in node.proto.bottom if b), sizes, strict=False)
    return ", ".join(f"{name} ({size})" if size else name for name, size in pairs)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown + (f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else "")
