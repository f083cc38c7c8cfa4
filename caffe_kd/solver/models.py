"""The weights files that a training writes: which layers each contains, under which names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..layers import Layer
from ..net import Net, Param
from ..proto import caffe_pb2 as pb
from ..proto.binary import (
    write_weights,
    write_weights_hdf5,
)
from ..proto.students import renamed
from .plan import TrainingPlan


def learned(net: Net, teachers: Sequence[str]) -> tuple[list[Param], Any]:
    """Return the parameters and the NetParameter without the teachers' layers."""
    prefixes = tuple(f"{name}/" for name in teachers)
    param = pb.NetParameter(name=net.name)  # name and layers are all that Caffe writes
    param.layer.extend(x for x in net.param.layer if not x.name.startswith(prefixes))
    own = [p for p in net.params if not p.layer.name.startswith(prefixes)]
    return own, param


def as_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values in Caffe's axis order, whatever its layout in memory."""
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array


@dataclass
class Model:
    """The contents of one weights file.

    Attributes:
        name: the student or mean teacher whose weights these are; None: all that are trained.
        param: the NetParameter with the layers.
        layers: the layers that have blobs, by their names in the file.
        owned: the blobs, by name and index, that are not shared from another layer.
    """

    name: str | None
    param: Any
    layers: dict[str, Layer] = field(default_factory=dict)
    owned: set[tuple[str, int]] = field(default_factory=set)

    def path(self, solver: Any, when: str) -> Path:
        """Return the file for ``when``: ``iter_<N>`` or ``best``."""
        part = "" if self.name is None else f"_{self.name}"
        return Path(f"{solver.snapshot_prefix}{part}_{when}.caffemodel{file_ending(solver)}")

    def write(self, solver: Any, when: str) -> Path:
        """Write the file; return its path."""
        path = self.path(solver, when)
        weights = {name: [as_array(b) for b in x.blobs] for name, x in self.layers.items()}
        diffs = None
        if solver.snapshot_diff:
            diffs = {name: [_diff(b) for b in x.blobs] for name, x in self.layers.items()}
        if file_ending(solver):
            write_weights_hdf5(path, self.param, self._owned(weights), diffs and self._owned(diffs))
        else:
            write_weights(path, self.param, weights, diffs)
        return path

    def _owned(self, arrays: dict[str, list[np.ndarray]]) -> dict[str, list[np.ndarray | None]]:
        """Leave out the blobs that another layer owns, as Caffe does in HDF5 files."""
        return {
            name: [a if (name, i) in self.owned else None for i, a in enumerate(blobs)]
            for name, blobs in arrays.items()
        }


def file_ending(solver: Any) -> str:
    """Return the ending of the solver's snapshot_format."""
    return ".h5" if solver.snapshot_format == pb.SolverParameter.HDF5 else ""


def models(nets: Sequence[Net], plan: TrainingPlan) -> list[Model]:
    """Return the contents of a snapshot's weights files.

    First all that is trained; then each of several students and each mean teacher, under the
    names that the layers have in their own nets.

    Args:
        nets: the train net and the test nets.
        plan: the training.
    """
    own, param = learned(nets[0], plan.frozen_names)
    names = {layer.name for layer in param.layer}
    nodes = [node for node in nets[0].nodes if node.layer.name in names and node.layer.blobs]
    whole = Model(None, param, {node.layer.name: node.layer for node in nodes})
    whole.owned = {(p.layer.name, p.index) for p in own}
    students = [_part(student.name, nets[:1]) for student in plan.students]
    return [whole, *students, *(_part(name, nets) for name in plan.ema_teachers)]


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
    """Write all files of weights for ``when``; return the path of the first, with all layers."""
    written = [model.write(solver, when) for model in models]
    return written[0]


def _diff(blob: Tensor) -> np.ndarray:
    return np.zeros(blob.shape, np.float32) if blob.grad is None else as_array(blob.grad)
