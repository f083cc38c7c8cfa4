"""Monitors an output of a test net: its best value, and how many tests ago that was."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import SolverError, did_you_mean
from ...net import Net

if TYPE_CHECKING:
    from ..solver import Solver


class MetricMonitor:
    """Tracks the best value of a test net's output.

    Lower is better for the output of a loss and for those that ``lower`` names, higher for others.
    NaN and infinity are never better.

    Args:
        net: the test net.
        index: its number.
        output: the name of one of its outputs, which has a single value.
        min_delta: the smallest change that counts as an improvement.
        where: ``file:line`` of the setting.
        lower: names of outputs, the solver's ``lower_is_better``.

    Attributes:
        value: the best value; None before the first test.
        iteration: its iteration.
        tests: the number of tests since then.

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
                "values: name an output with a single value",
                where,
            )
        if not min_delta >= 0:
            raise SolverError(f"min_delta must be at least 0. Received: {min_delta:g}", where)
        self.index = index
        self.output = output
        self.min_delta = min_delta
        producer = next(node for node in reversed(net.nodes) if output in node.tops)
        is_lower = producer.layer.is_loss or net.loss_weights.get(output) or output in lower
        self.sign = -1 if is_lower else 1
        self.value: float | None = None
        self.iteration = -1
        self.tests = 0
        self._tested = -1

    def update(self, iteration: int, results: Sequence[dict[str, list[float]]]) -> bool:
        """Update with the test nets' outputs; return whether the value is the best so far.

        An iteration that a resumed run tests again counts once.
        """
        if iteration <= self._tested or self.output not in results[self.index]:
            return False
        self._tested = iteration
        (value,) = results[self.index][self.output]
        least = -math.inf if self.value is None else self.sign * self.value + self.min_delta
        if not (math.isfinite(value) and self.sign * value > least):
            self.tests += 1
            return False
        self.value, self.iteration, self.tests = value, iteration, 0
        return True

    def state(self) -> dict[str, np.ndarray]:
        """Return the state that a resumed run needs."""
        value = math.nan if self.value is None else self.value
        counts = (self.iteration, self.tests, self._tested)
        return {"value": np.array(value, np.float64), "counts": np.array(counts, np.int64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state that ``state`` returned."""
        value = float(state["value"])
        self.value = None if math.isnan(value) else value
        self.iteration, self.tests, self._tested = (int(count) for count in state["counts"])


def check_test_nets(solver: Solver, field: str) -> None:
    """Refuse a field that needs a test net's output if there is no test net."""
    if not solver.test_nets:
        raise SolverError(
            f"{field} needs a test net's output, and the solver has no test net: give it a "
            "test_iter and a test_interval",
            solver.plan.where(field),
        )


def check_lower_is_better(solver: Solver) -> None:
    """Refuse a ``lower_is_better`` that no test net has among its outputs."""
    outputs = {name for net in solver.test_nets for name in net.outputs}
    for name in solver.param.lower_is_better:
        if name not in outputs:
            raise SolverError(
                f"lower_is_better: no test net has an output '{name}'."
                f"{did_you_mean(name, outputs)}",
                solver.plan.where("lower_is_better"),
            )
