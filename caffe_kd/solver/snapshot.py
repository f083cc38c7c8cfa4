"""Snapshots: the learned weights and the solver's state, in the files the original writes."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import SolverError
from ..core.files import find
from ..layers import Layer
from ..net import Net, Param
from ..proto import caffe_pb2 as pb
from ..proto.binary import (
    SolverState,
    read_solver_state,
    read_weights,
    write_solver_state,
    write_weights,
    write_weights_hdf5,
)
from ..proto.students import renamed
from . import resume
from .building import prefixed
from .plan import Plan
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


@dataclass
class Model:
    """What one file of weights holds.

    Attributes:
        name: of the student or mean teacher whose weights these are; None: all that learns.
        param: the NetParameter with the layers.
        layers: those that have blobs, by their names in the file.
        owned: which blobs, by name and index, are not another layer's.
    """

    name: str | None
    param: Any
    layers: dict[str, Layer] = field(default_factory=dict)
    owned: set[tuple[str, int]] = field(default_factory=set)

    def path(self, solver: Any, when: str) -> Path:
        """Return the file for ``when``: ``iter_<N>`` or ``best``."""
        part = "" if self.name is None else f"_{self.name}"
        return Path(f"{solver.snapshot_prefix}{part}_{when}.caffemodel{_ending(solver)}")

    def write(self, solver: Any, when: str) -> Path:
        """Write the file; return its path."""
        path = self.path(solver, when)
        weights = {name: [as_array(b) for b in x.blobs] for name, x in self.layers.items()}
        diffs = None
        if solver.snapshot_diff:
            diffs = {name: [_diff(b) for b in x.blobs] for name, x in self.layers.items()}
        if _ending(solver):
            write_weights_hdf5(path, self.param, self._owned(weights), diffs and self._owned(diffs))
        else:
            write_weights(path, self.param, weights, diffs)
        return path

    def _owned(self, arrays: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray | None]]:
        """Leave out the blobs that another layer owns, as the original does in HDF5 files."""
        return {
            name: [a if (name, i) in self.owned else None for i, a in enumerate(blobs)]
            for name, blobs in arrays.items()
        }


def _ending(solver: Any) -> str:
    return ".h5" if solver.snapshot_format == pb.SolverParameter.HDF5 else ""


def models(nets: Sequence[Net], plan: Plan) -> list[Model]:
    """Return what a snapshot writes as weights.

    First all that learns; then each of several students and each mean teacher, under the names
    that the layers have in their own nets.

    Args:
        nets: the train net and the test nets.
        plan: what is trained.
    """
    own, param = learned(nets[0], plan.frozen_names)
    names = {layer.name for layer in param.layer}
    nodes = [node for node in nets[0].nodes if node.layer.name in names and node.layer.blobs]
    whole = Model(None, param, {node.layer.name: node.layer for node in nodes})
    whole.owned = {(p.layer.name, p.index) for p in own}
    students = [_part(student.name, nets[:1]) for student in plan.students]
    return [whole, *students, *(_part(name, nets) for name in plan.means)]


def _part(name: str, nets: Sequence[Net]) -> Model:
    """Return the layers under ``<name>/``, from the first net that has them."""
    prefix = f"{name}/"
    part = Model(name, pb.NetParameter(name=name))
    known: set[str] = set()
    for net in nets:
        nodes = [node for node in net.nodes if node.layer.name.startswith(prefix)]
        new = {node.layer.name.removeprefix(prefix): node.layer for node in nodes}
        new = {own: layer for own, layer in new.items() if own not in known}
        known.update(new)
        for own, layer in new.items():
            proto = renamed(layer.proto, lambda word: word.removeprefix(prefix))
            proto.ClearField("frozen")
            part.param.layer.append(proto)
            if layer.blobs:
                part.layers[own] = layer
        owners = [(p.layer.name.removeprefix(prefix), p) for p in net.params]
        part.owned |= {(own, p.index) for own, p in owners if new.get(own) is p.layer}
    return part


def write_models(solver: Any, models: Sequence[Model], when: str) -> Path:
    """Write all files of weights for ``when``; return the path of the first, which holds all."""
    written = [model.write(solver, when) for model in models]
    return written[0]


def write(
    solver: Any,
    models: Sequence[Model],
    nets: Sequence[Net],
    updater: Updater,
    iteration: int,
    step: int,
    losses: Sequence[float],
    others: Mapping[str, resume.Stateful],
    means: Collection[str],
) -> tuple[Path, Path]:
    """Write ``<prefix>_iter_N.caffemodel``, ``.resume`` and ``.solverstate``.

    With ``snapshot_format: HDF5`` the first and last end in ``.h5``. The state is written last, so
    that a state always has what belongs to it.

    Returns:
        The paths of weights and state.

    Raises:
        CaffeKDError: a file cannot be written; earlier snapshots are untouched.
    """
    when = f"iter_{iteration}"
    state = Path(f"{solver.snapshot_prefix}_{when}.solverstate{_ending(solver)}")
    model = write_models(solver, models, when)
    history = [as_array(h) for h in updater.history()]
    content = SolverState(iteration, str(model), history, step)
    found = checks(content, model, means)
    resume.write(resume.path_beside(state), found, nets, losses, others)
    write_solver_state(state, content)
    return model, state


def checks(state: SolverState, weights: Path, means: Collection[str]) -> dict[str, int]:
    """Return the checksums of what a run is resumed from, by what it is.

    Args:
        state: the solver's state; of this its numbers count, not how a file holds them.
        weights: the file of the weights that belong to it.
        means: the mean teachers, which have files of their own.
    """
    numbers = zlib.crc32(f"{state.iter} {state.current_step}".encode())
    for values in state.history:
        numbers = zlib.crc32(np.ascontiguousarray(values, np.float32).data, numbers)
    files = {"the caffemodel": weights}
    files |= {f"the caffemodel of '{name}'": _mean_path(name, weights) for name in means}
    found = {what: resume.file_crc32(path) for what, path in files.items()}
    return {"the solverstate": numbers, **found}


def _mean_path(name: str, weights: Path) -> Path:
    stem, _, rest = weights.name.rpartition("_iter_")
    return weights.with_name(f"{stem}_{name}_iter_{rest}")


def _diff(blob: Tensor) -> np.ndarray:
    return np.zeros(blob.shape, np.float32) if blob.grad is None else as_array(blob.grad)


def read_mean(name: str, nets: Sequence[Net], weights: Path) -> None:
    """Give a mean teacher's layers the weights that belong to a snapshot's.

    Raises:
        SolverError: they are not there.
    """
    path = _mean_path(name, weights)
    if not path.is_file():
        raise SolverError(
            f"the mean teacher '{name}' has no weights of this snapshot: {path} is missing. To "
            "begin with a new mean, start from the weights: -weights in place of -snapshot",
            str(weights),
        )
    layers = prefixed(name, read_weights(path))
    for net in nets:
        net.copy_weights(layers, str(path))


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
