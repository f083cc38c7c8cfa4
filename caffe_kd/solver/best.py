"""How an output of a test net goes: the best so far, and since when there was no better one."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from ..errors import SolverError, did_you_mean
from ..net import Net
from .plan import Plan


class Best:
    """Keeps the best value of a test net's output.

    The output of a loss is better where lower, and so is one that ``lower`` names; another is where
    higher. NaN is never better.

    Args:
        net: the test net.
        index: its number.
        output: a name among its outputs, of one value.
        min_delta: what a change must exceed to be better.
        where: ``file:line`` of the setting that asks for it.
        lower: names of outputs, the solver's ``lower_is_better``.

    Attributes:
        value: the best value; None before the first test.
        iteration: when that was.
        tests: how many tests there were since, without a better value.

    Raises:
        SolverError: the net has no such output, or it is not a single value.
    """

    def __init__(
        self,
        net: Net,
        index: int,
        output: str,
        min_delta: float = 0.0,
        where: str | None = None,
        lower: Collection[str] = (),
    ) -> None:
        if output not in net.outputs:
            raise SolverError(
                f"test net (#{index}) has no output '{output}'.{did_you_mean(output, net.outputs)} "
                f"Its outputs: {', '.join(net.outputs) or 'none'}",
                where,
            )
        if math.prod(net.shapes[output]) != 1:
            raise SolverError(
                f"output '{output}' of test net (#{index}) has {math.prod(net.shapes[output])} "
                "values: name one of a single value",
                where,
            )
        if not min_delta >= 0:
            raise SolverError(f"min_delta must be at least 0. Received: {min_delta:g}", where)
        self.index = index
        self.output = output
        self.min_delta = min_delta
        maker = next(step for step in reversed(net.steps) if output in step.tops)
        is_lower = maker.layer.is_loss or net.loss_weights.get(output) or output in lower
        self.sign = -1 if is_lower else 1
        self.value: float | None = None
        self.iteration = -1
        self.tests = 0
        self._tested = -1

    def note(self, iteration: int, results: Sequence[dict[str, list[float]]]) -> bool:
        """Take in what the test nets gave in an iteration; say whether it is the best so far.

        What a run that was resumed tests again is taken in once.
        """
        if iteration <= self._tested or self.output not in results[self.index]:
            return False
        self._tested = iteration
        (value,) = results[self.index][self.output]
        least = -math.inf if self.value is None else self.sign * self.value + self.min_delta
        if not self.sign * value > least:
            self.tests += 1
            return False
        self.value, self.iteration, self.tests = value, iteration, 0
        return True

    def state(self) -> dict[str, np.ndarray]:
        """Return what an interrupted run needs of it to go on."""
        value = math.nan if self.value is None else self.value
        counts = (self.iteration, self.tests, self._tested)
        return {"value": np.array(value, np.float64), "counts": np.array(counts, np.int64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from where ``state`` was taken."""
        value = float(state["value"])
        self.value = None if math.isnan(value) else value
        self.iteration, self.tests, self._tested = (int(count) for count in state["counts"])


class Watch:
    """What a solver asks to be watched in its tests.

    Args:
        plan: what is trained.
        nets: the test nets.

    Attributes:
        kept: one ``Best`` for each of ``early_stopping`` and ``snapshot_best`` that is asked for.

    Raises:
        SolverError: there is no such test net or output, or a setting is out of range.
    """

    def __init__(self, plan: Plan, nets: Sequence[Net]) -> None:
        self.kept: dict[str, Best] = {}
        solver = plan.solver
        for name in ("early_stopping", "snapshot_best"):
            if solver.HasField(name) and not nets:
                raise SolverError(
                    f"{name} looks at a test net's output, and the solver has no test net: give "
                    "it a test_iter and a test_interval",
                    plan.where(name),
                )
        self.patience = solver.early_stopping.patience
        if solver.HasField("early_stopping"):
            self.kept["early_stopping"] = self._stopping(plan, nets)
        if solver.HasField("snapshot_best"):
            output, where = solver.snapshot_best, plan.where("snapshot_best")
            index = next((i for i, net in enumerate(nets) if output in net.outputs), 0)
            self.kept["snapshot_best"] = Best(
                nets[index], index, output, where=where, lower=solver.lower_is_better
            )
        outputs = {name for net in nets for name in net.outputs}
        for name in solver.lower_is_better:
            if self.kept and name not in outputs:
                raise SolverError(
                    f"lower_is_better: no test net has an output '{name}'."
                    f"{did_you_mean(name, outputs)}",
                    plan.where("lower_is_better"),
                )

    @staticmethod
    def _stopping(plan: Plan, nets: Sequence[Net]) -> Best:
        param, where = plan.solver.early_stopping, plan.where("early_stopping")
        index = param.test_net
        if param.patience < 1:
            raise SolverError(f"patience must be at least 1. Received: {param.patience}", where)
        if not 0 <= index < len(nets):
            raise SolverError(
                f"early_stopping: there is no test net (#{index}). Received: {len(nets)} test "
                "net(s), counted from 0",
                where,
            )
        lower = plan.solver.lower_is_better
        return Best(nets[index], index, param.output, param.min_delta, where, lower)

    def note(self, iteration: int, results: Sequence[dict[str, list[float]]]) -> bool:
        """Take in the tests of an iteration; say whether ``snapshot_best`` asks for a snapshot."""
        better = [name for name, best in self.kept.items() if best.note(iteration, results)]
        return "snapshot_best" in better

    @property
    def ended(self) -> bool:
        """Whether ``early_stopping`` ends the training."""
        best = self.kept.get("early_stopping")
        return best is not None and best.tests >= self.patience

    def reason(self) -> str:
        """Return, in words, why the training has ended."""
        best = self.kept["early_stopping"]
        last = "it was never a number"
        if best.value is not None:
            end = "lowest" if best.sign < 0 else "highest"
            last = f"its best is the {end}, {best.value:g} in iteration {best.iteration}"
        return (
            f"Early stopping: {best.output} of test net (#{best.index}) has not become better in "
            f"{self.patience} tests; {last}"
        )
