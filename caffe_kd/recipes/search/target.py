"""The solver that is searched: its settings, and its files with other settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...core.errors import SolverError, UsageError
from ...core.files import write_atomically
from ...net import Net
from ...proto import caffe_pb2 as pb
from ...proto import schedule, text
from ...proto.compose import override_distillation
from ...proto.file_fields import full_path, with_full_paths
from ...proto.filter import is_included
from ...proto.upgrade import Notes
from ...solver.plan import Overrides, read_plan
from ...solver.reading import Reader
from .space import Values
from .validation import STAGE, Split

SOLVER, NET, DISTILLER = "solver.prototxt", "net.prototxt", "distiller.prototxt"
_TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")
_FEWEST_TESTS = 8  # in a trial, to detect hopeless ones early


class SearchTarget:
    """A solver and its nets, whose settings can be changed.

    Args:
        path: the solver's prototxt.
        teacher_weights: a file in place of the teacher's own; None: its own.
        max_iter: iterations of a trial; None: the solver's.
        notify: prints a line for the user.

    Attributes:
        own: the solver's own settings, by name.
        plan: its plan.

    Raises:
        CaffeKDError: the solver is wrong, or cannot be searched.
    """

    def __init__(
        self,
        path: Path,
        teacher_weights: str | None,
        max_iter: int | None,
        notify: Callable[[str], None],
    ) -> None:
        if max_iter is not None and max_iter < 1:
            raise UsageError(f"-max_iter must be at least 1. Received: {max_iter}")
        self.plan = plan = read_plan(path, Overrides(teacher_weights=teacher_weights))
        self._max_iter = max_iter or plan.solver.max_iter
        solver = plan.solver
        if plan.students:
            raise UsageError("a solver with several students cannot be searched")
        self._student = with_full_paths(plan.student, plan.train.file)
        self._distiller: Any = None
        if solver.HasField("distiller_net"):
            reader = Reader(solver, path, Notes())
            net, file = reader.net(solver.distiller_net, "distiller_net", "distiller")
            self._distiller = with_full_paths(net, file)
        self._train_state = pb.NetState(phase=pb.TRAIN)
        self._train_state.MergeFrom(plan.student.state)
        self._train_state.MergeFrom(solver.train_state)
        self._settle()
        self.own = self._own()
        self._split(notify)

    @property
    def _nets(self) -> list[Any]:
        return [net for net in (self._student, self._distiller) if net is not None]

    def _settle(self) -> None:
        """Create a solver of its own with absolute paths."""
        plan = self.plan
        self._solver = pb.SolverParameter()
        self._solver.CopyFrom(plan.solver)
        solver = self._solver
        for field in (*_TRAIN_FIELDS, "layer", "snapshot_prefix"):
            solver.ClearField(field)
        solver.net = NET
        if self._distiller is not None:
            solver.distiller_net = DISTILLER
        solver.test_net[:] = [full_path(name, plan.file) for name in solver.test_net]
        solver.weights[:] = [str(path.resolve()) for path in plan.student_weights]
        weights = {teacher.name: teacher.path for teacher in plan.teachers}
        for entry in solver.teacher:
            if entry.net:
                entry.net = full_path(entry.net, plan.file)
            if not entry.net.endswith(".onnx") and not entry.HasField("ema"):
                entry.weights = str(weights[entry.name or "teacher"].resolve())

    def _own(self) -> Values:
        own: Values = {}
        losses = [x for net in self._nets for x in net.layer if x.type == "DistillingLoss"]
        if losses:
            own["temperature"] = losses[0].distilling_loss_param.temperature
            if all(len(loss.bottom) == 3 for loss in losses):  # two have no labels
                own["alpha"] = losses[0].distilling_loss_param.alpha
        weights = list(_given_weights(self._distiller))
        if weights:
            own["loss_weight"] = weights[0]
        own["base_lr"] = self._solver.base_lr
        batches = [x.data_param.batch_size for x in self._training_data(self._student)]
        if batches:
            own["batch_size"] = batches[0]
        own["weight_decay"] = self._solver.weight_decay
        return own

    def _training_data(self, net: Any) -> Iterator[Any]:
        for layer in net.layer:
            if layer.type == "Data" and is_included(layer, self._train_state):
                yield layer

    def _split(self, notify: Callable[[str], None]) -> None:
        """Determine the validation samples."""
        solver, student = self._solver, self._student
        stages = [STAGE in state.stage for state in solver.test_state]
        if any(stages) and not solver.test_net and not solver.test_net_param:
            index = stages.index(True)
            self._searched, self._test_iter = student, solver.test_iter[index]
            self._test_state = [solver.test_state[index]]
            tested = [
                x
                for x in student.layer
                if x.type == "Data" and is_included(x, self._state_of_tests())
            ]
            _check_apart(list(self._training_data(student)), tested)
            notify(f"validation: the test net of stage '{STAGE}'")
            return
        self._test_state = list(solver.test_state[:1])
        file = self.plan.train.file or self.plan.file
        split = Split(student, self._train_state, self._state_of_tests(), file, notify)
        self._searched, self._test_iter = split.net, split.batches
        notify("validation: the last tenth of the training samples, which no trial trains on")

    def _state_of_tests(self) -> Any:
        state = pb.NetState(phase=pb.TEST)
        state.MergeFrom(self._student.state)
        for given in self._test_state:
            state.MergeFrom(given)
        return state

    # ---- files

    def trial(self, values: Values) -> dict[str, Any]:
        """Return the files, by name, for training with some settings and testing by validation."""
        messages = self._with(values, self._searched, self._max_iter)
        solver = messages[SOLVER]
        for field in ("test_net", "test_net_param", "snapshot_best", "early_stopping"):
            solver.ClearField(field)
        solver.test_iter[:] = [self._test_iter]
        del solver.test_state[:]
        solver.test_state.extend(self._test_state)
        solver.test_interval = self._trial_interval(solver)
        solver.test_initialization = False
        solver.snapshot = 0
        solver.snapshot_after_train = False
        return messages

    @staticmethod
    def _trial_interval(solver: Any) -> int:
        interval = solver.test_interval
        seldom = interval < 1 or solver.max_iter < _FEWEST_TESTS * interval
        return max(1, solver.max_iter // _FEWEST_TESTS) if seldom else int(interval)

    def final(self, values: Values) -> dict[str, Any]:
        """Return the files, by name, for training with some settings on all samples."""
        return self._with(values, self._student, self._solver.max_iter)

    def digests(self, values: Values) -> dict[str, str]:
        """Return digests of the files and weights that a trial with some settings depends on."""
        contents = {
            name: text.to_text(message).encode() for name, message in self.trial(values).items()
        }
        contents |= {f"teacher '{t.name}'": t.path.read_bytes() for t in self.plan.teachers}
        return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}

    def _with(self, values: Values, student: Any, max_iter: int) -> dict[str, Any]:
        solver, net = pb.SolverParameter(), pb.NetParameter()
        solver.CopyFrom(self._solver)
        solver.max_iter = max_iter
        net.CopyFrom(student)
        messages = {SOLVER: solver, NET: net}
        if self._distiller is not None:
            messages[DISTILLER] = pb.NetParameter()
            messages[DISTILLER].CopyFrom(self._distiller)
        for message in (m for name, m in messages.items() if name != SOLVER):
            override_distillation(message, values.get("temperature"), values.get("alpha"))
        if "loss_weight" in values:
            _multiply_weights(messages[DISTILLER], values["loss_weight"] / self.own["loss_weight"])
        if "base_lr" in values:
            solver.base_lr = values["base_lr"]
        if "weight_decay" in values:
            solver.weight_decay = values["weight_decay"]
        if "batch_size" in values:
            factor = values["batch_size"] / self.own["batch_size"]
            for layer in self._training_data(net):
                size = round(layer.data_param.batch_size * factor)
                layer.data_param.batch_size = max(1, size)
            _stretch(solver, 1 / factor)
            for name, message in messages.items():
                for layer in message.layer if name != SOLVER else ():
                    schedule.stretch(layer, 1 / factor)
        return messages


def write(folder: Path, messages: dict[str, Any], prefix: str = "") -> Path:
    """Write files, with a prefix to their names, and return the solver's path."""
    for name, message in messages.items():
        if name == SOLVER:
            message.net = prefix + NET
            if message.HasField("distiller_net"):
                message.distiller_net = prefix + DISTILLER
        write_atomically(folder / f"{prefix}{name}", text.to_text(message).encode())
    return folder / f"{prefix}{SOLVER}"


