"""Reads and writes weights and solver states as HDF5, in Caffe's layout.

Weights: ``/data/<layer>/<i>`` and, with gradients, ``/diff/<layer>/<i>``. Solver state: ``iter``,
``learned_net``, ``current_step`` and ``history/<i>``.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..core.errors import ParseError, WeightsError
from ..core.files import replacing
from .hdf5_sizes import dataset_problem

Array = NDArray[np.float32]

MAX_GROUPS = 100_000
MAX_DEPTH = 100  # a layer's name with a slash is a group in a group
MAX_BLOBS = 10_000  # of a layer, or in a history


def read_weights(path: str | Path) -> list[tuple[str, list[Array | None]]]:
    """Return each layer's name and blobs; None stands for a blob that another layer owns.

    Raises:
        ParseError: the file is damaged or truncated, has another layout, or links outside itself.
    """
    with _File(path) as file:
        layers: list[tuple[str, list[Array | None]]] = []
        pending: list[tuple[str, Any, int]] = [("", file.group(file.root, "data"), 0)]
        while pending:
            name, group, depth = pending.pop()
            links = file.links(group)
            children = [link for link in links if isinstance(link[1], h5py.Group)]
            blobs = [link for link in links if not isinstance(link[1], h5py.Group)]
            if name and (blobs or not children):  # else only the first part of layers' names
                layers.append((name, file.numbered(blobs, name)))
            if children and depth == MAX_DEPTH:
                raise file.error(f"its groups are nested more than {MAX_DEPTH} deep")
            pending += [
                (f"{name}/{key}" if name else key, child, depth + 1)
                for key, child in reversed(children)
            ]
        return layers


def read_solver_state(path: str | Path) -> tuple[int, str, list[Array], int]:
    """Return ``iter``, ``learned_net``, ``history`` and ``current_step``.

    Raises:
        ParseError: the file is damaged or truncated, has another layout, or links outside itself.
    """
    with _File(path) as file:
        history = file.numbered(file.links(file.group(file.root, "history")), "history")
        whole = [array for array in history if array is not None]
        if len(whole) < len(history):
            raise file.error("its history has gaps")
        return file.integer("iter"), file.text("learned_net"), whole, file.integer("current_step")


class _File:
    """An open file whose errors all become ParseErrors."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._groups_left = MAX_GROUPS
        self._file_bytes = os.path.getsize(path)
        self._bytes_taken = 0

    def __enter__(self) -> _File:
        try:
            self.root = h5py.File(self._path, "r", locking=False)
        except OSError as error:
            if "locking flag" in str(error):
                raise self.error("is still open in this program: close it first") from None
            reason = "it is truncated" if "truncated" in str(error) else str(error)
            raise self.error(f"is a damaged HDF5 file: {reason}") from None
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.root.close()
        if isinstance(
            error, (OSError, RuntimeError, LookupError, ValueError, TypeError, zlib.error)
        ):
            raise self.error(f"is a damaged HDF5 file: {error}") from None

    def error(self, message: str) -> ParseError:
        return ParseError(message, str(self._path))

    def links(self, group: Any) -> list[tuple[str, Any]]:
        """Return a group's members, none of which may be a link."""
        self._groups_left -= 1 + len(group)
        if self._groups_left < 0:
            raise self.error(f"has more than {MAX_GROUPS} groups and datasets")
        return [(name, self._member(group, name)) for name in group]

    def group(self, parent: Any, name: str) -> Any:
        member = self._named(parent, name)
        if not isinstance(member, h5py.Group):
            raise self.error(f"'{name}' is not a group")
        return member

    def _named(self, parent: Any, name: str) -> Any:
        members = list(parent)  # a lookup by name would follow a link
        if name not in members:
            held = ", ".join(members[:8]) or "nothing"
            raise self.error(
                f"is an HDF5 file, but not of the expected layout: it has no '{name}'. "
                f"Received: {held[:200]}"
            )
        return self._member(parent, name)

    def _member(self, group: Any, name: str) -> Any:
        if isinstance(group.get(name, getlink=True), (h5py.SoftLink, h5py.ExternalLink)):
            raise self.error(f"'{name[:200]}' is a link, which is not followed")
        return group[name]

    def numbered(self, members: list[tuple[str, Any]], where: str) -> list[Array | None]:
        """Return datasets named 0, 1, … as a list with None in gaps."""
        by_index: dict[int, Array] = {}
        for name, dataset in members:
            path = f"{where[:200]}/{name[:200]}"
            if not (name.isascii() and name.isdigit() and len(name) < 6 and int(name) < MAX_BLOBS):
                raise self.error(f"'{path}' was found instead of blobs 0, 1, …")
            by_index[int(name)] = self._floats(dataset, path)
        return [by_index.get(i) for i in range(max(by_index, default=-1) + 1)]

    def _floats(self, dataset: Any, name: str) -> Array:
        self._check(dataset, name, "f")
        problem = dataset_problem(dataset, 4, self._file_bytes, self._bytes_taken)
        if problem:
            raise self.error(f"'{name}' of shape {dataset.shape}: {problem}")
        self._bytes_taken += 4 * math.prod(dataset.shape)
        with np.errstate(all="ignore"):
            return np.asarray(dataset.astype(np.float32)[()])

    def _check(self, dataset: Any, name: str, kinds: str) -> None:
        if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
            raise self.error(f"'{name}' is not a dataset")
        if dataset.external or dataset.is_virtual:
            raise self.error(f"'{name}' stores its values in another file, which is not supported")
        if dataset.dtype.kind not in kinds:
            raise self.error(f"'{name}' holds values of the wrong type: {dataset.dtype}")
        # A dataset may never have been written: reading it would return zeros.
        if math.prod(dataset.shape) and dataset.id.get_storage_size() == 0:
            raise self.error(f"'{name}' has no values")

    def integer(self, name: str) -> int:
        dataset = self._named(self.root, name)
        self._check(dataset, name, "iu")
        if math.prod(dataset.shape) != 1:
            raise self.error(f"'{name}' is not a single number")
        value = int(np.asarray(dataset[()]).item())
        if not 0 <= value < 2**31:
            raise self.error(f"'{name}' is {value}")
        return value

    def text(self, name: str) -> str:
        dataset = self._named(self.root, name)
        self._check(dataset, name, "SO")
        if dataset.shape != () or h5py.check_string_dtype(dataset.dtype) is None:
            raise self.error(f"'{name}' is not a string")
        value = dataset[()]
        return os.fsdecode(value)


