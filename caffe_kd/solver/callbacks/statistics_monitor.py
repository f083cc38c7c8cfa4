"""A warning where a net tests badly for what batch normalisation has kept alone."""

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
    """After a test, looks whether the kept statistics are far from those of the last batch.

    If so, some test batches are run by their own statistics. A net that is better by them has
    learned more than the test says.
    """

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Warn for each test net that is much better by batch statistics."""
        norms = statistics.following(solver.net)
        changes = [
            statistics.Change(norm, norm.kept(), norm.last_batch)
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
                    f"Test net (#{index}): {finding} in {batches} batches: the statistics that "
                    f"are kept lag behind the net. In {worst}. They reach back "
                    f"{worst.layer.window:,.0f} batches: a smaller moving_average_fraction, "
                    "refresh_statistics: 50 in the solver, or caffe_kd refresh_statistics on the "
                    "snapshot mends it"
                )


def _difference(net: Net, names: set[str], batches: int) -> str | None:
    """Return in words how much better a test net is by its batches' statistics, if it is."""
    layers = [node.layer for node in net.nodes]
    norms = [x for x in layers if isinstance(x, BatchStatistics) and x.stored and x.name in names]
    named = [node for node in net.nodes if node.layer.proto.top]
    metrics = [node.layer for node in named if node.layer.type == "Accuracy"]
    is_accuracy = bool(metrics)
    if not metrics:
        metrics = [node.layer for node in named if any(node.loss_weights)]
    try:
        kept = statistics.score(net, metrics, batches)
        own = statistics.score(net, metrics, batches, norms)
    except CaffeKDError:  # its data cannot be put back
        return None
    for metric, before, after in zip(metrics, kept, own, strict=True):
        if after > before + _POINTS if is_accuracy else before > _LOSSES * after:
            name = metric.proto.top[0]
            return f"{name} = {before:.4g}, and {after:.4g} by the statistics of each batch,"
    return None


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if there is a test and a layer that keeps statistics."""
    if solver.test_nets and statistics.following(solver.net):
        yield StatisticsMonitor()
