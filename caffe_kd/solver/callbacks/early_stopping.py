"""Ends a training that no longer improves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.errors import SolverError
from ..callback import Callback
from ..options import Options
from .metric_monitor import MetricMonitor, check_lower_is_better, check_test_nets

if TYPE_CHECKING:
    from ..solver import Solver


class EarlyStopping(Callback):
    """Ends the training when a test output has not improved in ``patience`` tests.

    Args:
        monitor: monitors the output.
        patience: how many tests.
    """

    name = "early_stopping"

    def __init__(self, monitor: MetricMonitor, patience: int) -> None:
        self.monitor = monitor
        self.patience = patience

    @property
    def should_stop(self) -> bool:
        """Whether there were ``patience`` tests without a better value."""
        return self.monitor.tests >= self.patience

    def on_start(self, solver: Solver) -> None:
        """End a resumed run at once if it had already stopped early."""
        solver.ended = solver.ended or self.should_stop

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Update the monitor; end the training if its patience is exhausted."""
        self.monitor.update(solver.iter, results)
        if self.should_stop:
            solver.ended = True
            solver.log.info(self._reason())

    def _reason(self) -> str:
        monitor = self.monitor
        last = "it was never a finite number"
        if monitor.value is not None:
            end = "lowest" if monitor.sign < 0 else "highest"
            last = f"the {end} was {monitor.value:g} in iteration {monitor.iteration}"
        return (
            f"Early stopping: {monitor.output} of test net (#{monitor.index}) has not "
            f"improved in {self.patience} tests; {last}"
        )

    def state(self) -> dict[str, np.ndarray]:
        """Return the monitor's state."""
        return self.monitor.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the monitor's state."""
        self.monitor.restore(state)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``early_stopping``.

    Raises:
        SolverError: there is no such test net or output, or a setting is out of range.
    """
    if not solver.param.HasField("early_stopping"):
        return
    check_test_nets(solver, "early_stopping")
    param, where = solver.param.early_stopping, solver.plan.where("early_stopping")
    index, nets = param.test_net, solver.test_nets
    if param.patience < 1:
        raise SolverError(f"patience must be at least 1. Received: {param.patience}", where)
    if not 0 <= index < len(nets):
        raise SolverError(
            f"early_stopping: there is no test net (#{index}). Received: {len(nets)} test "
            "net(s), counted from 0",
            where,
        )
    lower = solver.param.lower_is_better
    monitor = MetricMonitor(nets[index], index, param.output, param.min_delta, where, lower)
    check_lower_is_better(solver)
    yield EarlyStopping(monitor, param.patience)
