"""The teachers that a solver names: trained nets, ONNX models, and averages of the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import SolverError, UsageError, did_you_mean
from ..proto import bundle
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights
from ..proto.compose import Teacher, is_data
from ..proto.onnx_file import read_ports
from .reading import Reader

CountBlobs = Callable[[Any, SolverError], Mapping[str, int]]


@dataclass
class TeacherWeights:
    """A teacher's name and its layers' weights, from a file; none for an ONNX model."""

    name: str
    path: Path
    layers: list[LayerWeights]


@dataclass
class Injection:
    """A teacher's weights for a layer of the student, and that layer's name."""

    weights: LayerWeights
    to: str
    source: str
    freeze: bool


@dataclass
class Teachers:
    """A solver's teachers.

    Attributes:
        nets: all of them, to be composed with the student.
        weights: the weights of those that have a file.
        ema_teachers: the ``ema`` of those that average the student, by name.
    """

    nets: list[Teacher] = field(default_factory=list)
    weights: list[TeacherWeights] = field(default_factory=list)
    ema_teachers: dict[str, float] = field(default_factory=dict)


class TeacherReader:
    """Reads the teachers of a solver.

    Args:
        reader: reads the solver's files.
        student: the net to train.
        override: a file of weights from the command line, for the only teacher.
        count_blobs: used if weights are missing; see ``plan.Overrides``.
    """

    def __init__(
        self,
        reader: Reader,
        student: Any,
        override: str | None,
        count_blobs: CountBlobs | None = None,
    ) -> None:
        self.reader = reader
        self.student = student
        self.override = override
        self.count_blobs = count_blobs

    def read(self, weights: list[str]) -> Teachers:
        """Read the teachers; one without weights takes the first of the remaining -weights."""
        entries = self.reader.solver.teacher
        if self.override and len(entries) != 1:
            raise UsageError(
                "-teacher_weights is for a solver with one teacher. "
                f"{self.reader.file} names {len(entries) or 'none'}"
            )
        teachers = Teachers()
        for entry in entries:
            name = entry.name or bundle.TEACHER
            if any(t.name == name for t in teachers.nets):
                raise self._error(f"two teachers are named '{name}': give each its own name")
            if entry.HasField("ema"):
                self._add_ema(name, entry, teachers)
            elif not entry.net:
                raise self._error(f"the teacher '{name}' has no net")
            elif entry.net.endswith(".onnx"):
                self._add_onnx(name, entry, teachers)
            else:
                self._add_trained(name, entry, teachers, weights)
        return teachers

    def _error(self, fact: str, name: str = "teacher") -> SolverError:
        return SolverError(fact, self.reader.where(name))

    def _add_trained(self, name: str, entry: Any, teachers: Teachers, weights: list[str]) -> None:
        net, _ = self.reader.net(entry.net, "net", name, bundle.TEACHER)
        try:
            path = self._weights(name, entry, weights)
        except SolverError as missing:
            if self.count_blobs is None:
                raise
            path = Path(entry.weights)
            found = self.count_blobs(net, missing)
            layers = [LayerWeights(n, "", [None] * c, [False] * c) for n, c in found.items()]
        else:
            layers = read_weights(path)
        counts = {layer.name: len(layer.blobs) for layer in reversed(layers)}
        teachers.nets.append(Teacher(name, net, counts))
        teachers.weights.append(TeacherWeights(name, path, layers))

    def _weights(self, name: str, entry: Any, weights: list[str]) -> Path:
        reader = self.reader
        if self.override:
            path = Path(self.override)
            reader.notes.append(f"teacher '{name}': weights {path} from the command line")
            return path
        if entry.weights:
            return reader.find(entry.weights, "weights", " Train the teacher first")
        if weights:
            path = Path(weights.pop(0))
            reader.notes.append(
                f"-weights {path} goes to the teacher '{name}', which has none of its own"
            )
            return path
        raise self._error(
            f"the teacher '{name}' has no weights: set them in 'teacher {{ weights: "
            '"teacher.caffemodel" }\' or give -teacher_weights'
        )

    # ---- an average of the student

    def _add_ema(self, name: str, entry: Any, teachers: Teachers) -> None:
        if not 0 <= entry.ema < 1:
            raise self._error(f"ema must be in 0..1, below 1. Received: {entry.ema:g}", "ema")
        if entry.weights or self.override:
            raise self._error(
                f"the teacher '{name}' has an ema: it starts as a copy of the student and has no "
                "weights of its own. Leave out one of the two"
            )
        if self.reader.solver.student:
            raise self._error(f"the teacher '{name}' has an ema, which needs a single student")
        net = self.reader.net(entry.net, "net")[0] if entry.net else self.student
        teachers.nets.append(Teacher(name, net, None))
        teachers.ema_teachers[name] = entry.ema

    # ---- an ONNX model

    def _add_onnx(self, name: str, entry: Any, teachers: Teachers) -> None:
        if entry.weights or self.override:
            raise self._error(f"the teacher '{name}' is an ONNX model, which contains its weights")
        path = self.reader.find(entry.net, "net", " It contains the teacher's net and weights")
        ports = read_ports(path)
        inputs = [port.name for port in ports.inputs]
        blobs = self._blobs_for(name, inputs)
        net = pb.NetParameter(name=name)
        source = net.layer.add(name="data", type="Input")
        source.top.extend(blobs)
        model = net.layer.add(name="model", type="ONNXModel", bottom=blobs)
        model.source_line = self.reader.where("teacher")
        model.top.extend(port.name for port in ports.outputs)
        model.onnx_model_param.model = str(path)
        model.onnx_model_param.input.extend(inputs)
        model.onnx_model_param.output.extend(model.top)
        teachers.nets.append(Teacher(name, net, {}))
        teachers.weights.append(TeacherWeights(name, path, []))

    def _blobs_for(self, name: str, inputs: Sequence[str]) -> list[str]:
        """Return the student's blobs for a model's inputs: by name, else in order."""
        tops = [top for layer in self.student.layer if is_data(layer) for top in layer.top]
        data = list(dict.fromkeys(tops))
        if set(inputs) <= set(data):
            return list(inputs)
        if len(inputs) > len(data):
            raise self._error(
                f"the teacher '{name}' has {len(inputs)} inputs ({', '.join(inputs)}), but the "
                f"student's data layers have {len(data)} ({', '.join(data)})"
            )
        pairs = list(zip(inputs, data, strict=False))
        mapping = ", ".join(f"its input '{i}' is '{blob}'" for i, blob in pairs)
        self.reader.note([f"teacher '{name}': {mapping}"])
        return [blob for _, blob in pairs]

    # ---- layers for the student

    def injections(self, teachers: Teachers, student: Any) -> list[Injection]:
        """Return what ``inject`` asks for, and mark the layers that it freezes in ``student``.

        Raises:
            SolverError: there is no such teacher or layer.
        """
        found = []
        for entry in self.reader.solver.inject:
            teacher = self._injecting(entry, teachers)
            given = {w.name: w for w in teacher.layers if w.blobs}
            if entry.layer not in given:
                raise self._error(
                    f"inject: the teacher '{teacher.name}' has no layer '{entry.layer}' with "
                    f"parameters.{did_you_mean(entry.layer, given)} It has: {', '.join(given)}",
                    "inject",
                )
            to = entry.to or entry.layer
            targets = [layer for layer in student.layer if layer.name == to]
            if not targets:
                names = [layer.name for layer in student.layer]
                raise self._error(
                    f"inject: the student has no layer '{to}'.{did_you_mean(to, names)}", "inject"
                )
            for layer in targets if entry.freeze else ():
                layer.frozen = True
            source = f'inject {{ teacher: "{teacher.name}" layer: "{entry.layer}" }}'
            found.append(Injection(given[entry.layer], to, source, entry.freeze))
        return found

    def _injecting(self, entry: Any, teachers: Teachers) -> TeacherWeights:
        known = {t.name: t for t in teachers.weights if t.layers}
        if not entry.teacher and len(known) == 1:
            return next(iter(known.values()))
        if entry.teacher not in known:
            raise self._error(
                f"inject: no teacher with a .caffemodel is named '{entry.teacher}'."
                f"{did_you_mean(entry.teacher, known)} They are: {', '.join(known) or 'none'}",
                "inject",
            )
        return known[entry.teacher]
