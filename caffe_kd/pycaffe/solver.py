"""Solvers: pycaffe's interface to the training loop."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

from ..proto import caffe_pb2 as pb
from ..proto import text
from ..solver.plan import Overrides, TrainingPlan, read_plan
from .loop import Callback, Loop
from .net import Net

Path = str | PathLike[str]


class Solver:
    """Trains the net that a solver's prototxt describes.

    ``net`` and ``test_nets`` share the weights that are trained. After ``step`` they show the last
    iteration: values, the gradients of blobs, and as a parameter's diff what was subtracted from
    it. What is written to their parameters and inputs is used in the next iteration. Their data
    layers move on by one batch with each iteration, and with each forward pass of their own. Hooks
    of ``net`` are called in its iterations too, which then run layer by layer; those of test nets
    only in passes of their own.

    Args:
        solver_file: the solver's prototxt.

    Raises:
        CaffeKDError: a file is missing or wrong.

    Source: pycaffe's solvers. ``solver_mode`` in the file has no effect, as there: see
    ``set_mode_gpu``.
    """

    rule: str | None = None  # the update rule; None: as the file says

    def __init__(self, solver_file: Path) -> None:
        plan = _read(solver_file)
        if self.rule is not None:
            plan.solver.type = self.rule
        self._begin(plan)

    @classmethod
    def of(cls, plan: TrainingPlan) -> Solver:
        """Return the solver of a plan."""
        solver = cls.__new__(cls)
        solver._begin(plan)
        return solver

    def _begin(self, plan: TrainingPlan) -> None:
        self._loop = Loop(plan)

    @property
    def net(self) -> Net:
        """The net that is trained."""
        return self._loop.net

    @property
    def test_nets(self) -> list[Net]:
        """The nets for testing."""
        return self._loop.test_nets

    @property
    def iter(self) -> int:
        """The number of updates done."""
        return self._loop.core.iter

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        return self._loop.rate

    @property
    def param(self) -> Any:
        """The SolverParameter; changes as in ``solver.param.base_lr = 0.1`` take effect at once."""
        return self._loop.core.param

    def step(self, iterations: int) -> None:
        """Train for some iterations.

        Raises:
            NonFiniteLoss: the loss became NaN or infinite.
        """
        self._loop.step(iterations)

    def solve(self, resume_file: Path | None = None) -> None:
        """Train to max_iter, with tests and snapshots.

        Args:
            resume_file: a solverstate to resume from.

        Raises:
            NonFiniteLoss: the loss became NaN or infinite.
        """
        self._loop.solve(None if resume_file is None else fspath(resume_file))

    def apply_update(self) -> None:
        """Update the parameters by their diffs, as they are, and count an iteration.

        After it a diff is what was subtracted. The next backward pass adds to that, so it begins
        with ``net.clear_param_diffs()``.
        """
        self._loop.apply_update()

    def restore(self, path: Path) -> None:
        """Resume from a solverstate and the weights it names.

        Raises:
            SolverError: the snapshot belongs to another net or solver type.
            ParseError: a file is missing or damaged.
        """
        self._loop.resume(fspath(path))

    def snapshot(self) -> None:
        """Write ``<snapshot_prefix>_iter_<iter>.caffemodel`` and ``.solverstate``."""
        self.net._graph.pull_weights()
        self._loop.core.snapshot()

    def share_weights(self, net: Net) -> None:
        """Let a net use the weights of this solver's net."""
        net.share_with(self.net)

    def add_callback(self, on_start: Callback, on_gradients_ready: Callback) -> None:
        """Add callbacks to each iteration: before its passes, and between them and the update.

        ``on_gradients_ready`` finds the gradients as the diffs of ``net``; what it writes to those
        of parameters is what the update uses.
        """
        self._loop.on_iteration.append(on_start)
        self._loop.on_gradients_ready.append(on_gradients_ready)


class SGDSolver(Solver):
    """Stochastic gradient descent, whatever type the file names; see ``Solver``."""

    rule = "SGD"


class NesterovSolver(Solver):
    """Nesterov's accelerated gradient, whatever type the file names; see ``Solver``."""

    rule = "Nesterov"


class AdaGradSolver(Solver):
    """AdaGrad, whatever type the file names; see ``Solver``."""

    rule = "AdaGrad"


class RMSPropSolver(Solver):
    """RMSProp, whatever type the file names; see ``Solver``."""

    rule = "RMSProp"


class AdaDeltaSolver(Solver):
    """AdaDelta, whatever type the file names; see ``Solver``."""

    rule = "AdaDelta"


class AdamSolver(Solver):
    """Adam, whatever type the file names; see ``Solver``."""

    rule = "Adam"


def _read(solver_file: Path) -> TrainingPlan:
    """Read a solver's prototxt; max_iter may be missing, since ``step`` does not need it."""
    path = fspath(solver_file)
    if text.read(path, pb.SolverParameter()).HasField("max_iter"):
        return read_plan(path)
    plan = read_plan(path, Overrides(max_iter=0))
    plan.solver.ClearField("max_iter")
    return plan


_SOLVERS = (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)


def get_solver(solver_file: Path) -> Solver:
    """Return the solver of a prototxt, of the class that its ``type`` names.

    Raises:
        CaffeKDError: a file is missing or wrong.
    """
    plan = _read(solver_file)
    by_rule: dict[str, type[Solver]] = {str(cls.rule): cls for cls in _SOLVERS}
    return by_rule.get(plan.solver.type, Solver).of(plan)
