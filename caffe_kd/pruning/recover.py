"""The solver with which a pruned net learns from the unpruned one, and the files of both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.shape_inference import infer_shapes
from ..core.errors import CaffeKDError, NetError
from ..core.files import find
from ..net.queries import batch_size
from ..proto import caffe_pb2 as pb
from ..proto.compose import override_distillation
from ..proto.filter import filter_net

STAGE = "distil"  # in which a student's own loss is left out


@dataclass(frozen=True)
class Recovery:
    """How a pruned net learns from the unpruned one.

    Attributes:
        iterations: of the training.
        temperature: of the distillation.
        alpha: the share of the teacher's outputs in the objective, the rest being the labels'.
    """

    iterations: int = 938
    base_lr: float = 0.01
    temperature: float = 4.0
    alpha: float = 0.9


def with_distil_stage(net: Any, file: str | Path | None) -> Any:
    """Return a net whose classification losses are left out in TRAIN with stage "distil".

    Raises:
        NetError: it has none.
    """
    copy = pb.NetParameter()
    copy.CopyFrom(net)
    losses = _losses(copy)
    if not losses:
        raise NetError(
            "has no SoftmaxWithLoss in phase TRAIN, whose scores the pruned net could learn from "
            "the unpruned one: leave -solver_output out",
            str(file) if file else None,
        )
    for layer in losses:
        if layer.include:
            for rule in layer.include:
                if STAGE not in rule.not_stage:
                    rule.not_stage.append(STAGE)
        elif not any(STAGE in rule.stage for rule in layer.exclude):
            layer.exclude.add(phase=pb.TRAIN, stage=[STAGE])
    return copy


def solver_for(
    net: Any,
    model: Path,
    weights: Path,
    teacher: tuple[Path, Path],
    solver: Path,
    recovery: Recovery | None = None,
) -> Any:
    """Return a solver that distils from the unpruned net.

    Args:
        net: the pruned net.
        model: its prototxt.
        weights: its caffemodel.
        teacher: the unpruned net's prototxt and caffemodel.
        solver: the file that the solver will be in.
        recovery: how it learns.
    """
    recovery = recovery or Recovery()
    result = pb.SolverParameter(net=_named(model, solver))
    result.weights.append(_named(weights, solver))
    result.teacher.add(net=_named(teacher[0], solver), weights=_named(teacher[1], solver))
    result.layer.extend(_distilling(layer) for layer in _losses(net))
    override_distillation(result, recovery.temperature, recovery.alpha)
    result.train_state.stage.append(STAGE)
    batches = _test_batches(net, model)
    if batches:
        result.test_iter.append(batches)
        result.test_interval = recovery.iterations
    result.type = "SGD"
    result.base_lr, result.momentum = recovery.base_lr, 0.9
    result.lr_policy, result.power = "poly", 1
    result.display = result.average_loss = min(100, recovery.iterations)
    result.max_iter = recovery.iterations
    result.snapshot_prefix = solver.with_name(f"{model.stem}_distilled").as_posix()
    result.solver_mode = pb.SolverParameter.CPU
    result.random_seed = 1
    return result


def _losses(net: Any) -> list[Any]:
    train = filter_net(net, pb.NetState(phase=pb.TRAIN, stage=net.state.stage))
    names = {layer.name for layer in train.layer if layer.type == "SoftmaxWithLoss"}
    return [x for x in net.layer if x.name in names and x.type == "SoftmaxWithLoss"]


def _distilling(loss: Any) -> Any:
    """Return the loss that takes the place of one of labels alone."""
    logits, label = loss.bottom[:2]
    layer = pb.LayerParameter(name=f"{loss.name}_distilling", type="DistillingLoss")
    layer.bottom.extend([logits, f"teacher/{logits}", label])
    layer.top.append(layer.name)
    layer.include.add(phase=pb.TRAIN)
    if loss.loss_weight:
        layer.loss_weight.append(loss.loss_weight[0])
    if loss.HasField("loss_param"):
        layer.loss_param.CopyFrom(loss.loss_param)
    if loss.softmax_param.axis != 1:
        layer.distilling_loss_param.axis = loss.softmax_param.axis
    return layer


def _test_batches(net: Any, file: Path) -> int:
    """Return how many batches the test data has; 0 where it is absent."""
    test = filter_net(net, pb.NetState(phase=pb.TEST, stage=net.state.stage))
    try:
        counts = infer_shapes(test, pb.TEST, file).counts
    except CaffeKDError:
        return 0
    batches = [
        counts[layer.name] // (batch_size(layer) or 1)
        for layer in test.layer
        if counts.get(layer.name)
    ]
    return max(batches, default=0)


def _named(path: Path, solver: Path) -> str:
    """Return what a solver calls a file: its path from the solver's folder if it is near."""
    name = Path(os.path.relpath(path, solver.parent)).as_posix()
    is_near = name.count("../") < 3 and find(name, solver).resolve() == path.resolve()
    return name if is_near else path.resolve().as_posix()
