"""From a solver's prototxt to the nets it trains and tests: messages only, nothing built yet."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SolverError, UsageError
from ..files import find
from ..proto import bundle, text
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights
from ..proto.compose import Teacher, compose, override_distillation
from ..proto.filter import filter_net
from ..proto.upgrade import Notes, upgrade_net, upgrade_solver

# The fields that say where the train net comes from, in the order the original asks for them.
_TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


@dataclass
class TeacherWeights:
    """A teacher's name and the weights its layers take."""

    name: str
    path: Path
    layers: list[LayerWeights]


@dataclass
class NetPlan:
    """A composed net for one state, and the file it comes from."""

    param: Any
    file: Path | None


@dataclass
class Overrides:
    """What the command line says over the solver's prototxt."""

    weights: Sequence[str] = ()
    teacher_weights: str | None = None
    temperature: float | None = None
    alpha: float | None = None
    max_iter: int | None = None
    level: int = 0
    stages: Sequence[str] = ()


@dataclass
class Plan:
    """What a solver is about to do.

    Attributes:
        solver: the SolverParameter with the overrides applied.
        file: the solver's prototxt.
        student: the net to train as its file has it, without teachers and distiller.
        composed: the composed net with the layers of all phases.
        train: the net for training, filtered.
        tests: the test nets, filtered.
        teachers: the teachers' weights.
        student_weights: files to start the student from.
        notes: what was overridden or decided, for the log.
    """

    solver: Any
    file: Path
    student: Any
    composed: Any
    train: NetPlan
    tests: list[NetPlan]
    teachers: list[TeacherWeights]
    student_weights: list[Path]
    notes: list[str] = field(default_factory=list)

    def where(self, name: str) -> str:
        """Return ``file:line`` of a field of the solver."""
        return text.locate(self.file, name)


def read_plan(path: str | Path, overrides: Overrides | None = None) -> Plan:
    """Read a solver and the nets it names, and compose them.

    Raises:
        ParseError: a file is missing or not prototxt.
        SolverError: a setting is missing or contradicts another.
        NetError: the nets do not fit together.
    """
    overrides = overrides or Overrides()
    upgrades = Notes()
    solver = upgrade_solver(text.read(path, pb.SolverParameter()), str(path), upgrades)
    return _Planner(solver, Path(path), overrides, upgrades).plan()


