"""Writes a training's snapshot and restores it: weights, Caffe's solverstate and ``.resume``."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..core.errors import SolverError
from ..core.files import find
from ..net import Net, Param
from ..proto.binary import SolverState, read_solver_state, read_weights, write_solver_state
from . import resume
from .building import prefixed
from .models import as_array, file_ending, write_models
from .updates import Updater

if TYPE_CHECKING:
    from .solver import Solver


def write(solver: Solver) -> tuple[Path, Path]:
    """Write ``<prefix>_iter_N.caffemodel``, ``.resume`` and ``.solverstate``.

    With ``snapshot_format: HDF5`` the first and last end in ``.h5``. The solverstate is written
    last, so that the files it belongs to exist once it does.

    Returns:
        The paths of weights and state.

    Raises:
        CaffeKDError: a file cannot be written; earlier snapshots are untouched.
    """
    ending, when = file_ending(solver.param), f"iter_{solver.iter}"
    kind, stem = "HDF5" if ending else "binary proto", f"{solver.param.snapshot_prefix}_{when}"
    state = Path(f"{stem}.solverstate{ending}")
    solver.log.info(f"Snapshotting to {kind} file {stem}.caffemodel{ending}")
    solver.log.info(f"Snapshotting solver state to {kind} file {state}")
    weights = write_models(solver.param, solver.models, when)
    history = [as_array(h) for h in solver.updater.history()]
    content = SolverState(solver.iter, str(weights), history, solver.current_step)
    found = _checks(content, weights, solver.plan.ema_teachers)
    resume.write(resume.path_beside(state), found, solver.nets, [*solver.losses], solver.stateful())
    write_solver_state(state, content)
    return weights, state


def restore(solver: Solver, path: Path) -> list[float]:
    """Resume from a solverstate and the files beside it.

    Returns:
        The recent losses; empty if they are unknown.

    Raises:
        SolverError: the snapshot belongs to another net or solver type.
        ParseError: a file is missing or damaged.
    """
    solver.log.info(f"Resuming from {path}")
    solver.log.info("SGDSolver: restoring history")
    state = _read_state(path, solver.updater, solver.params)
    weights = _weights_of(state, path)
    solver.net.load_weights(weights).check()
    for callback in solver.callbacks:
        callback.on_load(solver)
        callback.on_restore(solver, weights)
    solver.iter, solver.current_step = state.iter, state.current_step
    solver.snapshots = weights, path
    return _restore_exactly(solver, resume.path_beside(path), state, weights)


def _restore_exactly(solver: Solver, path: Path, state: SolverState, weights: Path) -> list[float]:
    """Restore the data's position, random numbers and losses, if there is a ``.resume``."""
    losses, reason = None, f"there is no {path}"
    if path.is_file():
        checks = _checks(state, weights, solver.plan.ema_teachers)
        losses = resume.read(path, checks, solver.nets, solver.stateful(), solver.log.warning)
        reason = f"{path} belongs to another snapshot"
    if losses is None:
        solver.log.warning(f"The data starts from the beginning, as in Caffe: {reason}")
        return []
    solver.log.info(f"Continuing exactly, from {path}")
    return losses


def _checks(state: SolverState, weights: Path, ema_teachers: Collection[str]) -> dict[str, int]:
    """Return the checksums of the files that a run is resumed from, by name.

    Args:
        state: the solver's state, whose values count, not the file format.
        weights: its weights file.
        ema_teachers: the names of the mean teachers, which have weights files of their own.
    """
    numbers = zlib.crc32(f"{state.iter} {state.current_step}".encode())
    for values in state.history:
        numbers = zlib.crc32(np.ascontiguousarray(values, np.float32).data, numbers)
    files = {"the caffemodel": weights}
    files |= {f"the caffemodel of '{name}'": _ema_path(name, weights) for name in ema_teachers}
    found = {what: resume.file_crc32(path) for what, path in files.items()}
    return {"the solverstate": numbers, **found}


def _ema_path(name: str, weights: Path) -> Path:
    stem, _, rest = weights.name.rpartition("_iter_")
    return weights.with_name(f"{stem}_{name}_iter_{rest}")


def read_ema_weights(name: str, nets: Sequence[Net], weights: Path) -> None:
    """Copy a snapshot's weights of a mean teacher into its layers.

    Raises:
        SolverError: they are not there.
    """
    path = _ema_path(name, weights)
    if not path.is_file():
        raise SolverError(
            f"the mean teacher '{name}' has no weights in this snapshot: {path} is missing. To "
            "start a new mean from the student's weights, give -weights in place of -snapshot",
            str(weights),
        )
    layers = prefixed(name, read_weights(path))
    for net in nets:
        net.copy_weights(layers, str(path))


def _read_state(path: Path, updater: Updater, own: Sequence[Param]) -> SolverState:
    """Read a solverstate into the updater.

    Raises:
        SolverError: the state belongs to another net or solver type.
        ParseError: the file is damaged.
    """
    state = read_solver_state(path)
    wanted = [tuple(p.blob.shape) for _ in range(updater.rule.slots) for p in own]
    if len(state.history) != len(wanted):
        raise SolverError(
            f"Incorrect length of history blobs: {len(state.history)} in the file, "
            f"{len(wanted)} wanted by solver type {updater.rule.__name__}. The snapshot belongs "
            "to another net or solver type",
            str(path),
        )
    history = []
    for index, (values, shape) in enumerate(zip(state.history, wanted, strict=True)):
        if values.size != np.prod(shape):
            raise SolverError(
                f"history blob {index} has shape {values.shape}, the net's parameter {shape}. "
                "The snapshot belongs to another net",
                str(path),
            )
        history.append(torch.from_numpy(values.reshape(shape).copy()))
    updater.restore(history)
    return state


def _weights_of(state: SolverState, path: Path) -> Path:
    """Return the path of a state's weights: as it says, or beside it if both were moved."""
    weights = find(state.learned_net, path)
    moved = path.with_name(Path(state.learned_net).name) if state.learned_net else weights
    return moved if moved.exists() and not weights.exists() else weights
