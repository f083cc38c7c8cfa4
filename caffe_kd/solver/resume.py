"""What Caffe's solverstate cannot hold, in ``<prefix>_iter_N.resume`` beside it.

The position in the data, the states of random number generators and the recent losses: with them a
resumed run gives, bit for bit, the weights of an uninterrupted one (on the same processor, with the
same number of threads). It has the checksums of the files of its snapshot, and a fingerprint of
each data layer's data. The file is a numpy archive of plain arrays followed by a checksum; nothing
in it can run code.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from ..core.errors import ParseError, SolverError
from ..core.files import read_bytes, reading, write_atomically
from ..layers import Layer
from ..net import Net

_READ = 1 << 20
_MOST_BYTES = 1 << 32
_SEAL_BYTES = 4


def path_beside(state: Path) -> Path:
    """Return the ``.resume`` that belongs to a ``.solverstate`` or ``.solverstate.h5``."""
    name = state.name.removesuffix(".h5").removesuffix(".solverstate")
    return state.with_name(f"{name}.resume")


class Stateful(Protocol):
    """Something other than a layer that has state."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the state that a resumed run needs."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state that ``state`` returned."""


def write(
    path: Path,
    checks: Mapping[str, int],
    nets: Sequence[Net],
    losses: Sequence[float],
    others: Mapping[str, Stateful],
) -> None:
    """Write the state of a run's nets and callbacks.

    Args:
        path: the file to write.
        checks: the checksums of the snapshot's other files, by name.
        nets: the train net and the test nets.
        losses: the recent losses.
        others: the callbacks that have state, by name.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    data = {place: layer.fingerprint() for place, layer in _layers(nets).items()}
    about = {"checks": dict(checks), "data": data}
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "random": torch.get_rng_state().numpy(),
        "losses": np.array(losses, np.float64),
    }
    if torch.cuda.is_available():
        arrays["cuda_random"] = torch.cuda.get_rng_state().numpy()
    for place, layer in _layers(nets).items():
        arrays |= {f"{place}/{key}": value for key, value in layer.state().items()}
    for name, other in others.items():
        arrays |= {f"{name}/{key}": value for key, value in other.state().items()}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # the stub takes them for allow_pickle
    write_atomically(path, sealed(content.getvalue()))


def read(
    path: Path,
    checks: Mapping[str, int],
    nets: Sequence[Net],
    others: Mapping[str, Stateful],
    warn: Callable[[str], None],
) -> list[float] | None:
    """Restore the state of a run's nets, callbacks and random number generators.

    Callbacks that the file has no state for, because they were added after it was written, are
    unchanged; so are layers whose data has changed, about each of which a warning is logged.

    Returns:
        The recent losses; None if the file belongs to another snapshot: then nothing is changed.

    Raises:
        ParseError: the file is damaged or belongs to another net.
        SolverError: some of the snapshot's files are not those that were written with it.
    """
    arrays = _load(path)
    about = _about(arrays, path)
    differing = [name for name, value in checks.items() if about["checks"].get(name) != value]
    if len(differing) == len(checks):
        return None
    if differing:
        raise SolverError(
            f"{' and '.join(differing)} of this snapshot is not what was written with it: a file "
            "is damaged, or was replaced. Resume from another snapshot; or, to resume with the "
            "files as they are and the data from the beginning, move this one away",
            str(path),
        )
    restored = [
        (one, {key: _array(arrays, f"{name}/{key}", path, own[key]) for key in own})
        for name, one, own in _restorable(arrays, about["data"], nets, others, warn)
    ]
    losses = _array(arrays, "losses", path, np.zeros(1))
    try:
        for one, state in restored:
            one.restore(state)
        torch.set_rng_state(torch.from_numpy(_array(arrays, "random", path)))
        if torch.cuda.is_available() and "cuda_random" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays["cuda_random"]))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ParseError(f"does not fit this net: {error}", str(path)) from None
    return [float(loss) for loss in losses]


