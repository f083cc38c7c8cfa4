"""What the doctor examines: a net's or a solver's file, and the nets that come of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError, ParseError
from ..core.files import find
from ..layers import Shape
from ..net.queries import blob_count, is_source
from ..proto import bundle, text
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights
from ..proto.compose import Teacher, compose
from ..proto.filter import filter_net
from ..proto.upgrade import Notes, upgrade_net, upgrade_solver
from ..solver.plan import Overrides, TrainingPlan, read_plan
from .shape_inference import infer_shapes
from .view import View

Weights = list[tuple[str, list[LayerWeights]]]


@dataclass
class Target:
    """A file and what could be read of it.

    Attributes:
        file: the file.
        solver: its SolverParameter, if it is a solver's.
        plan: what the solver is about to do; None if that failed.
        views: the nets, each in each phase that it has data or inputs for.
        layers: the layers of all phases, before any is left out.
        teachers: the solver's teachers, as their own files have them.
        unplanned: why there is no plan.
        missing: weights that the solver names and that are not there, in words.
        upgrades: what of the files is in an old format.
        parts: the names of nets that have no data of their own.
        student: the net that a solver trains, as its file has it.
    """

    file: Path
    solver: Any = None
    plan: TrainingPlan | None = None
    views: list[View] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    teachers: list[tuple[str, Any]] = field(default_factory=list)
    unplanned: CaffeKDError | None = None
    missing: list[str] = field(default_factory=list)
    upgrades: Notes = field(default_factory=Notes)
    student: Any = None
    parts: list[str] = field(default_factory=list)

    def where(self, name: str) -> str:
        """Return ``file:line`` of a field of the solver."""
        return text.locate(self.file, name)

    def training(self) -> View | None:
        """Return the net that the solver trains."""
        return next((v for v in self.views if v.is_training), None)


@dataclass
class ReadOptions:
    """What the doctor knows beside the file.

    Attributes:
        weights: a file of weights to start from.
        shapes: shapes of samples where data is absent; see ``infer_shapes``.
        level: the net's level.
        stages: the net's stages.
    """

    weights: str | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    level: int = 0
    stages: Sequence[str] = ()


def read_target(path: str | Path, options: ReadOptions | None = None) -> Target:
    """Read a net's or solver's prototxt of any format version, and examine its nets.

    Args:
        path: the file; its fields decide whether it is a net or a solver.
        options: weights, shapes, level and stages beside the file.

    Raises:
        ParseError: the file is neither.
        NetError: a net's layers are of mixed formats or have include and exclude rules.
    """
    target, options = Target(Path(path)), options or ReadOptions()
    nets, solver = _parsed(path)
    loaded = [(options.weights, read_weights(options.weights))] if options.weights else []
    if solver is None:
        for net in nets:
            current = upgrade_net(net, str(path), target.upgrades)
            target.layers += current.layer
            if _is_part(current, len(nets)):
                target.parts.append(current.name)
            else:
                target.views += _views(current, target.file, loaded, options)
        return target
    target.solver = upgrade_solver(solver, str(path), target.upgrades)
    _read_solver(target, loaded, options)
    return target


def _is_part(net: Any, nets: int) -> bool:
    """Return whether a net has no data of its own, since others in a run have it.

    Such are one of several nets in a file, one that compares student and teacher, and one that is
    losses alone.
    """
    has_source = any(map(is_source, net.layer))
    made = {top for layer in net.layer for top in layer.top}
    others = {bottom for layer in net.layer for bottom in layer.bottom} - made
    distils = any("/" in bottom for bottom in others) or any(
        layer.type == "DistillingLoss" for layer in net.layer
    )
    judges = all(layer.type.endswith("Loss") for layer in net.layer)
    return not has_source and (distils or judges or nets > 1)


def _parsed(path: str | Path) -> tuple[list[Any], Any]:
    """Return a file's nets, or its solver; of two errors the one further down is the right one."""
    errors = []
    try:
        nets = list(bundle.read(path).nets.values())
        if any(net.layer or net.layers or net.input for net in nets):
            return nets, None
    except ParseError as error:
        errors.append(error)
    try:
        solver = text.read(path, pb.SolverParameter())
        if errors or solver.ListFields():
            return [], solver
    except ParseError as error:
        errors.append(error)
    if not errors:
        raise ParseError("holds neither a net nor a solver", str(path))
    raise max(errors, key=_line)


def _line(error: ParseError) -> int:
    line = (error.where or "").rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _views(net: Any, file: Path, loaded: Weights, options: ReadOptions) -> Iterable[View]:
    """Look at a net in each phase that it has a source of data for."""
    has_phases = any(
        rule.HasField("phase") for layer in net.layer for rule in (*layer.include, *layer.exclude)
    )
    stages = [*net.state.stage, *options.stages]
    level = options.level or net.state.level
    params = {
        phase: filter_net(net, pb.NetState(phase=phase, level=level, stage=stages))
        for phase in (pb.TRAIN, pb.TEST)
    }
    fed = [p for p, param in params.items() if any(map(is_source, param.layer))]
    for phase in fed or params:
        found = infer_shapes(params[phase], phase, file, options.shapes, net)
        yield View(params[phase], phase, file, found, loaded, is_meant=has_phases)


