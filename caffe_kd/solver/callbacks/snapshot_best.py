"""Saves the weights of the best test so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..callback import Callback
from ..models import write_models
from ..options import Options
from .metric_monitor import MetricMonitor, check_lower_is_better, check_test_nets

if TYPE_CHECKING:
    from ..solver import Solver


class SnapshotBest(Callback):
    """Writes ``<snapshot_prefix>_best.caffemodel`` whenever a test is the best so far.

    Args:
        monitor: monitors the output.
    """

    name = "snapshot_best"

    def __init__(self, monitor: MetricMonitor) -> None:
        self.monitor = monitor

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Update the monitor, and write the weights if the test is the best so far."""
        if self.monitor.update(solver.iter, results):
            solver.write_on_the_way("best snapshot", lambda: self._write(solver))

    def _write(self, solver: Solver) -> None:
        path = write_models(solver.param, solver.models, "best")
        output, value = self.monitor.output, self.monitor.value
        solver.log.info(f"Best {output} so far, {value:g}; snapshotting to {path}")

    def state(self) -> dict[str, np.ndarray]:
        """Return the monitor's state."""
        return self.monitor.state()

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Restore the monitor's state."""
        self.monitor.restore(state)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``snapshot_best``.

    Raises:
        SolverError: no test net has the output, or it is not a single value.
    """
    if not solver.param.HasField("snapshot_best"):
        return
    check_test_nets(solver, "snapshot_best")
    output, nets, where = solver.param.snapshot_best, solver.test_nets, solver.plan.where
    index = next((i for i, net in enumerate(nets) if output in net.outputs), 0)
    lower = solver.param.lower_is_better
    monitor = MetricMonitor(nets[index], index, output, where=where("snapshot_best"), lower=lower)
    check_lower_is_better(solver)
    yield SnapshotBest(monitor)