def _restorable(
    arrays: Mapping[str, np.ndarray],
    data: Mapping[str, Mapping[str, str]],
    nets: Sequence[Net],
    others: Mapping[str, Stateful],
    warn: Callable[[str], None],
) -> Iterator[tuple[str, Stateful, dict[str, np.ndarray]]]:
    """Yield the layers and callbacks to restore, each as name, object and current state."""
    for name, layer in _layers(nets).items():
        change = _change(data.get(name, {}), layer.fingerprint())
        if change:
            warn(
                f"layer '{layer.name}' ({layer.type}) starts its data from the beginning, because "
                f"it differs from that of the snapshot: {change}"
            )
        elif own := layer.state():
            yield name, layer, own
    for name, other in others.items():
        if own := {k: v for k, v in other.state().items() if f"{name}/{k}" in arrays}:
            yield name, other, own


def _layers(nets: Sequence[Net]) -> dict[str, Layer]:
    """Return the nets' layers by the name of their state in the file."""
    return {
        f"{number}/{index}": node.layer
        for number, net in enumerate(nets)
        for index, node in enumerate(net.nodes)
    }


def _change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return how a layer's data differs from that of a snapshot; empty if it does not."""
    changes = []
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name, "unknown"), now.get(name, "unknown")
        if old != new:
            numbers = old.isdecimal() and new.isdecimal()
            changes.append(f"{name} {old}, now {new}" if numbers else f"different {name}")
    return ", ".join(changes)


def sealed(content: bytes) -> bytes:
    """Return an archive followed by its checksum, which readers of archives ignore."""
    return content + zlib.crc32(content).to_bytes(_SEAL_BYTES, "little")


def _load(path: Path) -> dict[str, np.ndarray]:
    whole = read_bytes(path, _MOST_BYTES)
    content = whole[:-_SEAL_BYTES]
    try:
        if sealed(content) != whole:
            raise ValueError("its checksum is not that of its content")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > len(content):  # it is written uncompressed, so this is another file
            raise ValueError(f"it unpacks to {size} bytes, more than its own size")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if other := [name for name in arrays if not isinstance(arrays[name], np.ndarray)]:
            raise ValueError(f"'{other[0]}' is not an array")
        return arrays
    except Exception as error:  # numpy and zipfile raise a dozen types
        first, *_ = [*str(error).splitlines(), type(error).__name__]
        raise _damaged(first, path) from None


def _about(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """Return the checksums and the fingerprints of the data."""
    content = _array(arrays, "about", path, np.zeros(1, np.uint8))
    try:
        about = json.loads(content.astype(np.uint8).tobytes())
        assert all(isinstance(about[name], dict) for name in ("checks", "data"))
        values = [v for layer in about["data"].values() for v in layer.values()]
        assert all(isinstance(value, str) for value in values)
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError):
        raise _damaged("'about' does not identify its snapshot", path) from None
    return cast(dict[str, Any], about)


def _array(
    arrays: Mapping[str, np.ndarray], name: str, path: Path, like: np.ndarray | None = None
) -> np.ndarray:
    """Return an array; it must have the kind of dtype and the number of axes of ``like``."""
    if name not in arrays:
        raise ParseError(f"belongs to another net: it has no '{name}'", str(path))
    array = arrays[name]
    if like is not None and (array.dtype.kind, array.ndim) != (like.dtype.kind, like.ndim):
        raise _damaged(f"'{name}' is {array.dtype} of {array.ndim} axes", path)
    return array


def _damaged(what: str, path: Path) -> ParseError:
    return ParseError(
        f"is damaged: {what}. Without it (move it away) the run resumes from the solverstate, "
        "with its data from the beginning",
        str(path),
    )


def file_crc32(path: Path) -> int:
    """Return the checksum of a file.

    Raises:
        ParseError: it cannot be read.
    """
    value = 0
    with reading(path), open(path, "rb") as file:
        while part := file.read(_READ):
            value = zlib.crc32(part, value)
    return value
