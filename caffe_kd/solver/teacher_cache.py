"""Remembers what frozen layers answer, so that they run once for a record.

The steps of the net that give a record the same answer each time (see frozen.py) are taken out of
its running order and replaced by a look-up. Answers are computed in chunks that begin at multiples
of the batch size, so that a record's answer has the same bits in whatever order the records come.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CaffeKDError, DataError
from ..files import write_atomically
from ..layers import Context, Layer
from ..layers.records import Indices, RecordLayer
from ..net import Net, Step
from ..proto import caffe_pb2 as pb
from ..proto import text
from .frozen import Frozen, choose


class _Lookup(Layer):
    """Stands in the running order for the frozen steps: its tops are what they would give."""

    type = "Remembered"

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__(pb.LayerParameter(name="remembered"), pb.TEST, Context())
        self.cache = cache

    def forward(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        source = self.cache.frozen.source.layer
        assert isinstance(source, RecordLayer)
        return self.cache.answers(source.last)


class TeacherCache:
    """The answers of a net's frozen part, by record.

    Args:
        net: the net; from now on it runs without its frozen part.
        frozen: that part, from ``find_frozen``.
        folder: where to keep the answers, over runs; None: in memory.
        notify: takes what the user should know.

    Raises:
        CaffeKDError: the folder cannot be written.
    """

    def __init__(
        self, net: Net, frozen: Frozen, folder: Path | None, notify: Callable[[str], None]
    ) -> None:
        assert isinstance(frozen.source.layer, RecordLayer)
        self.net = net
        self.frozen = frozen
        self.source = frozen.source.layer
        self.chunk = frozen.source.top_shapes[0][0]
        self.seconds = 0.0
        self.computed = 0  # chunks computed
        self.served = 0  # records looked up
        self._folder = folder
        self._notify = notify
        self._begin()
        self._attach()
        place = f"in {folder}" if folder else "in memory"
        notify(f"Remembering {frozen.told(net)} {place}")

    def _begin(self) -> None:
        """Make room for the answers to the records that the source has now."""
        self._contents = self.source.contents
        self.records = self.source.record_count
        shapes = self.frozen.shapes(self.net)
        self.bytes = self.frozen.bytes(self.net)
        chunks = math.ceil(self.records / self.chunk)
        if self._folder is None:
            self._values = {n: torch.empty(s) for n, s in shapes.items()}
            self._filled = np.zeros(chunks, np.bool_)
        else:
            self._open(self._folder, shapes, chunks, self._notify)

    def _attach(self) -> None:
        skipped = {id(step) for step in self.frozen.steps}
        lookup = Step(_Lookup(self), [], self.frozen.blobs, [], [0.0] * len(self.frozen.blobs))
        running: list[Step] = []
        for step in self.net.steps:
            if id(step) not in skipped:
                running.append(step)
            if step is self.frozen.source:
                running.append(lookup)
        self.net.running = running

    # ---- looking up

    def answers(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the frozen part's blobs for some records."""
        if self._contents != self.source.contents:
            self._begin()
        if isinstance(indices, slice):
            first, last = indices.start // self.chunk, (indices.stop - 1) // self.chunk
            for chunk in range(first, last + 1):
                self._need(chunk)
            rows: slice | Tensor = indices
            self.served += indices.stop - indices.start
        else:
            for chunk in np.unique(indices // self.chunk):
                self._need(int(chunk))
            rows = torch.from_numpy(np.ascontiguousarray(indices))
            self.served += len(indices)
        device = self.source.context.device
        return tuple(self._values[name][rows].to(device) for name in self.frozen.blobs)

    def _need(self, chunk: int) -> None:
        if not self._filled[chunk]:
            self._compute(chunk)

    @torch.no_grad()
    def _compute(self, chunk: int) -> None:
        started = time.perf_counter()
        rows = slice(chunk * self.chunk, min(self.records, (chunk + 1) * self.chunk))
        blobs = dict(zip(self.frozen.source.tops, self.source.read(rows), strict=True))
        for step in self.frozen.steps:
            result = step.layer(*(blobs[name] for name in step.bottoms))
            tops = (result,) if isinstance(result, Tensor) else result
            blobs.update(zip(step.tops, tops, strict=True))
        for name in self.frozen.blobs:
            kept = self._values[name][rows]
            if blobs[name].shape != kept.shape:
                raise DataError(
                    f"blob '{name}' is {tuple(blobs[name].shape)} for records {rows.start} to "
                    f"{rows.stop - 1}, where {tuple(kept.shape)} was expected: answers to images "
                    "of several sizes cannot be remembered. Train with -teacher_cache off"
                )
            kept.copy_(blobs[name])
        self._filled[chunk] = True
        self.computed += 1
        self.seconds += time.perf_counter() - started

    def report(self) -> str:
        """Return what remembering has cost and saved, in a sentence."""
        per_record = self.seconds / (self.computed * self.chunk) if self.computed else 0.0
        saved = max(0.0, self.served * per_record - self.seconds)
        return (
            f"Teacher cache: {self.computed} of {len(self._filled)} chunks computed in "
            f"{self.seconds:.1f} s, {self.served} answers given, about {saved:.1f} s saved, "
            f"{self.bytes / 2**20:.1f} MB"
        )

    # ---- on disk

    def _open(
        self,
        folder: Path,
        shapes: dict[str, tuple[int, ...]],
        chunks: int,
        notify: Callable[[str], None],
    ) -> None:
        """Map the files of an earlier run if its fingerprint is ours, else begin anew."""
        about = folder / "fingerprint.json"
        fingerprint = self.fingerprint()
        files = {name: folder / f"{index}.f32" for index, name in enumerate(shapes)}
        sizes = {files[n]: 4 * math.prod(s) for n, s in shapes.items()}
        sizes[folder / "filled"] = chunks
        known = _read_json(about)
        same = known == fingerprint and all(
            path.is_file() and path.stat().st_size == size for path, size in sizes.items()
        )
        if known is not None and not same:
            differing = [k for k in fingerprint if (known or {}).get(k) != fingerprint[k]]
            notify(
                f"The teacher cache in {folder} was made with another "
                f"{' and '.join(differing) or 'file size'}: computed anew"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not same:
                about.unlink(missing_ok=True)
                for path, size in sizes.items():
                    path.unlink(missing_ok=True)  # answers given earlier may still map the old one
                    with open(path, "wb") as file:
                        file.truncate(size)
                write_atomically(about, json.dumps(fingerprint, indent=1).encode())
            self._values = {
                name: torch.from_numpy(np.memmap(files[name], np.float32, "r+", shape=shape))
                for name, shape in shapes.items()
            }
            self._filled = np.memmap(folder / "filled", np.bool_, "r+", shape=(chunks,))
        except OSError as error:
            raise CaffeKDError(
                f"the teacher cache cannot be written: {error.strerror}", str(folder)
            ) from None

    def fingerprint(self) -> dict[str, str]:
        """Return what the answers depend on: net, weights, data and its transformation."""
        net, weights = hashlib.sha256(), hashlib.sha256()
        for step in self.frozen.steps:
            net.update(text.to_text(step.layer.proto).encode())
            weights.update(step.layer.digest)
            for blob in step.layer.blobs:
                weights.update(blob.detach().cpu().contiguous().numpy().tobytes())
        data = hashlib.sha256(str(self.records).encode())
        for index in range(0, self.records, self.chunk):
            rows = slice(index, min(self.records, index + self.chunk))
            for top in self.source.read(rows)[:1]:
                data.update(top.cpu().contiguous().numpy().tobytes())
        return {
            "net": net.hexdigest(),
            "weights": weights.hexdigest(),
            "data": data.hexdigest(),
            "chunk": str(self.chunk),
            "torch": torch.__version__,
        }


def _read_json(path: Path) -> dict[str, str] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def remember(
    net: Net,
    mode: str,
    folder: Path,
    batches: int,
    notify: Callable[[str], None],
    moving: Collection[str] = (),
) -> TeacherCache | None:
    """Give a net a cache as ``-teacher_cache`` asks.

    Args:
        net: the train net, with its weights.
        mode: auto (in memory, where it pays and fits), off, memory or disk.
        folder: where ``disk`` keeps the answers.
        batches: how many batches the training is going to take.
        notify: takes what the user should know.
        moving: as for ``find_frozen``.

    Raises:
        UsageError: ``memory`` or ``disk`` is asked for, but nothing can be remembered.
    """
    if mode == "off":
        return None
    frozen = choose(net, mode, batches, moving)
    if isinstance(frozen, Frozen):
        return TeacherCache(net, frozen, folder if mode == "disk" else None, notify)
    if frozen:
        notify(f"No teacher cache: {frozen}")
    return None
