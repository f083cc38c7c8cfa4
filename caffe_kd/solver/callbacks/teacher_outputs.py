"""Runs what is frozen once for a sample, where that pays."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..callback import Callback
from ..options import Options
from ..teacher_cache import TeacherCache, remember

if TYPE_CHECKING:
    from ..solver import Solver


class TeacherOutputs(Callback):
    """Gives the train net a cache of what its frozen layers compute.

    Args:
        mode: auto, memory or disk.
        moving: the names of layers without a gradient whose parameters change all the same.

    Attributes:
        cache: the cache; None before the start and where there is none.
    """

    def __init__(self, mode: str, moving: Collection[str]) -> None:
        self.mode = mode
        self.moving = moving
        self.cache: TeacherCache | None = None
        self._decided = False

    def on_load(self, solver: Solver) -> None:
        """Undo the cache, because weights have changed."""
        solver.net.running = solver.net.nodes
        self.cache, self._decided = None, False

    def on_start(self, solver: Solver) -> None:
        """Decide once, when all weights are there."""
        if self._decided:
            return
        self._decided = True
        param = solver.param
        batches = (max(solver.stop_iter, param.max_iter) - solver.iter) * param.iter_size
        folder = Path(f"{param.snapshot_prefix}.teacher_cache")
        self.cache = remember(solver.net, self.mode, folder, batches, solver.log.info, self.moving)

    def on_end(self, solver: Solver) -> None:
        """Log what the cache has cost and saved."""
        if self.cache is not None:
            solver.log.info(self.cache.report())


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback unless ``teacher_cache`` is off."""
    if options.teacher_cache == "off":
        return
    prefixes = tuple(f"{name}/" for name in solver.plan.means)
    layers = (node.layer.name for net in solver.nets for node in net.nodes)
    yield TeacherOutputs(
        options.teacher_cache, {name for name in layers if name.startswith(prefixes)}
    )
