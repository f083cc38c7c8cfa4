"""What is compressed: the student of a solver, and the solvers that it learns by on its way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import NetError, SolverError
from ...core.files import find
from ...proto import caffe_pb2 as pb
from ...proto.file_fields import full_path, map_files, with_full_paths
from ...pruning.recover import solver_for, with_distil_stage
from ...solver.plan import Overrides, read_plan

_QAT_RATE = 0.1  # of the solver's base_lr: the weights have only to move by a step or so
_FROZEN_FROM = 0.75  # the part of the training from which ranges stay


@dataclass(frozen=True)
class Model:
    """A net in files: prototxt with the layers of all phases, and caffemodel."""

    net: Path
    weights: Path


@dataclass(frozen=True)
class Subject:
    """What is compressed.

    Attributes:
        solver: the solver, with its files by their full paths.
        net: its student, all phases, naming its data by full paths.
        joints: the layers of the student's that take a teacher's blobs; they are in the solvers.
        weights: what it starts with; None: it is trained first.
        teacher: the net that it learns from, if it is a single one with weights.
        data: the files of its data with their sizes, by which a change is noticed.
    """

    solver: Any
    net: Any
    joints: list[Any]
    weights: Path | None
    teacher: Model | None
    data: str

    @property
    def distils(self) -> bool:
        """Whether the solver has a teacher of its own; else the net learns from its old self."""
        return len(self.solver.teacher) > 0


def read_subject(path: Path, weights: Path | None) -> Subject:
    """Read a solver and the nets it names.

    Args:
        path: the solver.
        weights: what its student starts with; None: as the solver says.

    Raises:
        SolverError: it trains several students, or its net is not in one file for all phases.
        CaffeKDError: a file is absent or wrong.
    """
    plan = read_plan(path, Overrides(weights=[str(weights)] if weights else ()))
    solver = pb.SolverParameter()
    solver.CopyFrom(plan.solver)
    if plan.students:
        raise SolverError(
            "trains several students. compress takes a solver of one", plan.where("student")
        )
    if not solver.net:
        raise SolverError(
            "compress takes a solver that names one file for all phases, by net", str(path)
        )
    if solver.max_iter < 1:
        raise SolverError("compress trains as long as the solver says: give max_iter", str(path))

    def full(name: str) -> str:
        return full_path(name, path) if name else name

    net_file = find(solver.net, path)
    solver.net = full(solver.net)
    solver.distiller_net = full(solver.distiller_net)
    if not solver.distiller_net:
        solver.ClearField("distiller_net")
    for entry in solver.teacher:
        entry.net = full(entry.net)
        entry.weights = full(entry.weights)
    teachers = [entry for entry in solver.teacher if entry.weights]
    teacher = None
    if len(teachers) == 1 and len(solver.teacher) == 1:
        teacher = Model(Path(teachers[0].net), Path(teachers[0].weights))
    net = with_full_paths(plan.student, net_file)
    prefixes = tuple(f"{name}/" for name in plan.frozen_names)
    layers = list(net.layer)
    joints = [x for x in layers if prefixes and any(b.startswith(prefixes) for b in x.bottom)]
    del net.layer[:]
    net.layer.extend(x for x in layers if x not in joints)
    if not solver.teacher:
        net = _own_pupil(net, path)
    starts = [Path(w).resolve() for w in plan.student_weights]
    if len(starts) > 1:
        raise SolverError("the student starts from several files. compress takes one", str(path))
    start = starts[0] if starts else None
    return Subject(solver, net, joints, start, teacher, _sizes(net))


def _sizes(net: Any) -> str:
    """Return a net's data files and their sizes, a line each."""
    lines = []

    def add(name: str) -> str:
        path = Path(name)
        there = [p for p in (path / "data.mdb", path, Path(f"{name}.gz")) if p.is_file()]
        lines.append(f"{name} {there[0].stat().st_size if there else '-'}\n")
        return name

    map_files(net, add)
    return "".join(sorted(set(lines)))


def _own_pupil(net: Any, solver: Path) -> Any:
    """Return a net whose own loss is left out in the stage in which it learns from its old self."""
    try:
        return with_distil_stage(net, None)
    except NetError:
        raise SolverError(
            "has no teacher, and its net no SoftmaxWithLoss in TRAIN, by whose scores it could "
            "learn from its old self: give it a teacher and a distiller_net",
            str(solver),
        ) from None


def start_solver(subject: Subject, prefix: Path) -> Any:
    """Return the solver's own training, for a student that has no weights yet."""
    solver = pb.SolverParameter()
    solver.CopyFrom(subject.solver)
    solver.snapshot_prefix = prefix.as_posix()
    _test_at_end(solver)
    return solver


def distilling_solver(
    subject: Subject, model: Model, start: Model, net: Any, file: Path, iterations: int | None
) -> Any:
    """Return the solver by which a pruned net learns.

    Args:
        subject: what is compressed.
        model: the pruned net's files.
        start: the unpruned net's, which is the teacher where the solver has none.
        net: the pruned net.
        file: where the solver will be.
        iterations: of the training; None: as the solver says.
    """
    solver = pb.SolverParameter()
    solver.CopyFrom(subject.solver)
    for name in ("layer", "inject", "weights"):
        solver.ClearField(name)
    solver.net = model.net.resolve().as_posix()
    solver.weights.append(model.weights.resolve().as_posix())
    solver.layer.extend(subject.joints)
    if not subject.distils:
        old = start.net.resolve(), start.weights.resolve()
        recovery = solver_for(net, model.net, model.weights, old, file)
        solver.layer.extend(recovery.layer)
        solver.teacher.add(net=old[0].as_posix(), weights=old[1].as_posix())
        solver.train_state.MergeFrom(recovery.train_state)
    if iterations is not None:
        _shorten(solver, iterations)
    solver.snapshot_prefix = file.with_name("distilled").as_posix()
    _test_at_end(solver)
    return solver


def rounding_solver(solver: Any, bits: int) -> Any:
    """Return a distilling solver that also rounds what the student multiplies."""
    rounding = pb.SolverParameter()
    rounding.CopyFrom(solver)
    rounding.base_lr = solver.base_lr * _QAT_RATE
    settings = rounding.quantization
    settings.bw_params = bits
    settings.freeze_range_iter = max(1, int(_FROZEN_FROM * solver.max_iter))
    return rounding


def _shorten(solver: Any, iterations: int) -> None:
    """Give a solver another length, and its learning rate the same course over it."""
    factor = iterations / solver.max_iter
    solver.max_iter = iterations
    if solver.HasField("stepsize"):
        solver.stepsize = max(1, round(factor * solver.stepsize))
    solver.stepvalue[:] = [max(1, round(factor * value)) for value in solver.stepvalue]


def _test_at_end(solver: Any) -> None:
    """Let a solver test and display within its length, however short."""
    solver.test_initialization = False
    if solver.test_interval:
        solver.test_interval = min(solver.test_interval, solver.max_iter)
    if solver.display:
        solver.display = min(solver.display, solver.max_iter)