def write_weights(
    path: str | Path,
    layers: Sequence[str],
    weights: Mapping[str, Sequence[NDArray[Any] | None]],
    diffs: Mapping[str, Sequence[NDArray[Any] | None]] | None,
) -> None:
    """Write a group for every layer, atomically; see ``binary.write_weights_hdf5``."""
    with _new_file(path) as file:
        for kind, arrays in (("data", weights), ("diff", diffs)):
            if arrays is None:
                continue
            parent = file.create_group(kind)
            for layer in layers:
                _write_layer(parent, layer, arrays.get(layer, ()))


def _write_layer(parent: Any, name: str, arrays: Sequence[NDArray[Any] | None]) -> None:
    try:
        # HDF5 would silently take these for another group's name.
        if "\0" in name or not set(name.split("/")).isdisjoint({"", "."}):
            raise ValueError("it has a zero byte, or a part that is empty or '.'")
        group = parent.require_group(name)
        for i, array in enumerate(arrays):
            if array is not None:
                group.create_dataset(str(i), data=np.asarray(array, np.float32))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"layer '{name}' cannot be written as HDF5 under its name: {error}. "
            "snapshot_format: BINARYPROTO takes any name"
        ) from None


def write_solver_state(
    path: str | Path,
    iteration: int,
    learned_net: str,
    history: Sequence[NDArray[Any]],
    current_step: int,
) -> None:
    """Write a solver state, atomically."""
    with _new_file(path) as file:
        file.create_dataset("iter", data=np.array([iteration], np.int32))
        _write_text(file, "learned_net", os.fsencode(learned_net))
        file.create_dataset("current_step", data=np.array([current_step], np.int32))
        group = file.create_group("history")
        for i, array in enumerate(history):
            group.create_dataset(str(i), data=np.asarray(array, np.float32))


def _write_text(file: Any, name: str, text: bytes) -> None:
    """Write a null-terminated string, which Caffe reads as C does."""
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(text) + 1)
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text, f"S{len(text) + 1}"))


@contextmanager
def _new_file(path: str | Path) -> Iterator[Any]:
    # Made in memory: on a full disk the library may kill the process.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file
    with replacing(path) as temporary, open(temporary, "wb") as target:
        target.write(content.getbuffer())
