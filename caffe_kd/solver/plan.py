"""From a solver's prototxt to the nets it trains and tests: messages only, nothing built yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SolverError, UsageError
from ..files import find
from ..proto import caffe_pb2 as pb
from ..proto import text
from ..proto.binary import LayerWeights, read_weights
from ..proto.compose import Teacher, compose, override_distillation
from ..proto.filter import filter_net

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
    solver = text.read(path, pb.SolverParameter())
    return _Planner(solver, Path(path), overrides).plan()


class _Planner:
    def __init__(self, solver: Any, file: Path, overrides: Overrides) -> None:
        self.solver = solver
        self.file = file
        self.overrides = overrides
        self.notes: list[str] = []
        self._read: dict[Path, Any] = {}

    def _where(self, name: str) -> str:
        return text.locate(self.file, name)

    def plan(self) -> Plan:
        self._apply_overrides()
        self._default_prefix()
        student_weights = [
            self._find(w.strip())
            for entry in self.solver.weights
            for w in entry.split(",")
            if w.strip()
        ]
        weights = [w.strip() for entry in self.overrides.weights for w in entry.split(",")]
        teachers, teacher_weights, taken = self._teachers([w for w in weights if w])
        if not taken:
            student_weights = [Path(w) for w in weights if w] or student_weights
        distiller = self._distiller()
        train_net, train_file = self._train_net()
        composed = self._compose(train_net, teachers, distiller)
        self.notes += override_distillation(
            composed, self.overrides.temperature, self.overrides.alpha
        )
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
            notes=self.notes,
        )

    def _apply_overrides(self) -> None:
        if self.overrides.max_iter is not None:
            if self.overrides.max_iter < 0:
                raise UsageError(f"-max_iter must not be negative: {self.overrides.max_iter}")
            self.solver.max_iter = self.overrides.max_iter
        if not self.solver.HasField("max_iter"):
            raise SolverError(
                "max_iter is not given: say how many iterations to train, as 'max_iter: 10000'",
                str(self.file),
            )
        if self.solver.iter_size < 1:
            raise SolverError(
                f"iter_size must be at least 1. Received: {self.solver.iter_size}",
                self._where("iter_size"),
            )

    def _default_prefix(self) -> None:
        """Without a prefix snapshots go beside the solver; with a folder, under its file's stem."""
        prefix = self.solver.snapshot_prefix
        stem = self.file.with_suffix("")
        if not prefix:
            self.solver.snapshot_prefix = str(stem)
        elif Path(prefix).is_dir():
            self.solver.snapshot_prefix = str(Path(prefix) / stem.name)

    def _find(self, path: str) -> Path:
        return find(path, self.file)

    def _net(self, path: str) -> tuple[Any, Path]:
        file = self._find(path)
        if file not in self._read:
            self._read[file] = text.read(file, pb.NetParameter())
        return self._read[file], file

    def _train_net(self) -> tuple[Any, Path | None]:
        given = [f for f in _TRAIN_FIELDS if self.solver.HasField(f)]
        if len(given) != 1:
            raise SolverError(
                "SolverParameter must specify a train net using one of these fields: "
                f"{', '.join(_TRAIN_FIELDS)}. Received: {', '.join(given) or 'none'}",
                self._where(given[1]) if given else str(self.file),
            )
        value = getattr(self.solver, given[0])
        return self._net(value) if isinstance(value, str) else (value, self.file)

    def _test_nets(self) -> list[tuple[Any, Path | None]]:
        solver = self.solver
        nets: list[tuple[Any, Path | None]] = [(n, self.file) for n in solver.test_net_param]
        nets += [self._net(path) for path in solver.test_net]
        generic: tuple[Any, Path | None] | None = None
        if solver.HasField("net_param"):
            generic = (solver.net_param, self.file)
        elif solver.HasField("net"):
            generic = self._net(solver.net)
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

    def _distiller(self) -> Any | None:
        if not self.solver.HasField("distiller_net"):
            return None
        return self._net(self.solver.distiller_net)[0]

    def _compose(self, net: Any, teachers: list[Teacher], distiller: Any | None) -> Any:
        if teachers and not any(
            b.startswith(f"{t.name}/")
            for t in teachers
            for part in (net, distiller)
            if part is not None
            for layer in part.layer
            for b in layer.bottom
        ):
            raise SolverError(
                f"no layer uses the teacher '{teachers[0].name}': name its blobs as "
                f"'{teachers[0].name}/<blob>' in the distiller_net",
                self._where("teacher"),
            )
        return compose(net, teachers, distiller)

    def _teachers(self, weights: list[str]) -> tuple[list[Teacher], list[TeacherWeights], bool]:
        """Read the teachers; also say whether the -weights were taken by a teacher without any."""
        teachers: list[Teacher] = []
        loaded: list[TeacherWeights] = []
        taken = False
        for entry in self.solver.teacher:
            name = entry.name or "teacher"
            if any(t.name == name for t in teachers):
                raise SolverError(
                    f"two teachers are named '{name}': give each its own name",
                    self._where("teacher"),
                )
            if not entry.net:
                raise SolverError(f"the teacher '{name}' has no net", self._where("teacher"))
            if self.overrides.teacher_weights:
                path = Path(self.overrides.teacher_weights)
                self.notes.append(f"teacher '{name}': weights {path} from the command line")
            elif entry.weights:
                path = self._find(entry.weights)
            elif weights:
                path, taken = Path(weights[0]), True
                self.notes.append(
                    f"-weights {path} goes to the teacher '{name}', which names none itself"
                )
            else:
                raise SolverError(
                    f"the teacher '{name}' has no weights: name them in 'teacher {{ weights: "
                    '"teacher.caffemodel" }\' or give -teacher_weights',
                    self._where("teacher"),
                )
            layers = read_weights(path)
            net, _ = self._net(entry.net)
            counts = {layer.name: len(layer.blobs) for layer in reversed(layers)}
            teachers.append(Teacher(name, net, counts))
            loaded.append(TeacherWeights(name, path, layers))
        if self.overrides.teacher_weights and not teachers:
            raise UsageError("-teacher_weights is given, but the solver names no teacher")
        return teachers, loaded, taken
