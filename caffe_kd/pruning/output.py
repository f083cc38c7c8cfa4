"""Writes a pruned net, its weights, and the solver that distils back what that cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..core.errors import UsageError
from ..core.files import replacing
from ..proto import text
from ..proto.binary import write_weights
from ..proto.file_fields import moved
from .prune import Pruned
from .recover import Recovery, solver_for, with_distil_stage


def write(
    pruned: Pruned,
    source: tuple[Path, Path],
    stem: Path,
    solver: Path | None = None,
    recovery: Recovery | None = None,
    teacher: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Write ``stem``.prototxt and ``stem``.caffemodel; yield a line for the user about each file.

    Where no channel went they are copies, byte by byte.

    Args:
        pruned: the net.
        source: the prototxt and the weights of the net before.
        stem: the files' path without an ending.
        solver: where to write a solver that distils from the unpruned net; None: nowhere.
        recovery: how it learns.
        teacher: the net it learns from, likewise; None: ``source``.

    Raises:
        UsageError: a file would be written over one of the net before.
        NetError: a solver is wanted, and the net has no loss for it.
        CaffeKDError: a file cannot be written.
    """
    model, weights = (stem.with_name(f"{stem.name}.{e}") for e in ("prototxt", "caffemodel"))
    for path in (model, weights, solver):
        if path is not None and path.resolve() in [file.resolve() for file in source]:
            raise UsageError(
                f"{path}: the pruned net would take the place of the unpruned one, from which it "
                "is to learn. Give it another name"
            )
    if not pruned.removed.any() and solver is None:
        for file, to in zip(source, (model, weights), strict=True):
            with replacing(to) as temporary:
                shutil.copyfile(file, temporary)
        yield f"wrote {model} and {weights}: copies, for nothing was removed"
        return
    net = moved(pruned.net, source[0], model)
    if solver is not None:
        net = with_distil_stage(net, source[0])
    text.write(model, net)
    write_weights(weights, net, pruned.weights)
    yield f"wrote {model} and {weights}"
    if solver is not None:
        learns_from = teacher or source
        text.write(solver, solver_for(net, model, weights, learns_from, solver, recovery))
        yield f"wrote {solver}. To distil: caffe_kd train -solver {solver}"
