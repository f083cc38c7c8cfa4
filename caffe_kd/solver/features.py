"""The list of the training loop's optional features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .callback import Callback
from .callbacks import (
    chance_monitor,
    debug_info,
    early_stopping,
    gradient_shares,
    max_norm,
    mean_teacher,
    pruning,
    quantization,
    refresh_statistics,
    slimming,
    snapshot_best,
    statistics_monitor,
    teacher_outputs,
    teacher_report,
    tensorboard,
)
from .options import Options

if TYPE_CHECKING:
    from .solver import Solver

# In the order in which they run. Each module's ``build`` yields its callbacks if the solver's
# prototxt or the options ask for them.
_FEATURES = (
    slimming,
    max_norm,
    pruning,
    mean_teacher,
    quantization,
    refresh_statistics,
    statistics_monitor,
    snapshot_best,
    early_stopping,
    debug_info,
    gradient_shares,
    tensorboard,  # after the gradient shares, which it writes
    teacher_outputs,
    teacher_report,
    chance_monitor,
)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callbacks of all features that are switched on.

    Raises:
        CaffeKDError: a feature's setting is wrong.
    """
    for feature in _FEATURES:
        yield from feature.build(solver, options)
