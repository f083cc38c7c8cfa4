"""From a solver's prototxt to the nets it trains and tests, as messages: nothing is built yet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import NetError, SolverError, UsageError, did_you_mean
from ..proto import bundle, foreign, text
from ..proto import caffe_pb2 as pb
from ..proto.compose import NO_DISTILLING_LOSS, Teacher, compose, override_distillation
from ..proto.filter import filter_net, idle_stages
from ..proto.students import merge
from ..proto.upgrade import Notes, upgrade_solver
from .plan_teachers import CountBlobs, Injection, TeacherReader, TeacherWeights
from .reading import Reader, paths

# The fields that name the train net, in the order in which Caffe checks them.
_TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class StudentWeights:
    """The name of one of several students, and the file it starts from."""

    name: str
    path: Path | None


@dataclass
class NetPlan:
    """A composed net for one state, and the file it comes from."""

    param: Any
    file: Path | None


@dataclass
class Overrides:
    """Settings of the command line that override the solver's prototxt.

    ``count_blobs`` is for callers that do not train: given the net of a teacher whose weights are
    missing, and the error, it returns the number of each layer's parameter blobs. Without it,
    missing weights are an error.
    """

    weights: Sequence[str] = ()
    teacher_weights: str | None = None
    temperature: float | None = None
    alpha: float | None = None
    max_iter: int | None = None
    level: int = 0
    stages: Sequence[str] = ()
    count_blobs: CountBlobs | None = None


@dataclass
class TrainingPlan:
    """What a solver will do.

    Attributes:
        solver: the SolverParameter with the overrides applied.
        file: the solver's prototxt.
        student: the net to train as in its file, without teachers and distiller; for several
            students, the net that has them side by side.
        composed: the composed net with the layers of all phases.
        train: the net for training, filtered.
        tests: the test nets, filtered.
        teachers: the teachers' weights.
        teacher_nets: the teachers as they are composed with the student, by name.
        ema_teachers: the ``ema`` of the teachers that average the student, by name.
        injections: the layers that start from a teacher's.
        student_weights: files to start the student from.
        students: the names of several students, and their initial weights.
        notes: lines for the log, on what was overridden or decided.
        warnings: lines for the log, on likely mistakes.
    """

    solver: Any
    file: Path
    student: Any
    composed: Any
    train: NetPlan
    tests: list[NetPlan]
    teachers: list[TeacherWeights]
    ema_teachers: dict[str, float]
    injections: list[Injection]
    student_weights: list[Path]
    students: list[StudentWeights]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    teacher_nets: dict[str, Teacher] = field(default_factory=dict)

    @property
    def frozen_names(self) -> list[str]:
        """The names of all teachers, which prefix their layers' names before a slash."""
        return [*(t.name for t in self.teachers), *self.ema_teachers]

    def where(self, name: str) -> str:
        """Return ``file:line`` of a field of the solver."""
        return text.locate(self.file, name)


def read_plan(path: str | Path, overrides: Overrides | None = None) -> TrainingPlan:
    """Read a solver and the nets it names, and compose them.

    Raises:
        ParseError: a file is missing or not prototxt.
        SolverError: a setting is missing or contradicts another.
        NetError: the nets do not fit together.
    """
    overrides = overrides or Overrides()
    upgrades = Notes()
    solver = upgrade_solver(text.read(path, pb.SolverParameter()), str(path), upgrades)
    foreign.check(solver, "solver", SolverError)
    return _Planner(solver, Path(path), overrides, upgrades).plan()


