"""Snapshots: the learned weights and the solver's state, in the files the original writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import SolverError
from ..files import find
from ..net import Net, Param
from ..proto import caffe_pb2 as pb
from ..proto.binary import (
    SolverState,
    read_solver_state,
    write_solver_state,
    write_weights,
    write_weights_hdf5,
)
from . import resume
from .updates import Updater


def learned(net: Net, teachers: Sequence[str]) -> tuple[list[Param], Any]:
    """Return the parameters and the NetParameter without the teachers' layers."""
    prefixes = tuple(f"{name}/" for name in teachers)
    param = pb.NetParameter(name=net.name)  # name and layers are all that the original writes
    param.layer.extend(x for x in net.param.layer if not x.name.startswith(prefixes))
    own = [p for p in net.params if not p.layer.name.startswith(prefixes)]
    return own, param


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values in Caffe's axis order, whatever its layout in memory."""
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array


def write(
    solver: Any,
    net: Net,
    teachers: Sequence[str],
    updater: Updater,
    iteration: int,
    step: int,
    losses: Sequence[float],
    test_nets: Sequence[Net],
) -> tuple[Path, Path]:
    """Write ``<prefix>_iter_N.caffemodel``, ``.resume`` and ``.solverstate``.

    With ``snapshot_format: HDF5`` the first and last end in ``.h5``. The state is written last, so
    that a state always has what belongs to it.

    Returns:
        The paths of weights and state.

    Raises:
        CaffeKDError: a file cannot be written; earlier snapshots are untouched.
    """
    hdf5 = solver.snapshot_format == pb.SolverParameter.HDF5
    ending = ".h5" if hdf5 else ""
    stem = f"{solver.snapshot_prefix}_iter_{iteration}"
    model = Path(f"{stem}.caffemodel{ending}")
    state = Path(f"{stem}.solverstate{ending}")
    own, param = learned(net, teachers)
    names = {layer.name for layer in param.layer}
    steps = [s for s in net.steps if s.layer.name in names and s.layer.blobs]
    weights = {s.layer.name: [as_array(b) for b in s.layer.blobs] for s in steps}
    diffs = None
    if solver.snapshot_diff:
        diffs = {s.layer.name: [_diff(b) for b in s.layer.blobs] for s in steps}
    if hdf5:
        write_weights_hdf5(model, param, _owned(own, weights), diffs and _owned(own, diffs))
    else:
        write_weights(model, param, weights, diffs)
    resume.write(resume.path_beside(state), model, [net, *test_nets], losses)
    history = [as_array(h) for h in updater.history()]
    write_solver_state(state, SolverState(iteration, str(model), history, step))
    return model, state


def _owned(
    own: Sequence[Param], arrays: dict[str, list[np.ndarray]]
) -> dict[str, list[np.ndarray | None]]:
    """Leave out the blobs that another layer owns, as the original does in HDF5 files."""
    owned = {(p.layer.name, p.index) for p in own}
    return {
        name: [a if (name, i) in owned else None for i, a in enumerate(blobs)]
        for name, blobs in arrays.items()
    }


def _diff(blob: Tensor) -> np.ndarray:
    return np.zeros(blob.shape, np.float32) if blob.grad is None else as_array(blob.grad)


def read(path: str | Path, updater: Updater, own: Sequence[Param]) -> tuple[SolverState, Path]:
    """Read a solverstate into the updater.

    Returns:
        The state and the path of the weights that belong to it.

    Raises:
        SolverError: the state belongs to another net or solver type.
        ParseError: the file is damaged.
    """
    import torch

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
    return state, _weights_of(state, Path(path))


def _weights_of(state: SolverState, path: Path) -> Path:
    """Return where the weights of a state are: as it says, or beside it if both were moved."""
    weights = find(state.learned_net, path)
    moved = path.with_name(Path(state.learned_net).name) if state.learned_net else weights
    return moved if moved.exists() and not weights.exists() else weights
