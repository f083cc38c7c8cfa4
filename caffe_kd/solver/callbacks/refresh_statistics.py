"""Recomputes batch normalisation's running statistics before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...core.errors import SolverError
from ...net import statistics
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver


class RefreshStatistics(Callback):
    """Before tests and snapshots, recomputes running statistics over the next training batches.

    It runs these with fixed weights, and then restores the data's position and random numbers, so
    that the weights of the training, and of a resumed one, are the same as without it.

    Args:
        batches: how many batches.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_test(self, solver: Solver, index: int) -> None:
        """Refresh before the first test net; the others share its statistics."""
        if index == 0:
            self.on_snapshot(solver)

    def on_snapshot(self, solver: Solver) -> None:
        """Refresh the statistics that the snapshot will have."""
        statistics.refresh(solver.net, self.batches)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``refresh_statistics``.

    Raises:
        SolverError: no layer has running statistics, or a mean teacher averages them.
    """
    batches = solver.param.refresh_statistics
    if not batches:
        return
    where = solver.plan.where("refresh_statistics")
    if not statistics.layers_with_running_stats(solver.net):
        raise SolverError(
            "the net has no layer in TRAIN with running statistics (BatchNorm or BN). "
            f"Received: refresh_statistics: {batches}. Leave it out",
            where,
        )
    if solver.plan.ema_teachers:
        raise SolverError(
            "a teacher that averages the student (ema) would average the refreshed statistics too, "
            f"which would change the training. Received: refresh_statistics: {batches}. Leave it "
            "out, and run caffe_kd refresh_statistics on the snapshot",
            where,
        )
    yield RefreshStatistics(batches)