def _read_solver(target: Target, loaded: Weights, options: ReadOptions) -> None:
    overrides = Overrides(
        weights=[options.weights] if options.weights else [],
        level=options.level,
        stages=options.stages,
    )
    try:
        target.plan = read_plan(target.file, overrides)
    except CaffeKDError as error:
        target.unplanned = error
        _look_without_plan(target, loaded, options)
        return
    plan = target.plan
    target.upgrades.lines += [x for x in plan.notes if x.startswith("Attempting to upgrade")]
    target.layers = list(plan.composed.layer)
    target.student = plan.student
    target.teachers = _teachers(target, Notes())
    start: Weights = []
    for path in plan.student_weights:
        if path.exists():
            start.append((str(path), read_weights(path)))
        else:
            target.missing.append(f"the weights '{path}'")
    for teacher in plan.teachers:
        prefix = f"{teacher.name}/"
        renamed = [replace(w, name=prefix + w.name) for w in teacher.layers]
        start.append((str(teacher.path), renamed))
    names = plan.frozen_names
    for phase, nets in ((pb.TRAIN, [plan.train]), (pb.TEST, plan.tests)):
        for net in nets:
            found = infer_shapes(net.param, phase, net.file, options.shapes)
            view = View(net.param, phase, net.file, found, start, plan.solver, names)
            target.views.append(view)


def _look_without_plan(target: Target, loaded: Weights, options: ReadOptions) -> None:
    """Examine what there is of a solver's nets, although it could not be planned.

    A teacher whose weights are missing is added with its net alone.
    """
    solver = target.solver
    path = solver.net or solver.train_net
    for entry in solver.teacher:
        if entry.weights and not os.path.exists(find(entry.weights, target.file)):
            target.missing.append(f"the teacher's weights '{entry.weights}'")
    models = [entry.net for entry in solver.teacher if entry.net.endswith(".onnx")]
    lost = [model for model in models if not os.path.exists(find(model, target.file))]
    target.missing += [f"the teacher's weights '{model}'" for model in lost]
    if lost or (not path and not solver.HasField("net_param")):
        return
    try:
        net = target.student = _student(target, path)
        target.teachers = _teachers(target, target.upgrades)
        teachers = [Teacher(name, own, blob_counts(own)) for name, own in target.teachers]
        parts = [net, *_distiller(target)]
        if teachers:
            parts, _ = bundle.name_soft_targets(parts, teachers[0].name)
        composed = compose(parts[0], teachers, *parts[1:])
    except CaffeKDError as error:
        # Report what keeps the plan from being made, also what missing weights had hidden.
        if not target.missing and str(error) != str(target.unplanned):
            target.unplanned = target.unplanned or error
        elif target.missing:
            target.unplanned = error
        return
    target.layers = list(composed.layer)
    names = [name for name, _ in target.teachers]
    for phase, own in ((pb.TRAIN, [solver.train_state]), (pb.TEST, _test_states(solver))):
        for rules in own:
            state = pb.NetState(phase=phase)
            state.MergeFrom(net.state)
            state.MergeFrom(rules)
            param = filter_net(composed, state)
            file = _near(target, path) if path else target.file
            found = infer_shapes(param, phase, file, options.shapes)
            target.views.append(View(param, phase, file, found, loaded, solver, names))


def _test_states(solver: Any) -> Sequence[Any]:
    """Return the states of the tests of the train net's own file."""
    if solver.train_net or not solver.test_iter:
        return []
    return list(solver.test_state)[:1] or [pb.NetState(phase=pb.TEST)]


def _near(target: Target, path: str) -> Path:
    """Return where a net is, also if it was moved beside the solver, out of its folder."""
    file = find(path, target.file)
    beside = target.file.parent / Path(path).name
    return beside if not file.exists() and beside.is_file() else file


def _student(target: Target, path: str) -> Any:
    if not path:
        return target.solver.net_param
    file = _near(target, path)
    net, _ = bundle.read(file).student(target.solver.layer)
    return upgrade_net(net, str(file), target.upgrades)


def _teachers(target: Target, notes: Notes) -> list[tuple[str, Any]]:
    """Return the teachers' nets as their files have them, by name."""
    solver = target.solver
    path = solver.net or solver.train_net
    entries = [(e.name or bundle.TEACHER, e.net or path) for e in solver.teacher]
    if not entries and path and bundle.read(_near(target, path)).has_teacher(bundle.TEACHER):
        entries = [(bundle.TEACHER, path)]
    found = []
    for name, own in entries:
        if own.endswith(".onnx"):
            continue
        file = find(own, target.file)
        net = bundle.read(file).net(name, bundle.TEACHER)
        found.append((name, upgrade_net(net, str(file), notes)))
    return found


def _distiller(target: Target) -> list[Any]:
    if not target.solver.distiller_net:
        return []
    file = find(target.solver.distiller_net, target.file)
    return [upgrade_net(bundle.read(file).net("distiller"), str(file), target.upgrades)]


def blob_counts(net: Any) -> dict[str, int]:
    """Return how many parameters each layer of a net has, as far as it can be built."""
    param = filter_net(net, pb.NetState(phase=pb.TEST))
    found = infer_shapes(param, pb.TEST, None)
    nodes = found.net.nodes if found.net is not None else []
    known = {node.layer.name: len(node.layer.blob_shapes) for node in nodes}
    return {x.name: known.get(x.name, blob_count(x)) for x in reversed(param.layer)}
