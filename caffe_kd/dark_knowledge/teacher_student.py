"""A teacher and its student as one net in phase TEST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..analysis.reading import ReadOptions, read_target
from ..core.errors import NetError, UsageError, did_you_mean
from ..net import Net, read_net
from ..net.weights import lacking
from ..proto import bundle
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights, read_weights
from ..proto.compose import Teacher, compose
from ..proto.filter import filter_net
from ..solver.building import prefixed

_OWN_SCORES = {"SoftmaxWithLoss", "Accuracy"}  # whose first bottom is the logits
_COMPARING = {
    *("DistillingLoss", "DecoupledDistillingLoss", "DISTLoss"),
    *("KnowledgeDistillation", "TempSoftmaxCrossEntropyLoss"),
}
_DEFAULT_TEMPERATURE = 4.0


@dataclass
class TeacherStudent:
    """A net in phase TEST that contains a teacher and perhaps its student.

    Attributes:
        net: the net, with weights.
        teacher: the blob of the teacher's logits.
        student: the blob of the student's logits; None without a student.
        temperature: that of the distillation.
        others: the solver's other teachers.
        notes: warnings for the user.
    """

    net: Net
    teacher: str
    student: str | None
    temperature: float = _DEFAULT_TEMPERATURE
    others: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of_solver(
    path: str | Path, weights: str | None = None, teacher: str | None = None
) -> TeacherStudent:
    """Return a teacher and the student of a solver that distils.

    Args:
        path: the solver's prototxt.
        weights: the trained student's snapshot.
        teacher: which of several teachers; None: the first.

    Raises:
        CaffeKDError: the solver or one of its files is wrong, or it has no such trained teacher.
    """
    target = read_target(path, ReadOptions(weights))
    if target.solver is None:
        raise UsageError(f"{path} is a net: give it as -model, with -weights")
    if target.plan is None:
        raise target.unplanned or NetError("cannot be read", str(path))
    plan = target.plan
    known = {t.name: t for t in plan.teachers}
    if not known:
        raise UsageError(f"{path} names no teacher with weights: give -model and -weights of a net")
    if teacher is not None and teacher not in known:
        raise UsageError(
            f"-teacher: {path} has no teacher '{teacher}' with net and weights."
            f"{did_you_mean(teacher, known)} It has: {', '.join(known)}"
        )
    trained = known[teacher] if teacher is not None else next(iter(known.values()))
    loss = _comparison(plan.train.param, trained.name)
    blobs, temperature = (None, None), _DEFAULT_TEMPERATURE
    if loss is not None:
        blobs = loss.bottom[0], loss.bottom[1].removeprefix(f"{trained.name}/")
        temperature = _temperature(loss)
    state = pb.NetState(phase=pb.TEST)
    for given in target.solver.test_state[:1]:
        state.MergeFrom(given)
    chosen = plan.teacher_nets[trained.name]
    pair = _compose(target.student, chosen, blobs, state, plan.train.file)
    if trained.layers:  # an ONNX model holds its weights itself
        _copy_weights(pair, prefixed(trained.name, trained.layers), str(trained.path))
    for file in plan.student_weights:
        _copy_weights(pair, read_weights(file), str(file))
    pair.temperature = temperature
    pair.others = [name for name in known if name != trained.name]
    return pair


def of_models(models: Sequence[str], weights: Sequence[str]) -> TeacherStudent:
    """Return a teacher, given by net and weights, and perhaps its student, given second.

    Raises:
        CaffeKDError: a file is wrong, or there are not as many weights as nets.
    """
    if len(models) != len(weights) or not 1 <= len(models) <= 2:
        raise UsageError(
            "-model and -weights go in pairs: the teacher's, and perhaps the student's after a "
            f"comma. Received: {len(models)} and {len(weights)}"
        )
    nets, layers = [read_net(path) for path in models], [read_weights(path) for path in weights]
    state = pb.NetState(phase=pb.TEST)
    if len(nets) == 1:
        param = filter_net(nets[0], state)
        pair = TeacherStudent(Net(param, pb.TEST, models[0]), _scores_of(param, models[0]), None)
        _copy_weights(pair, layers[0], weights[0])
        return pair
    teacher = Teacher(bundle.TEACHER, nets[0], None)
    pair = _compose(nets[1], teacher, (None, None), state, Path(models[1]))
    _copy_weights(pair, prefixed(teacher.name, layers[0]), weights[0])
    _copy_weights(pair, layers[1], weights[1])
    return pair


def _copy_weights(pair: TeacherStudent, layers: Sequence[LayerWeights], source: str) -> None:
    """Copy a file's weights, some of which must fit, and note which layers still have none."""
    pair.net.copy_weights(layers, source).check()
    sentence = lacking(pair.net)
    pair.notes = [sentence] if sentence is not None else []


def _comparison(net: Any, teacher: str) -> Any:
    """Return the first layer that compares a teacher's logits with a student's, or None."""
    for layer in net.layer:
        if layer.type in _COMPARING and layer.bottom[1].startswith(f"{teacher}/"):
            return layer
    return None


def _temperature(loss: Any) -> float:
    if loss.type != "DistillingLoss" or loss.distilling_loss_param.HasField("temperature_schedule"):
        return _DEFAULT_TEMPERATURE
    return float(loss.distilling_loss_param.temperature)


def _compose(
    student: Any,
    teacher: Teacher,
    blobs: tuple[str | None, str | None],
    state: Any,
    file: Path | None,
) -> TeacherStudent:
    """Return both nets as one, in phase TEST, on the student's data."""
    of_student, of_teacher = blobs
    if of_teacher is None:
        of_teacher = _scores_of(filter_net(teacher.net, state), f"teacher '{teacher.name}'")
    if of_student is None:
        of_student = _scores_of(filter_net(student, state), str(file))
    wanted = pb.NetParameter()
    blob = f"{teacher.name}/{of_teacher}"
    wanted.layer.add(name="dark_knowledge", type="Silence", bottom=[blob])
    net = Net(filter_net(compose(student, [teacher], wanted), state), pb.TEST, file)
    return TeacherStudent(net, blob, of_student)


def _scores_of(net: Any, where: str) -> str:
    """Return the blob of a classifier's logits.

    Raises:
        NetError: the net has no loss, Accuracy or Softmax to find them by, or no layer produces its
            bottom.
    """
    made_by = {top: layer for layer in net.layer for top in layer.top if top not in layer.bottom}
    losses = [x for x in net.layer if x.type in _OWN_SCORES | _COMPARING]
    losses = losses or [x for x in net.layer if x.type == "Softmax"]
    if not losses and net.layer and net.layer[-1].type == "ONNXModel":
        return str(net.layer[-1].top[0])
    if not losses:
        raise NetError(
            "the blob of the logits cannot be found: it needs a SoftmaxWithLoss, Accuracy or "
            "Softmax in TEST",
            where,
        )
    layer = losses[-1]
    blob = _first_bottom(layer, made_by)
    while (layer := made_by.pop(blob)).type == "Softmax":  # no layer is visited twice
        blob = _first_bottom(layer, made_by)
    return blob


def _first_bottom(layer: Any, made_by: Mapping[str, Any]) -> str:
    blob = str(layer.bottom[0]) if layer.bottom else ""
    if blob not in made_by:
        raise NetError(
            f"layer '{layer.name}' ({layer.type}): Unknown bottom blob '{blob}': no layer before "
            f"this one produces it.{did_you_mean(blob, made_by)}",
            layer.source_line or None,
        )
    return blob
