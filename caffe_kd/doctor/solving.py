"""Checks of a solver: its learning rate, type, tests and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..analysis.reading import Target
from ..analysis.view import View
from ..core.errors import SolverError
from ..net.queries import batch_size
from ..proto import caffe_pb2 as pb
from ..proto import text
from ..solver import lr_policy
from ..solver.updates import rule_of
from .findings import Occurrence, Occurrences, target_check

_NO_RATE = 1e-9  # of base_lr: updates below float32's precision
_HIGH_RATE = 1.0
_MOST_DECAY = 0.1


@target_check(
    "solver",
    why="The solver cannot start.",
    do="Correct the file as the message says.",
)
def cannot_be_planned(target: Target) -> Occurrences:
    """A solver, or a net it names, that training refuses."""
    if target.unplanned is not None and not (target.missing and _is_missing(target)):
        fact = target.unplanned.message
        path = target.solver.net or target.solver.train_net
        beside = target.file.parent / Path(path).name
        if "no such file" in fact and path in fact and beside.is_file():
            fact += f" One of that name is: write '{beside.name}'"
        yield Occurrence("error", target.unplanned.where or str(target.file), fact)


def _is_missing(target: Target) -> bool:
    """Return whether missing weights are the only reason that training refuses the solver."""
    return "no such file" in str(target.unplanned) and "weights" in str(target.unplanned)


@target_check(
    "solver",
    why="Training cannot start without them. In a distillation solver they are missing until the "
    "teacher has been trained.",
    do="Train the teacher first, or name the file in the solver or with -teacher_weights.",
)
def weights_missing(target: Target) -> Occurrences:
    """Missing weights that the solver names."""
    for what in target.missing:
        yield Occurrence("warning", target.where("weights"), f"{what}: no such file")


@target_check(
    "solver",
    why="The learning rate is base_lr times a factor that lr_policy computes from the other "
    "settings; one that is not given is 0.",
    do="Write the settings of the policy: step: gamma, stepsize; multistep: gamma, stepvalue; exp: "
    "gamma; inv: gamma, power; poly: power; sigmoid: gamma, stepsize.",
)
def policy_settings(target: Target) -> Occurrences:
    """An lr_policy that is unknown or lacks its settings."""
    if target.solver is None:
        return
    where = target.where("lr_policy")
    try:
        for note in lr_policy.check(target.solver):
            yield Occurrence("error" if "base_lr" in note else "warning", where, note)
    except SolverError as error:
        yield Occurrence("error", where, error.message)


@target_check(
    "solver",
    why="At a learning rate of 0 training stops, and a growing one ends in a loss of NaN.",
    do="Compare gamma, stepsize and stepvalue with max_iter; caffe_kd train logs the rate.",
)
def rate_over_time(target: Target) -> Occurrences:
    """A learning rate that falls to 0 early, never changes though it should, or grows."""
    solver = target.solver
    if solver is None or solver.max_iter < 1 or not solver.base_lr:
        return
    try:
        lr_policy.check(solver)
        rates = [(i, _rate(solver, i)) for i in _samples(solver.max_iter)]
    except SolverError as error:
        if solver.lr_policy not in str(error) or "no finite rate" in str(error):
            yield Occurrence("warning", target.where("lr_policy"), error.message)
        return
    gone = next((i for i, r in rates if abs(r) < _NO_RATE * abs(solver.base_lr)), None)
    where = target.where("gamma" if solver.HasField("gamma") else "lr_policy")
    if gone is not None and gone < 0.9 * solver.max_iter:
        yield Occurrence("warning", where, f"the rate is practically 0 by iteration {gone}")
    highest = max(r for _, r in rates)
    if highest > 1.5 * rates[0][1] and solver.lr_policy != "sigmoid":
        yield Occurrence("warning", where, f"the rate grows from {rates[0][1]:g} to {highest:g}")
    if highest >= _HIGH_RATE and solver.type in ("SGD", "Nesterov", "Adam", "RMSProp"):
        yield Occurrence("warning", target.where("base_lr"), f"the rate reaches {highest:g}")


def _samples(last: int) -> list[int]:
    return sorted({round(last * k / 100) for k in range(100)})


def _rate(solver: object, iteration: int) -> float:
    """Return the learning rate of an iteration, with all policy steps before it."""
    param: object = solver
    policy = getattr(param, "lr_policy", "")
    values = list(getattr(param, "stepvalue", []))
    step = 0
    if policy == "step":
        step = lr_policy.next_step(param, iteration, 0)
    elif policy == "multistep":
        step = sum(1 for value in values if value <= iteration)
    return lr_policy.learning_rate(param, iteration, step)


@target_check(
    "solver",
    why="The stepvalues are applied in order: one after max_iter never, one that is smaller than "
    "the one before it immediately after that.",
    do="Write them in ascending order, below max_iter.",
)
def step_values(target: Target) -> Occurrences:
    """Stepvalues out of order, or after max_iter."""
    if target.solver is None or target.solver.lr_policy not in ("multistep", "step"):
        return
    solver, values = target.solver, list(target.solver.stepvalue)
    if solver.lr_policy == "step":
        if solver.stepsize >= solver.max_iter > 0:
            fact = f"stepsize {solver.stepsize} is not below max_iter {solver.max_iter}: no step"
            yield Occurrence("note", target.where("stepsize"), fact)
        return
    if values != sorted(values):
        yield Occurrence(
            "warning", target.where("stepvalue"), f"stepvalue is not ascending: {values}"
        )
    late = [value for value in values if value >= solver.max_iter > 0]
    if late:
        fact = f"stepvalue {late[0]} is not below max_iter {solver.max_iter}: no step there"
        yield Occurrence("note", target.where("stepvalue"), fact)


@target_check(
    "solver",
    why="Each test looks at the net as it is then. Before the last weights are pruned it has fewer "
    "zeros and is mostly better, so the best test is likely one of those.",
    do="Train without snapshot_best and early_stopping; or prune first, and go on from the "
    "caffemodel with pruning { keep_zeros: true } and them.",
)
def best_while_pruning(target: Target) -> Occurrences:
    """snapshot_best or early_stopping while a solver prunes gradually."""
    solver = target.solver
    if solver is None or not solver.HasField("pruning"):
        return
    is_gradual = solver.pruning.policy == pb.PruningParameter.GRADUAL
    for field in ("snapshot_best", "early_stopping"):
        if solver.HasField(field) and is_gradual and solver.pruning.sparsity:
            fact = f"{field} compares nets of different sparsity, on the way to "
            yield Occurrence("warning", target.where(field), f"{fact}{solver.pruning.sparsity:g}")


@target_check(
    "solver",
    why="The solver type refuses the setting, as in Caffe.",
    do="Remove momentum for AdaGrad and RMSProp; keep rms_decay, momentum and momentum2 from 0 "
    "to below 1.",
)
def rule_settings(target: Target) -> Occurrences:
    """A type that is unknown, or has a setting that it refuses."""
    if target.solver is None:
        return
    try:
        rule_of(target.solver)
    except SolverError as error:
        field = "momentum" if "omentum" in error.message else "type"
        yield Occurrence("error", target.where(field), error.message)
    if target.solver.regularization_type not in ("L1", "L2"):
        fact = f"Unknown regularization type: '{target.solver.regularization_type}'; L1 or L2"
        yield Occurrence("error", target.where("regularization_type"), fact)


@target_check(
    "solver",
    why="momentum has a different meaning in each solver type: the factor of the last update (SGD, "
    "Nesterov), beta1 (Adam), rho (AdaDelta); unset it is 0.",
    do="momentum: 0.9 for SGD, Nesterov and Adam, 0.95 for AdaDelta; always below 1.",
)
def momentum(target: Target) -> Occurrences:
    """A momentum that is missing where it is usual, or is 1 or more."""
    if target.solver is None or target.solver.type in ("AdaGrad", "RMSProp"):
        return
    value, rule = target.solver.momentum, target.solver.type
    if rule != "Adam" and value >= 1:
        yield Occurrence(
            "error", target.where("momentum"), f"momentum is {value:g}: past updates never decay"
        )
    elif value == 0:
        severity = "warning" if rule == "AdaDelta" else "note"
        yield Occurrence(severity, target.where("type"), f"{rule} without momentum")


@target_check(
    "solver",
    why="Weight decay is added to the gradient, so the learning rate, and in Adam the division by "
    "the gradients' size, apply to it too: it is not the weight decay of AdamW.",
    do="0.0005 or less is usual with SGD; with Adam use much less, or none.",
)
def weight_decay(target: Target) -> Occurrences:
    """A weight decay that is large, or combined with Adam."""
    if target.solver is None:
        return
    decay, where = target.solver.weight_decay, target.where("weight_decay")
    if decay > _MOST_DECAY or decay < 0:
        yield Occurrence("warning", where, f"weight_decay is {decay:g}")
    elif decay and target.solver.type in ("Adam", "RMSProp", "AdaGrad", "AdaDelta"):
        yield Occurrence("note", where, f"weight_decay {decay:g} with {target.solver.type}")


@target_check(
    "solver",
    why="Clipping applies to the sum of the gradients of iter_size batches, before it is divided: "
    "with more batches it clips sooner.",
    do="Multiply clip_gradients by iter_size to clip as with one batch.",
)
def clipping_sums(target: Target) -> Occurrences:
    """clip_gradients together with iter_size."""
    if (
        target.solver is not None
        and target.solver.iter_size > 1
        and target.solver.clip_gradients >= 0
    ):
        fact = f"clip_gradients {target.solver.clip_gradients:g} with iter_size "
        yield Occurrence(
            "warning", target.where("clip_gradients"), f"{fact}{target.solver.iter_size}"
        )


@target_check(
    "solver",
    why="An update uses iter_size * batch_size samples, in iter_size passes. BatchNorm uses each "
    "batch separately, and max_iter, display and the learning rate count updates.",
    do="Nothing, if a larger batch does not fit into memory.",
)
def several_passes(target: Target) -> Occurrences:
    """iter_size above 1."""
    if target.solver is None or target.solver.iter_size < 2:
        return
    view = target.training()
    sizes = [batch_size(node.proto) for node in view.data] if view is not None else []
    total = (
        f", {target.solver.iter_size * sizes[0]} samples an update" if sizes and sizes[0] else ""
    )
    yield Occurrence(
        "note", target.where("iter_size"), f"iter_size is {target.solver.iter_size}{total}"
    )


@target_check(
    "solver",
    why="The results are averages over so many samples: fewer than all leave some out, different "
    "ones in each test; more count some twice.",
    do="test_iter * batch_size = samples.",
)
def test_coverage(target: Target) -> Occurrences:
    """Tests that do not cover the test samples exactly once."""
    if target.solver is None:
        return
    tests = [view for view in target.views if not view.is_training]
    for batches, view in zip(target.solver.test_iter, tests, strict=False):
        for name, size, samples in _counted(view):
            seen = batches * size
            if seen != samples:
                severity = "warning" if seen < samples else "note"
                fact = f"test_iter {batches} * batch_size {size} = {seen} of the {samples} samples"
                yield Occurrence(severity, target.where("test_iter"), f"{fact} of layer '{name}'")


def _counted(view: View) -> Iterator[tuple[str, int, int]]:
    for node in view.data:
        samples = view.inference.counts.get(node.proto.name)
        size = batch_size(node.proto)
        if samples and size:
            yield node.proto.name, size, samples


@target_check(
    "solver",
    why="Only testing shows the accuracy on samples that the net was not trained on.",
    do="Name test_iter and test_interval, and a data layer with include { phase: TEST }.",
)
def no_test(target: Target) -> Occurrences:
    """A solver that never tests."""
    solver = target.solver
    if solver is None:
        return
    if not solver.test_iter:
        yield Occurrence("note", str(target.file), "the solver has no test net (no test_iter)")
    elif solver.test_interval > solver.max_iter > 0:
        fact = f"test_interval {solver.test_interval} is above max_iter {solver.max_iter}"
        yield Occurrence("note", target.where("test_interval"), f"{fact}: no test but the first")


@target_check(
    "solver",
    why="There are fewer updates than it takes to use each sample once.",
    do="max_iter * iter_size * batch_size / samples is the number of epochs.",
)
def less_than_a_pass(target: Target) -> Occurrences:
    """A training that ends before the first epoch does."""
    view = target.training()
    if target.solver is None or view is None or target.solver.max_iter < 1:
        return
    for name, size, samples in _counted(view):
        seen = target.solver.max_iter * target.solver.iter_size * size
        if seen < samples:
            fact = f"{seen} of the {samples} samples of layer '{name}' are used"
            yield Occurrence("note", target.where("max_iter"), fact)


@target_check(
    "solver",
    why="Weights that are not written are lost when the run ends or crashes.",
    do="snapshot: 1000, snapshot_after_train: true (the default), and a snapshot_prefix in a "
    "folder that exists.",
)
def snapshots(target: Target) -> Occurrences:
    """Snapshots that are never written, or whose folder does not exist."""
    solver = target.solver
    if solver is None:
        return
    if not solver.snapshot_after_train and not 0 < solver.snapshot <= solver.max_iter:
        fact = "no snapshot is ever written: snapshot_after_train is false and none is due before"
        yield Occurrence("warning", target.where("snapshot_after_train"), fact)
    elif not 0 < solver.snapshot <= solver.max_iter:
        where = target.where("snapshot") if solver.snapshot else str(target.file)
        yield Occurrence("note", where, "the only snapshot is the one at the end")
    folder = Path(solver.snapshot_prefix).parent
    if solver.snapshot_prefix and not folder.exists():
        fact = (
            f"the folder of snapshot_prefix, '{folder}', does not exist; it is made when needed, "
        )
        where = target.where("snapshot_prefix")
        yield Occurrence("note", where, f"{fact}but BVLC Caffe ends the run at its first snapshot")


@target_check(
    "solver",
    why="Fillers, dropout, crops and mirrors use different random numbers in each run.",
    do="random_seed: 1 makes a run reproducible.",
)
def no_seed(target: Target) -> Occurrences:
    """A solver without random_seed."""
    if target.solver is not None and target.solver.random_seed < 0:
        yield Occurrence("note", str(target.file), "random_seed is not given")


@target_check(
    "solver",
    why="It was replaced by type, a name, in 2015; giving both is an error.",
    do='type: "SGD" (or Nesterov, AdaGrad, RMSProp, AdaDelta, Adam).',
)
def solver_type(target: Target) -> Occurrences:
    """The older solver_type."""
    if target.solver is not None:
        where = text.locate(target.file, "solver_type")
        if where != str(target.file):
            yield Occurrence(
                "note", where, f'solver_type is the older form of type: "{target.solver.type}"'
            )


@target_check(
    "solver",
    why="It logs the mean of every blob and gradient in every pass, which is slow and makes a "
    "long log.",
    do="Leave it out unless you are looking for a NaN.",
)
def debug_info(target: Target) -> Occurrences:
    """debug_info in a training."""
    if target.solver is not None and target.solver.debug_info:
        yield Occurrence("note", target.where("debug_info"), "debug_info is on")