class _Planner:
    def __init__(self, solver: Any, file: Path, overrides: Overrides, upgrades: Notes) -> None:
        self.solver = solver
        self.file = file
        self.overrides = overrides
        self.upgrades = upgrades
        self.reader = Reader(solver, file, upgrades)
        self.students: list[StudentWeights] = []
        self.warnings: list[str] = []

    def plan(self) -> TrainingPlan:
        self._check_settings()
        self._default_prefix()
        self._find_own_teacher()
        train_net, train_file = self._train_net()
        distiller = self._distiller()
        weights = paths(self.overrides.weights)
        teacher_reader = TeacherReader(
            self.reader, train_net, self.overrides.teacher_weights, self.overrides.count_blobs
        )
        teachers = teacher_reader.read(weights)
        if teachers.nets:
            self.reader.note(f"-weights {w} goes to the student" for w in weights)
        student_weights = [Path(w) for w in weights]
        if not student_weights:
            student_weights = [self.reader.find(w, "weights") for w in paths(self.solver.weights)]
        for loaded in teachers.weights:
            self._check_not_overwritten(
                loaded, [*(s.name for s in self.students), *teachers.ema_teachers]
            )
        composed = self._compose(train_net, teachers.nets, distiller)
        self._override_distillation(composed)
        injections = teacher_reader.injections(teachers, composed)
        state = self._train_state(composed)
        self._check_stages(composed, state.stage, "train_state")
        train = NetPlan(filter_net(composed, state), train_file)
        self._check_teachers_are_known(train.param, teachers.nets)
        self._check_teachers_are_used(composed, teachers.nets)
        tests = [
            NetPlan(self._test_net(net, i, teachers.nets, distiller), file)
            for i, (net, file) in enumerate(self._test_nets((train_net, train_file)))
        ]
        return TrainingPlan(
            solver=self.solver,
            file=self.file,
            student=train_net,
            composed=composed,
            train=train,
            tests=tests,
            teachers=teachers.weights,
            ema_teachers=teachers.ema_teachers,
            injections=injections,
            student_weights=student_weights,
            students=self.students,
            notes=[*self.upgrades.lines, *self.reader.notes],
            warnings=self.warnings,
            teacher_nets={teacher.name: teacher for teacher in teachers.nets},
        )

    def _check_settings(self) -> None:
        solver = self.solver
        if self.overrides.max_iter is not None:
            if self.overrides.max_iter < 0:
                raise UsageError(f"-max_iter must not be negative: {self.overrides.max_iter}")
            solver.max_iter = self.overrides.max_iter
        if not solver.HasField("max_iter"):
            raise SolverError(
                "max_iter is not given: set the number of iterations, as in 'max_iter: 10000'",
                str(self.file),
            )
        least = {"max_iter": 0, "iter_size": 1, "average_loss": 1, "test_iter": 0}
        for name, low in least.items():
            value = getattr(solver, name)
            for number in [value] if isinstance(value, int) else value:
                if number < low:
                    raise SolverError(
                        f"{name} must be at least {low}. Received: {number}",
                        self.reader.where(name),
                    )

    def _default_prefix(self) -> None:
        """Set the prefix: without one, beside the solver; for a folder, with the solver's stem."""
        prefix = self.solver.snapshot_prefix
        if "\0" in prefix:
            raise SolverError(
                f"snapshot_prefix has a zero byte: {prefix!r}", self.reader.where("snapshot_prefix")
            )
        stem = self.file.with_suffix("")
        if not prefix:
            self.solver.snapshot_prefix = str(stem)
        elif os.path.isdir(prefix):
            self.solver.snapshot_prefix = str(Path(prefix) / stem.name)

    def _train_net(self) -> tuple[Any, Path]:
        given = [f for f in _TRAIN_FIELDS if self.solver.HasField(f)]
        if self.solver.student:
            if given:
                raise SolverError(
                    f"the solver has students, so {given[0]} cannot be used: set each net in its "
                    "'student'",
                    self.reader.where(given[0]),
                )
            return self._students()
        if not given:
            raise SolverError(
                "SolverParameter must specify a train net using one of these fields: "
                f"{', '.join(_TRAIN_FIELDS)}. Received: none",
                str(self.file),
            )
        if len(given) > 1:
            raise SolverError(
                "SolverParameter must not contain more than one of these fields specifying a "
                f"train_net: {', '.join(_TRAIN_FIELDS)}. Received: {', '.join(given)}",
                self.reader.where(given[1]),
            )
        value = getattr(self.solver, given[0])
        return (
            self.reader.net(value, given[0])
            if isinstance(value, str)
            else self.reader.inline(value)
        )

    def _students(self) -> tuple[Any, Path]:
        """Return the net that has all students, and the file of the first."""
        nets: list[tuple[str, Any]] = []
        for entry in self.solver.student:
            fact = ""
            if not re.fullmatch(r"[\w.-]+", entry.name):
                fact = "a student's name has only letters, digits, '_', '-' and '.'"
            elif any(entry.name == name for name, _ in nets):
                fact = "two students have the same name: give each its own"
            elif any(entry.name == (t.name or bundle.TEACHER) for t in self.solver.teacher):
                fact = "a student and a teacher have the same name: give each its own"
            elif not entry.net:
                fact = "the student has no net"
            if fact:
                raise SolverError(
                    f"{fact}. Received: student '{entry.name}'", self.reader.where("student")
                )
            nets.append((entry.name, self.reader.net(entry.net, "net")[0]))
            path = self.reader.find(entry.weights, "weights") if entry.weights else None
            self.students.append(StudentWeights(entry.name, path))
        first = self.solver.student[0].net
        return merge(nets), self.reader.find(first, "net")

    def _test_nets(self, train: tuple[Any, Path]) -> list[tuple[Any, Path]]:
        solver = self.solver
        nets = [self.reader.inline(net) for net in solver.test_net_param]
        nets += [self.reader.net(path, "test_net") for path in solver.test_net]
        generic: tuple[Any, Path] | None = None
        if solver.student:
            generic = train
        elif solver.HasField("net_param"):
            generic = self.reader.inline(solver.net_param)
        elif solver.HasField("net"):
            generic = self.reader.net(solver.net, "net")
        wanted = len(solver.test_iter)
        if wanted < len(nets) or (generic is None and wanted != len(nets)):
            raise SolverError(
                "test_iter must be specified once for each test network. "
                f"Received: {wanted} test_iter, {len(nets)} test net(s)",
                self.reader.where("test_iter" if wanted else "test_net"),
            )
        if generic is not None:
            nets += [generic] * (wanted - len(nets))
        if solver.test_state and len(solver.test_state) != len(nets):
            raise SolverError(
                "test_state must be unspecified or specified once per test net. "
                f"Received: {len(solver.test_state)} test_state, {len(nets)} test net(s)",
                self.reader.where("test_state"),
            )
        if nets and solver.test_interval < 1:
            raise SolverError(
                f"test_iter is given, so test_interval must be at least 1. "
                f"Received: {solver.test_interval}",
                self.reader.where("test_interval" if solver.test_interval else "test_iter"),
            )
        return nets

    def _train_state(self, net: Any) -> Any:
        state = pb.NetState(phase=pb.TRAIN)
        state.MergeFrom(net.state)
        state.MergeFrom(self.solver.train_state)
        if self.overrides.level:
            state.level = self.overrides.level
        state.stage.extend(self.overrides.stages)
        return state

    def _check_stages(self, net: Any, stages: Sequence[str], field: str) -> None:
        for sentence in idle_stages(net, stages):
            warning = f"{self.reader.where(field)}: {sentence}"
            if warning not in self.warnings:
                self.warnings.append(warning)

    def _test_net(
        self, net: Any, index: int, teachers: list[Teacher], distiller: Any | None
    ) -> Any:
        composed = self._compose(net, teachers, distiller)
        override_distillation(composed, self.overrides.temperature, self.overrides.alpha)
        state = pb.NetState(phase=pb.TEST)
        state.MergeFrom(net.state)
        if self.solver.test_state:
            state.MergeFrom(self.solver.test_state[index])
        self._check_stages(composed, state.stage, "test_state")
        return filter_net(composed, state)

    def _check_not_overwritten(self, teacher: TeacherWeights, parts: Sequence[str]) -> None:
        """Refuse snapshots that would overwrite the teacher's weights.

        The ``parts`` have snapshots of their own: students and mean teachers.
        """
        solver = self.solver
        prefix = Path(solver.snapshot_prefix)
        if teacher.path.resolve().parent != prefix.resolve().parent:
            return
        part = "".join(f"|_{re.escape(name)}" for name in parts)
        name = re.escape(prefix.name) + rf"(?:{part})_(?:iter_(\d+)|best)\.caffemodel(\.h5)?"
        found = re.fullmatch(name, teacher.path.name)
        if found is None:
            return
        if found[1] is None:
            if not solver.snapshot_best:
                return
            raise SolverError(
                f"snapshot_best would overwrite the weights of the teacher '{teacher.name}', "
                f"{teacher.path}: give the student another snapshot_prefix",
                self.reader.where("snapshot_prefix"),
            )
        iteration = int(found[1])
        due = solver.snapshot > 0 and iteration % solver.snapshot == 0
        if iteration == solver.max_iter or (due and iteration < solver.max_iter):
            raise SolverError(
                f"the snapshot of iteration {iteration} would overwrite the weights of the teacher "
                f"'{teacher.name}', {teacher.path}: give the student another snapshot_prefix",
                self.reader.where("snapshot_prefix"),
            )

    def _distiller(self) -> Any | None:
        if not self.solver.HasField("distiller_net"):
            return None
        return self.reader.net(self.solver.distiller_net, "distiller_net", "distiller")[0]

    def _compose(self, net: Any, teachers: list[Teacher], distiller: Any | None) -> Any:
        parts = [net] if distiller is None else [net, distiller]
        if teachers:
            parts, notes = bundle.name_soft_targets(parts, teachers[0].name)
            self.reader.note(notes)
        return compose(parts[0], teachers, *parts[1:])

    def _override_distillation(self, composed: Any) -> None:
        temperature, alpha = self.overrides.temperature, self.overrides.alpha
        changes = override_distillation(composed, temperature, alpha)
        if not changes and (temperature is not None or alpha is not None):
            raise UsageError(NO_DISTILLING_LOSS)
        self.reader.notes += changes

    def _check_teachers_are_known(self, net: Any, teachers: Sequence[Teacher]) -> None:
        """Refuse a bottom that looks like a teacher's blob if there is no such teacher."""
        if not (teachers or self.solver.HasField("distiller_net")):
            return
        names = [t.name for t in teachers]
        parts = {*names, *(s.name for s in self.students)}
        theirs = [f"{t.name}/{top}" for t in teachers for x in t.net.layer for top in x.top]
        made: set[str] = set()
        for layer in net.layer:
            for index, bottom in enumerate(layer.bottom):
                name, slash, _ = bottom.partition("/")
                if not slash or bottom in made or name in parts:
                    continue
                known = f"The solver's teachers: {', '.join(names) or 'none'}"
                raise NetError(
                    f"layer '{layer.name}' ({layer.type}): Unknown bottom blob '{bottom}' (bottom "
                    f"index {index}): no layer before this one makes it, and no teacher is named "
                    f"'{name}'.{did_you_mean(bottom, [*made, *theirs])} {known}",
                    layer.source_line or None,
                )
            made.update(layer.top)

    def _check_teachers_are_used(self, composed: Any, teachers: Sequence[Teacher]) -> None:
        giving = {entry.teacher or teachers[0].name for entry in self.solver.inject if teachers}
        for teacher in teachers:
            if teacher.name in giving:
                continue
            if not any(layer.name.startswith(f"{teacher.name}/") for layer in composed.layer):
                raise SolverError(
                    f"no layer uses the teacher '{teacher.name}': name its blobs as "
                    f"'{teacher.name}/<blob>' in the distiller_net",
                    self.reader.where("teacher"),
                )

    def _find_own_teacher(self) -> None:
        """Point teachers without a net to the one in the student's file.

        A solver that names no teacher uses the one in that file, if there is one.
        """
        path = self.solver.net or self.solver.train_net
        if not path:
            return
        own = self.reader.bundle(path, "net" if self.solver.net else "train_net")
        if not self.solver.teacher and own.has_teacher(bundle.TEACHER):
            self.solver.teacher.add()
        for entry in self.solver.teacher:
            if not entry.net and own.has_teacher(entry.name or bundle.TEACHER):
                entry.net = path
