"""The effect of train's flags on a solver that is examined, not trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..analysis.reading import Target
from ..analysis.shape_inference import infer_shapes
from ..analysis.view import View
from ..core.errors import CaffeKDError, UsageError
from ..layers import Shape
from ..net import Net
from ..proto import bundle
from ..proto.compose import NO_DISTILLING_LOSS, override_distillation
from ..solver.frozen import Frozen, select_frozen


def override(
    target: Target, temperature: float | None, alpha: float | None, shapes: Mapping[str, Shape]
) -> list[str]:
    """Set temperature and alpha of every DistillingLoss in a target's nets, and examine them again.

    Args:
        target: the solver.
        temperature: as the flag; None: not given.
        alpha: likewise.
        shapes: shapes of samples where data is absent; see ``infer_shapes``.

    Returns:
        Descriptions of the changes.

    Raises:
        UsageError: there is nothing to change, or a value is out of its range: without data no
            layer is built that could check it.
    """
    if temperature is None and alpha is None:
        return []
    if temperature is not None and not 0 < temperature < math.inf:
        raise UsageError(f"-temperature must be above 0. Received: {temperature:g}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise UsageError(f"-alpha must be in 0..1. Received: {alpha:g}")
    changes: dict[str, None] = {}
    for index, view in enumerate(target.views):
        changes |= dict.fromkeys(override_distillation(view.param, temperature, alpha))
        found = infer_shapes(view.param, view.phase, view.file, shapes)
        target.views[index] = replace(view, inference=found)
    if target.views and not changes:
        raise UsageError(NO_DISTILLING_LOSS)
    return list(changes)


@dataclass
class CacheEffect:
    """A description of what ``-teacher_cache`` would do; ``refused``: training fails."""

    text: str
    refused: bool = False


def cache_effect(target: Target, mode: str) -> CacheEffect | None:
    """Return what ``-teacher_cache`` would do; None if the net has nothing to cache.

    The train net is built for it, without weights.

    Args:
        target: the solver.
        mode: auto, off, memory or disk.
    """
    view = target.training()
    if view is None or not (_has_frozen(view) or mode in ("memory", "disk")):
        return None
    if mode == "off":
        return CacheEffect("teacher_cache off: frozen layers run on each batch")
    unknown = [absent.error for absent in view.inference.absent]
    unknown += [error for _, error in view.inference.problems]
    if unknown or view.inference.unrun:
        why = str(unknown[0]) if unknown else "a Python layer is not run here"
        return CacheEffect(f"teacher_cache {mode}: not known: {why}")
    try:
        net = Net(view.param, view.phase, view.file)
        frozen = select_frozen(
            net, mode, target.solver.max_iter * target.solver.iter_size, _ema_layers(target, net)
        )
    except UsageError as error:
        return CacheEffect(f"training refuses {error.message}", refused=True)
    except CaffeKDError as error:
        return CacheEffect(f"teacher_cache {mode}: not known: {error}")
    if isinstance(frozen, Frozen):
        location = "on disk" if mode == "disk" else "in memory"
        return CacheEffect(f"teacher_cache {mode}: caches {frozen.describe(net)} {location}")
    return CacheEffect(f"teacher_cache {mode}: caches nothing: {frozen}") if frozen else None


def _has_frozen(view: View) -> bool:
    frozen = (n for n in view.nodes if n.has_blobs and n.type != "BatchNorm")
    return bool(view.teachers) or any(not all(n.lr_mults) for n in frozen)


def _ema_layers(target: Target, net: Net) -> list[str]:
    """Return the layers of the teachers that are averages (EMA) of the student."""
    ema_teachers = {t.name or bundle.TEACHER for t in target.solver.teacher if t.HasField("ema")}
    names = [node.layer.name for node in net.nodes if "/" in node.layer.name]
    return [name for name in names if name.partition("/")[0] in ema_teachers]