def measured(net: Net, asked: str | None) -> str:
    """Return the output of a test net that trials are compared by: an accuracy, else a loss."""
    if asked:
        return asked
    tops = [(node.layer, top) for node in net.nodes for top in node.tops if top in net.outputs]
    accuracies = [top for layer, top in tops if layer.type == "Accuracy"]
    losses = [top for layer, top in tops if layer.is_loss]
    if not accuracies + losses:
        raise SolverError(
            "the test net has no Accuracy and no loss: name with -measure the output by "
            f"which trials are compared. Its outputs: {', '.join(net.outputs) or 'none'}"
        )
    return (accuracies + losses)[0]


def _given_weights(distiller: Any) -> Iterator[float]:
    """Yield the loss weights given in a distiller, if there is one."""
    for layer in distiller.layer if distiller is not None else ():
        yield from (weight for weight in layer.loss_weight if weight > 0)


def _multiply_weights(distiller: Any, factor: float) -> None:
    """Multiply the loss weights given in a distiller."""
    for layer in distiller.layer:
        layer.loss_weight[:] = [weight * factor for weight in layer.loss_weight]


def _check_apart(trained: list[Any], tested: list[Any]) -> None:
    """Refuse validation samples that are also training samples."""
    for one in (layer.data_param for layer in trained):
        for layer in tested:
            other = layer.data_param
            ends = [x.first + x.count if x.HasField("count") else 1 << 62 for x in (one, other)]
            if one.source == other.source and one.first < ends[1] and other.first < ends[0]:
                raise SolverError(
                    f"layer '{layer.name}' (Data): the validation samples are among the training "
                    "samples: leave them out of the layer of phase TRAIN with first or count",
                    layer.source_line or None,
                )


def _stretch(solver: Any, factor: float) -> None:
    """Scale a solver's iterations, to use the same number of samples with other batch sizes."""
    for field in ("max_iter", "test_interval", "stepsize", "display", "snapshot"):
        value = getattr(solver, field)
        if solver.HasField(field) and value > 0:
            setattr(solver, field, max(1, round(value * factor)))
    solver.stepvalue[:] = [round(value * factor) for value in solver.stepvalue]
    for field in ("begin_iter", "end_iter", "frequency"):
        if solver.pruning.HasField(field):
            value = round(getattr(solver.pruning, field) * factor)
            setattr(solver.pruning, field, value if field == "begin_iter" else max(1, value))
    rounding = solver.quantization
    if rounding.start_iter:
        rounding.start_iter = round(rounding.start_iter * factor)
    if rounding.HasField("freeze_range_iter"):
        freeze = round(rounding.freeze_range_iter * factor)
        rounding.freeze_range_iter = max(rounding.start_iter + 1, freeze)
    if solver.lr_policy == "exp":
        solver.gamma = solver.gamma ** (1 / factor)
    elif solver.lr_policy in ("inv", "sigmoid"):
        solver.gamma = solver.gamma / factor
