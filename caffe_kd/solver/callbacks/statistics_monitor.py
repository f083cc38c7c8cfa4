"""Warns if a net tests badly only because of batch normalisation's running statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...core.errors import CaffeKDError
from ...layers.shared.batch_statistics import BatchStatistics
from ...net import Net, statistics
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

_BATCHES = 4
_POINTS = 0.05  # of accuracy
_LOSSES = 1.5  # times


class StatisticsMonitor(Callback):
    """After a test, checks whether the running statistics are far from those of the last batch.

    If so, some test batches are run with their own statistics. A net that is better with them has
    learned more than the test shows.
    """

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Warn about each test net that is much better with batch statistics."""
        norms = statistics.layers_with_running_stats(solver.net)
        changes = [
            statistics.Change(norm, norm.running_stats(), norm.last_batch)
            for norm in norms
            if norm.last_batch is not None
        ]
        worst = max(changes, key=lambda change: change.lag, default=None)
        if worst is None or worst.lag < statistics.LAGGING:
            return
        names = {norm.name for norm in norms}
        for index, net in enumerate(solver.test_nets):
            batches = min(_BATCHES, solver.param.test_iter[index])
            finding = _difference(net, names, batches)
            if finding is not None:
                solver.log.warning(
                    f"Test net (#{index}): {finding} in {batches} batches: the running "
                    f"statistics lag behind the weights. In {worst}. They average over about "
                    f"{worst.layer.window:,.0f} batches: use a smaller moving_average_fraction, "
                    "refresh_statistics: 50 in the solver, or caffe_kd refresh_statistics on the "
                    "snapshot"
                )


def _difference(net: Net, names: set[str], batches: int) -> str | None:
    """Return how much better a test net is with batch statistics, in words; None if it is not."""
    layers = [node.layer for node in net.nodes]
    norms = [
        x
        for x in layers
        if isinstance(x, BatchStatistics) and x.use_global_stats and x.name in names
    ]
    named = [node for node in net.nodes if node.layer.proto.top]
    metrics = [node.layer for node in named if node.layer.type == "Accuracy"]
    is_accuracy = bool(metrics)
    if not metrics:
        metrics = [node.layer for node in named if any(node.loss_weights)]
    try:
        running = statistics.score(net, metrics, batches)
        own = statistics.score(net, metrics, batches, norms)
    except CaffeKDError:  # its data's position cannot be restored
        return None
    for metric, before, after in zip(metrics, running, own, strict=True):
        if after > before + _POINTS if is_accuracy else before > _LOSSES * after:
            name = metric.proto.top[0]
            return f"{name} = {before:.4g}, but {after:.4g} with the statistics of each batch,"
    return None


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if there is a test net and a layer with running statistics."""
    if solver.test_nets and statistics.layers_with_running_stats(solver.net):
        yield StatisticsMonitor()
