"""What a channel is worth, by a criterion; the least go first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .channels import Ids
from .selection import Scores, Spaces
from .visit import Channels, Use

Blobs = Mapping[str, Sequence[NDArray[np.float32]]]  # parameters by their layer


def scores_of(
    criterion: str,
    channels: Channels,
    spaces: Spaces,
    values: Blobs,
    seed: int = 0,
) -> Scores:
    """Return what each set of channels is worth.

    * L1: the sum of the absolute weights of its filters (Li et al. 2017).
    * L2: the root of the sum of their squares.
    * BN_SCALE: the sum of the absolute factors of the Scale layers behind it (Liu et al. 2017).
    * TAYLOR: the sum of ``|w * gradient|`` of its filters (Molchanov et al. 2019).
    * RANDOM: a random number.

    With L1 and L2 it is divided by the mean of the channels of the same layer, so that a ranking
    over all layers does not go by how large their filters are.

    Args:
        criterion: its name.
        channels: the net's channels.
        spaces: those that can be removed.
        values: the net's parameters; for TAYLOR ``|w * gradient|`` of each.
        seed: of the random numbers.
    """
    roots = channels.sets.roots()
    if criterion == "RANDOM":
        return np.random.default_rng(seed).random(len(roots))
    if criterion == "BN_SCALE":
        return _sums(channels.gains.values(), roots, values)
    power = 2 if criterion == "L2" else 1
    scores = _sums(channels.filters.values(), roots, values, power) ** (1 / power)
    if criterion == "TAYLOR":
        return scores
    for ids in spaces.values():
        scores[ids] /= scores[ids].mean() or 1
    return scores


def _sums(uses: Iterable[Use], roots: Ids, values: Blobs, power: int = 1) -> Scores:
    """Return the sum over the slices of each set's channels, of powers of absolute values."""
    scores = np.zeros(len(roots))
    for use in uses:
        if use.layer not in values:  # such as one that is not in TRAIN
            continue
        blob = np.abs(values[use.layer][use.blob].astype(np.float64)) ** power
        others = tuple(axis for axis in range(blob.ndim) if axis != use.axis)
        np.add.at(scores, roots[use.ids], blob.sum(others))
    return scores


def without_gains(channels: Channels, spaces: Spaces) -> list[tuple[str, ...]]:
    """Return the layers whose channels no Scale or BN behind them multiplies."""
    roots = channels.sets.roots()
    have = {int(root) for use in channels.gains.values() for root in roots[use.ids]}
    return [names for names, ids in spaces.items() if not have.issuperset(ids.tolist())]
