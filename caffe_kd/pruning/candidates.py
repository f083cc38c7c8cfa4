"""Which channels may go at all, and the weights that this needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.errors import NetError, UsageError, WeightsError, did_you_mean
from ..net import Net
from ..proto.binary import LayerWeights
from .criteria import without_gains
from .cut import Weights, as_blobs
from .options import PruneOptions
from .selection import Spaces
from .visit import Channels
from .walk import removable


def candidates(channels: Channels, options: PruneOptions, notes: list[str]) -> Spaces:
    """Return the channels that may go, under the layers that make them.

    Args:
        channels: the net's channels.
        options: which layers are excluded, and the criterion.
        notes: why channels stay; more are added.

    Raises:
        UsageError: an option names a layer that makes no channels, or none that may go.
        NetError: there are no such channels.
    """
    _check_names("layer_ratio", options.layer_ratios, channels)
    _check_names("exclude", options.exclude, channels)
    spaces = dict(removable(channels))
    free = {name for names in spaces for name in names}
    for name in options.layer_ratios:
        if name not in free:
            plain = "its channels are outputs of the net, or tied to such"
            why = next((note for note in notes if f"'{name}'" in note), plain)
            raise UsageError(f"-layer_ratio {name}: none of them can be removed: {why}")
    for names in list(spaces):
        if not set(options.exclude).isdisjoint(names):
            del spaces[names]
    if options.criterion == "BN_SCALE":
        for names in without_gains(channels, spaces):
            del spaces[names]
            notes.append(
                f"-criterion BN_SCALE: no Scale behind {_listed(names)}. The channels are kept"
            )
    if not spaces:
        raise NetError("; ".join(["no channel can be removed", *notes]))
    return spaces


def _check_names(flag: str, names: Iterable[str], channels: Channels) -> None:
    made = channels.made
    for name in names:
        if name not in made:
            raise UsageError(
                f"-{flag} {name}: no layer of this name makes channels."
                f"{did_you_mean(name, made)} Those that do: {', '.join(made)}"
            )


def check_filled(channels: Channels, spaces: Spaces, weights: Weights, source: str) -> None:
    """Refuse weights that lack a layer which is to be cut.

    Raises:
        WeightsError: they do.
    """
    roots = channels.sets.roots()
    free = {int(root) for ids in spaces.values() for root in ids}
    cut = [u for u in channels.uses.values() if not free.isdisjoint(roots[u.ids].tolist())]
    lacking = dict.fromkeys(use.layer for use in cut if use.layer not in weights)
    if lacking:
        raise WeightsError(
            f"has no weights for {_listed(lacking)}. Layers there: {', '.join(weights)}", source
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def fitted_weights(nets: Sequence[Net], weights: Sequence[LayerWeights], source: str) -> Weights:
    """Return the parameters by layer, of the shapes the nets' layers have.

    Raises:
        WeightsError: they do not fit.
    """
    fitted = as_blobs(weights)
    given = {w.name: w.blobs for w in weights if w.blobs}
    for net in nets:
        net.copy_weights(weights, source).check()
        nodes = {node.layer.name: node.layer for node in net.nodes if node.layer.name in given}
        values = {}  # of blobs that several layers share, which HDF5 has once
        for name, layer in nodes.items():
            for blob, value in zip(layer.parameters_in_order, given[name], strict=False):
                if value is not None:
                    values[id(blob)] = value
        for name, layer in nodes.items():
            blobs = zip(layer.parameters_in_order, layer.blob_shapes, strict=True)
            fitted[name] = [values[id(blob)].reshape(shape) for blob, shape in blobs]
    return fitted
