"""What Caffe's solverstate cannot hold, in ``<prefix>_iter_N.resume`` beside it.

Where the data stand, random numbers and the recent losses: with them a run that goes on from a
snapshot gives, bit for bit, the weights of the run that was never interrupted (same processor,
same number of threads). The file is a numpy archive of plain arrays; nothing in it can run code.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import ParseError
from ..files import replacing
from ..net import Net

_READ = 1 << 20


def path_beside(state: Path) -> Path:
    """Return the ``.resume`` that belongs to a ``.solverstate`` or ``.solverstate.h5``."""
    name = state.name.removesuffix(".h5").removesuffix(".solverstate")
    return state.with_name(f"{name}.resume")


class Stateful(Protocol):
    """What has a state of its own besides the layers."""

    def state(self) -> dict[str, np.ndarray]:
        """Return what an interrupted run needs of it to go on."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from where ``state`` was taken."""


def write(
    path: Path,
    weights: Path,
    nets: Sequence[Net],
    losses: Sequence[float],
    others: Mapping[str, Stateful],
) -> None:
    """Write the state of a run's nets and of what else has one.

    Args:
        path: the file to write.
        weights: the caffemodel it belongs to.
        nets: the train net and the test nets.
        losses: the recent losses.
        others: what else has a state, by name.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    arrays = {
        "weights_crc32": np.array(_crc32(weights), np.int64),
        "random": torch.get_rng_state().numpy(),
        "losses": np.array(losses, np.float64),
    }
    if torch.cuda.is_available():
        arrays["cuda_random"] = torch.cuda.get_rng_state().numpy()
    for number, net in enumerate(nets):
        for index, step in enumerate(net.steps):
            for key, value in step.layer.state().items():
                arrays[f"{number}/{index}/{key}"] = value
    for name, other in others.items():
        arrays |= {f"{name}/{key}": value for key, value in other.state().items()}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes them for allow_pickle


def read(
    path: Path, weights: Path, nets: Sequence[Net], others: Mapping[str, Stateful]
) -> list[float] | None:
    """Put a run's nets, random numbers and others into the state that was written.

    Others that the file does not know, since they came after it was written, stay as they are.

    Returns:
        The recent losses; None if the file belongs to other weights, and then nothing is changed.

    Raises:
        ParseError: the file is damaged or belongs to another net.
    """
    arrays = _load(path)
    if int(_array(arrays, "weights_crc32", path)) != _crc32(weights):
        return None
    states: list[dict[str, np.ndarray]] = []
    for number, net in enumerate(nets):
        for index, step in enumerate(net.steps):
            keys = step.layer.state()
            states.append({k: _array(arrays, f"{number}/{index}/{k}", path) for k in keys})
    layers = [step.layer for net in nets for step in net.steps]
    try:
        for layer, state in zip(layers, states, strict=True):
            if state:
                layer.restore(state)
        for name, other in others.items():
            told = [key for key in other.state() if f"{name}/{key}" in arrays]
            if told:
                other.restore({key: arrays[f"{name}/{key}"] for key in told})
        torch.set_rng_state(torch.from_numpy(_array(arrays, "random", path)))
        if torch.cuda.is_available() and "cuda_random" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda_random"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ParseError(f"does not fit this net: {error}", str(path)) from None
    return [float(loss) for loss in _array(arrays, "losses", path)]


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:  # it is written unpacked, so this is somebody else's
            raise ParseError(f"unpacks to {size} bytes, more than it has itself", str(path))
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror or error}", str(path)) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ParseError(
            f"is damaged: {error}. Without it (move it away) the run goes on from the solverstate, "
            "with its data from the start",
            str(path),
        ) from None


def _array(arrays: Mapping[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in arrays:
        raise ParseError(f"belongs to another net: it has no '{name}'", str(path))
    return arrays[name]


def _crc32(path: Path) -> int:
    value = 0
    try:
        with open(path, "rb") as file:
            while part := file.read(_READ):
                value = zlib.crc32(part, value)
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror}", str(path)) from None
    return value
