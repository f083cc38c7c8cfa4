"""Runs frozen layers once per sample, where that pays off."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..callback import Callback
from ..options import Options
from ..teacher_cache import TeacherCache, build_cache

if TYPE_CHECKING:
    from ..solver import Solver


class TeacherOutputs(Callback):
    """Caches the outputs of the train net's frozen layers.

    Args:
        mode: auto, memory or disk.
        ema_layers: the names of layers whose parameters have no gradient but still change, being
            averages of the student's.

    Attributes:
        cache: the cache; None before the start, and if there is none.
    """

    def __init__(self, mode: str, ema_layers: Collection[str]) -> None:
        self.mode = mode
        self.ema_layers = ema_layers
        self.cache: TeacherCache | None = None
        self._decided = False

    def on_load(self, solver: Solver) -> None:
        """Remove the cache, because weights have changed."""
        solver.net.running = solver.net.nodes
        self.cache, self._decided = None, False

    def on_start(self, solver: Solver) -> None:
        """Decide once, when all weights are loaded."""
        if self._decided:
            return
        self._decided = True
        param = solver.param
        batches = (max(solver.stop_iter, param.max_iter) - solver.iter) * param.iter_size
        folder = Path(f"{param.snapshot_prefix}.teacher_cache")
        self.cache = build_cache(
            solver.net, self.mode, folder, batches, solver.log.info, self.ema_layers
        )

    def on_end(self, solver: Solver) -> None:
        """Log the time that the cache has cost and saved."""
        if self.cache is not None:
            solver.log.info(self.cache.report())


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback unless ``teacher_cache`` is off."""
    if options.teacher_cache == "off":
        return
    prefixes = tuple(f"{name}/" for name in solver.plan.ema_teachers)
    layers = (node.layer.name for net in solver.nets for node in net.nodes)
    yield TeacherOutputs(
        options.teacher_cache, {name for name in layers if name.startswith(prefixes)}
    )