class _Planner:
    def __init__(self, solver: Any, file: Path, overrides: Overrides, upgrades: Notes) -> None:
        self.solver = solver
        self.file = file
        self.overrides = overrides
        self.upgrades = upgrades
        self.notes: list[str] = []
        self._bundles: dict[Path, bundle.Bundle] = {}
        self._read: dict[tuple[Path, tuple[str, ...]], Any] = {}

    def _where(self, name: str) -> str:
        return text.locate(self.file, name)

    def plan(self) -> Plan:
        self._check_settings()
        self._default_prefix()
        self._find_own_teacher()
        weights = _paths(self.overrides.weights)
        teachers, teacher_weights = self._teachers(weights)
        if teachers:
            self._note(f"-weights {w} goes to the student" for w in weights)
        student_weights = [Path(w) for w in weights]
        if not student_weights:
            student_weights = [self._find(w, "weights") for w in _paths(self.solver.weights)]
        for loaded in teacher_weights:
            self._check_is_kept(loaded)
        distiller = self._distiller()
        train_net, train_file = self._train_net()
        composed = self._compose(train_net, teachers, distiller)
        self._check_teachers_are_used(composed, teachers)
        self._override_distillation(composed)
        train = NetPlan(filter_net(composed, self._train_state(composed)), train_file)
        tests = [
            NetPlan(self._test_net(net, i, teachers, distiller), file)
            for i, (net, file) in enumerate(self._test_nets())
        ]
        return Plan(
            solver=self.solver,
            file=self.file,
            student=train_net,
            composed=composed,
            train=train,
            tests=tests,
            teachers=teacher_weights,
            student_weights=student_weights,
            notes=[*self.upgrades.lines, *self.notes],
        )

    def _check_settings(self) -> None:
        solver = self.solver
        if self.overrides.max_iter is not None:
            if self.overrides.max_iter < 0:
                raise UsageError(f"-max_iter must not be negative: {self.overrides.max_iter}")
            solver.max_iter = self.overrides.max_iter
        if not solver.HasField("max_iter"):
            raise SolverError(
                "max_iter is not given: say how many iterations to train, as 'max_iter: 10000'",
                str(self.file),
            )
        least = {"max_iter": 0, "iter_size": 1, "average_loss": 1, "test_iter": 0}
        for name, low in least.items():
            value = getattr(solver, name)
            for number in [value] if isinstance(value, int) else value:
                if number < low:
                    raise SolverError(
                        f"{name} must be at least {low}. Received: {number}", self._where(name)
                    )

    def _default_prefix(self) -> None:
        """Without a prefix snapshots go beside the solver; with a folder, under its file's stem."""
        prefix = self.solver.snapshot_prefix
        if "\0" in prefix:
            raise SolverError(
                f"snapshot_prefix has a zero byte: {prefix!r}", self._where("snapshot_prefix")
            )
        stem = self.file.with_suffix("")
        if not prefix:
            self.solver.snapshot_prefix = str(stem)
        elif os.path.isdir(prefix):
            self.solver.snapshot_prefix = str(Path(prefix) / stem.name)

    def _note(self, lines: Iterable[str]) -> None:
        """Add lines for the log, each once: train and test nets may have the same to say."""
        self.notes += [line for line in lines if line not in self.notes]

    def _find(self, path: str, field: str, hint: str = "") -> Path:
        """Return the file that a field of the solver names."""
        file = find(path, self.file)
        if not path or not os.path.exists(file):
            raise SolverError(
                f"{field} '{path}': no such file, neither from {Path.cwd()} nor beside the "
                f"solver.{hint}",
                self._where(field),
            )
        return file

    def _bundle(self, path: str, field: str) -> bundle.Bundle:
        file = self._find(path, field)
        if file not in self._bundles:
            self._bundles[file] = bundle.read(file)
            self._note(self._bundles[file].notes)
        return self._bundles[file]

    def _net(self, path: str, field: str, *names: str) -> tuple[Any, Path]:
        """Return the net of a file, of several the one so named; without names, the student."""
        found = self._bundle(path, field)
        key = found.file, names
        if key not in self._read:
            if names:
                net = found.net(*names)
            else:
                net, notes = found.student(self.solver.layer)
                self._note(notes)
            self._read[key] = upgrade_net(net, str(found.file), self.upgrades)
        return self._read[key], found.file

    def _inline(self, net: Any) -> tuple[Any, Path]:
        joined, notes = bundle.join(net, self.solver.layer) if self.solver.layer else (net, [])
        self._note(notes)
        return joined, self.file

    def _train_net(self) -> tuple[Any, Path]:
        given = [f for f in _TRAIN_FIELDS if self.solver.HasField(f)]
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
                self._where(given[1]),
            )
        value = getattr(self.solver, given[0])
        return self._net(value, given[0]) if isinstance(value, str) else self._inline(value)

    def _test_nets(self) -> list[tuple[Any, Path]]:
        solver = self.solver
        nets = [self._inline(net) for net in solver.test_net_param]
        nets += [self._net(path, "test_net") for path in solver.test_net]
        generic: tuple[Any, Path] | None = None
        if solver.HasField("net_param"):
            generic = self._inline(solver.net_param)
        elif solver.HasField("net"):
            generic = self._net(solver.net, "net")
        wanted = len(solver.test_iter)
        if wanted < len(nets) or (generic is None and wanted != len(nets)):
            raise SolverError(
                "test_iter must be specified once for each test network. "
                f"Received: {wanted} test_iter, {len(nets)} test net(s)",
                self._where("test_iter" if wanted else "test_net"),
            )
        if generic is not None:
            nets += [generic] * (wanted - len(nets))
        if solver.test_state and len(solver.test_state) != len(nets):
            raise SolverError(
                "test_state must be unspecified or specified once per test net. "
                f"Received: {len(solver.test_state)} test_state, {len(nets)} test net(s)",
                self._where("test_state"),
            )
        if nets and solver.test_interval < 1:
            raise SolverError(
                f"test_iter is given, so test_interval must be at least 1. "
                f"Received: {solver.test_interval}",
                self._where("test_interval" if solver.test_interval else "test_iter"),
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

    def _test_net(
        self, net: Any, index: int, teachers: list[Teacher], distiller: Any | None
    ) -> Any:
        composed = self._compose(net, teachers, distiller)
        override_distillation(composed, self.overrides.temperature, self.overrides.alpha)
        state = pb.NetState(phase=pb.TEST)
        state.MergeFrom(net.state)
        if self.solver.test_state:
            state.MergeFrom(self.solver.test_state[index])
        return filter_net(composed, state)

    def _check_is_kept(self, teacher: TeacherWeights) -> None:
        """Refuse snapshots of the student that would take the place of the teacher's weights."""
        solver = self.solver
        prefix = Path(solver.snapshot_prefix)
        if teacher.path.resolve().parent != prefix.resolve().parent:
            return
        name = re.escape(prefix.name) + r"_iter_(\d+)\.caffemodel(\.h5)?"
        found = re.fullmatch(name, teacher.path.name)
        if found is None:
            return
        iteration = int(found[1])
        due = solver.snapshot > 0 and iteration % solver.snapshot == 0
        if iteration == solver.max_iter or (due and iteration < solver.max_iter):
            raise SolverError(
                f"the snapshot of iteration {iteration} would overwrite the weights of the teacher "
                f"'{teacher.name}', {teacher.path}: give the student another snapshot_prefix",
                self._where("snapshot_prefix"),
            )

    def _distiller(self) -> Any | None:
        if not self.solver.HasField("distiller_net"):
            return None
        return self._net(self.solver.distiller_net, "distiller_net", "distiller")[0]

    def _compose(self, net: Any, teachers: list[Teacher], distiller: Any | None) -> Any:
        parts = [net] if distiller is None else [net, distiller]
        if teachers:
            parts, notes = bundle.name_soft_targets(parts, teachers[0].name)
            self._note(notes)
        return compose(parts[0], teachers, *parts[1:])

    def _override_distillation(self, composed: Any) -> None:
        temperature, alpha = self.overrides.temperature, self.overrides.alpha
        changes = override_distillation(composed, temperature, alpha)
        if not changes and (temperature is not None or alpha is not None):
            raise UsageError(
                "-temperature and -alpha need a DistillingLoss layer, but the net has none"
            )
        self.notes += changes

    def _check_teachers_are_used(self, composed: Any, teachers: Sequence[Teacher]) -> None:
        for teacher in teachers:
            if not any(layer.name.startswith(f"{teacher.name}/") for layer in composed.layer):
                raise SolverError(
                    f"no layer uses the teacher '{teacher.name}': name its blobs as "
                    f"'{teacher.name}/<blob>' in the distiller_net",
                    self._where("teacher"),
                )

    def _find_own_teacher(self) -> None:
        """Point teachers without a net to the one in the student's file.

        A solver that names no teacher still has the one that lies there.
        """
        path = self.solver.net or self.solver.train_net
        if not path:
            return
        own = self._bundle(path, "net" if self.solver.net else "train_net")
        if not self.solver.teacher and own.has_teacher(bundle.TEACHER):
            self.solver.teacher.add()
        for entry in self.solver.teacher:
            if not entry.net and own.has_teacher(entry.name or bundle.TEACHER):
                entry.net = path

    def _teachers(self, weights: list[str]) -> tuple[list[Teacher], list[TeacherWeights]]:
        """Read the teachers; one that names no weights takes the first of the -weights left."""
        if self.overrides.teacher_weights and len(self.solver.teacher) != 1:
            raise UsageError(
                "-teacher_weights is for a solver with one teacher. "
                f"{self.file} names {len(self.solver.teacher) or 'none'}"
            )
        teachers: list[Teacher] = []
        loaded: list[TeacherWeights] = []
        for entry in self.solver.teacher:
            name = entry.name or bundle.TEACHER
            if any(t.name == name for t in teachers):
                raise SolverError(
                    f"two teachers are named '{name}': give each its own name",
                    self._where("teacher"),
                )
            if not entry.net:
                raise SolverError(f"the teacher '{name}' has no net", self._where("teacher"))
            path = self._teacher_weights(name, entry, weights)
            layers = read_weights(path)
            net, _ = self._net(entry.net, "net", name, bundle.TEACHER)
            counts = {layer.name: len(layer.blobs) for layer in reversed(layers)}
            teachers.append(Teacher(name, net, counts))
            loaded.append(TeacherWeights(name, path, layers))
        return teachers, loaded

    def _teacher_weights(self, name: str, entry: Any, weights: list[str]) -> Path:
        if self.overrides.teacher_weights:
            path = Path(self.overrides.teacher_weights)
            self.notes.append(f"teacher '{name}': weights {path} from the command line")
            return path
        if entry.weights:
            return self._find(entry.weights, "weights", " Train the teacher first")
        if weights:
            path = Path(weights.pop(0))
            self.notes.append(
                f"-weights {path} goes to the teacher '{name}', which names none itself"
            )
            return path
        raise SolverError(
            f"the teacher '{name}' has no weights: name them in 'teacher {{ weights: "
            '"teacher.caffemodel" }\' or give -teacher_weights',
            self._where("teacher"),
        )


def _paths(entries: Iterable[str]) -> list[str]:
    """Return the paths of entries that may each hold several, separated by commas."""
    return [path.strip() for entry in entries for path in entry.split(",") if path.strip()]
