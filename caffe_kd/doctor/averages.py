"""Checks of the running averages of batch normalization: whether they fit the net."""

from __future__ import annotations

from collections.abc import Sequence

from ..analysis.reading import Target
from ..analysis.view import Node, View
from ..core.errors import CaffeKDError
from ..layers.shared.batch_statistics import BatchStatistics
from ..net import Net, statistics
from .findings import Occurrence, Occurrences, net_check, target_check

_PARTS = 10  # a training should be at least so many times as long as the averages' window
_BATCHES = 4
_REFRESH = "caffe_kd refresh_statistics -model NET -weights W -output W2 recomputes them"


@target_check(
    "numbers",
    why="In TEST batch normalization uses averages over about 1 / (1 - f) batches, f being "
    "moving_average_fraction (momentum in BN). In a short training most of them belong to "
    "weights that have changed since, so a good net has a bad test accuracy.",
    do="Give a smaller fraction, as batch_norm_param { moving_average_fraction: 0.95 }; or "
    f"refresh_statistics: 50 in the solver. After training {_REFRESH}.",
)
def averages_longer_than_training(target: Target) -> Occurrences:
    """Averages over more than a tenth of the training."""
    view = target.training()
    if target.solver is None or view is None or target.solver.refresh_statistics:
        return
    passes = target.solver.max_iter * target.solver.iter_size
    slow = [
        (node, layer)
        for node, layer in _norms(view)
        if layer.updates_running_stats
        and not view.of_teacher(node)
        and layer.window > passes / _PARTS
    ]
    if slow:
        node, layer = slow[0]
        more = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
        fact = f"keep averages over about {layer.window:,.0f} batches; the training has {passes:,}"
        yield Occurrence("warning", node.location, f"{node.called}{more}: {fact}")


@net_check(
    "numbers",
    why="In TEST, and as a teacher, the layer divides by its stored statistics. If those of the "
    "data are different, its outputs are unlike those in training. The data may also differ in "
    "scale, mean or channel order from the data that the weights were trained on.",
    do=f"{_REFRESH}; where a teacher was trained on other pixels, give the student's data layer "
    "the teacher's transform_param.",
)
def averages_lag(view: View) -> Occurrences:
    """Stored statistics far from those of a few batches, if weights and data are present."""
    inference = view.inference
    if not view.is_training or inference.net is None or inference.absent or inference.problems:
        return
    nodes = {
        node.proto.name: node
        for node, layer in _norms(view)
        if view.has_weights(node) and (layer.updates_running_stats or view.of_teacher(node))
    }
    if not view.data or not nodes or inference.unrun:
        return
    for change in _changes(view, list(nodes)):
        if change.lag > statistics.LAGGING:
            where = nodes[change.layer.name].location
            yield Occurrence("warning", where, f"{change}, in {_BATCHES} batches")


def _norms(view: View) -> list[tuple[Node, BatchStatistics]]:
    pairs = [(node, node.built.layer) for node in view.nodes if node.built is not None]
    return [(node, layer) for node, layer in pairs if isinstance(layer, BatchStatistics)]


def _changes(view: View, names: Sequence[str]) -> list[statistics.Change]:
    """Build the net with its weights, run a few batches, and return its layers' statistics."""
    try:
        net = Net(view.param, view.phase, view.file)
        for path, layers in view.weights:
            net.copy_weights(layers, path)
        chosen = [node.layer for node in net.nodes if node.layer.name in names]
        norms = [layer for layer in chosen if isinstance(layer, BatchStatistics)]
        return statistics.measure(net, _BATCHES, norms)
    except CaffeKDError:  # reported by another check
        return []
