"""The averages of batch normalisation, taken once more before they are used."""

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
    """Before tests and snapshots, takes the averages of the batches that training takes next.

    It runs them with the weights as they are and puts back data and random numbers, so that the
    weights of the training, and of one that is resumed, are what they are without it.

    Args:
        batches: how many batches.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def before_test(self, solver: Solver, index: int) -> None:
        """Refresh before the first test net; the others share what it has."""
        if index == 0:
            self.on_snapshot(solver)

    def on_snapshot(self, solver: Solver) -> None:
        """Refresh what the snapshot is to hold."""
        statistics.refresh(solver.net, self.batches)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``refresh_statistics``.

    Raises:
        SolverError: no layer has such averages, or a mean teacher follows them.
    """
    batches = solver.param.refresh_statistics
    if not batches:
        return
    where = solver.plan.where("refresh_statistics")
    if not statistics.following(solver.net):
        raise SolverError(
            "the net has no layer in TRAIN that keeps statistics of its batches (BatchNorm or BN). "
            f"Received: refresh_statistics: {batches}. Leave it out",
            where,
        )
    if solver.plan.means:
        raise SolverError(
            "a teacher that follows the student (ema) would follow the refreshed statistics too, "
            f"and training would be another. Received: refresh_statistics: {batches}. Leave it "
            "out, and run caffe_kd refresh_statistics on the snapshot",
            where,
        )
    yield RefreshStatistics(batches)
