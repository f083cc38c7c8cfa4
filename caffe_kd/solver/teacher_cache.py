"""Remembers what frozen layers answer, so that they run once for a record.

The steps of the net that give a record the same answer each time (see frozen.py) are taken out of
its running order and replaced by a look-up. Answers are computed in chunks that begin at multiples
of the batch size, so that a record's answer has the same bits in whatever order the records come.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.errors import DataError
from ..layers import Context, Layer
from ..layers.shared.records import Indices, RecordLayer
from ..net import LayerNode, Net
from ..proto import caffe_pb2 as pb
from ..proto import text
from .cache_store import DiskStore, MemoryStore, Store
from .frozen import Frozen, choose


class _Lookup(Layer):
    """Stands in the running order for the frozen steps: its tops are what they would give."""

    type = "Remembered"

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__(pb.LayerParameter(name="remembered"), pb.TEST, Context())
        self.cache = cache

    def forward(self) -> tuple[Tensor, ...]:
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
        self.bytes = self.frozen.bytes(self.net)
        self.chunks = math.ceil(self.records / self.chunk)
        shapes = self.frozen.shapes(self.net)
        self._store: Store | None = None  # lets go of the one before, which may be removed
        if self._folder is None:
            self._store = MemoryStore(shapes, self.chunk)
        else:
            about = self.fingerprint()
            self._store = DiskStore(self._folder, about, shapes, self.chunk, self._notify)

    def _attach(self) -> None:
        skipped = {id(node) for node in self.frozen.nodes}
        lookup = LayerNode(_Lookup(self), [], self.frozen.blobs, [], [0.0] * len(self.frozen.blobs))
        running: list[LayerNode] = []
        for node in self.net.nodes:
            if id(node) not in skipped:
                running.append(node)
            if node is self.frozen.source:
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
            self.served += indices.stop - indices.start
        else:
            for chunk in np.unique(indices // self.chunk):
                self._need(int(chunk))
            self.served += len(indices)
        device = self.source.context.device
        assert self._store is not None
        return tuple(self._store.get(name, indices).to(device) for name in self.frozen.blobs)

    def _need(self, chunk: int) -> None:
        assert self._store is not None
        if not self._store.has(chunk):
            self._compute(chunk, self._store)

    @torch.no_grad()
    def _compute(self, chunk: int, store: Store) -> None:
        started = time.perf_counter()
        rows = slice(chunk * self.chunk, min(self.records, (chunk + 1) * self.chunk))
        blobs = dict(zip(self.frozen.source.tops, self.source.read(rows), strict=True))
        for node in self.frozen.nodes:
            tops = node.layer.run(*(blobs[name] for name in node.bottoms))
            blobs.update(zip(node.tops, tops, strict=True))
        values: dict[str, Tensor] = {}
        for name, (_, *rest) in self.frozen.shapes(self.net).items():
            shape = (rows.stop - rows.start, *rest)
            if blobs[name].shape != shape:
                raise DataError(
                    f"blob '{name}' is {tuple(blobs[name].shape)} for records {rows.start} to "
                    f"{rows.stop - 1}, where {shape} was expected: answers to images "
                    "of several sizes cannot be remembered. Train with -teacher_cache off"
                )
            values[name] = blobs[name].to("cpu", torch.float32)
        store.put(chunk, values)
        self.computed += 1
        self.seconds += time.perf_counter() - started

    def report(self) -> str:
        """Return what remembering has cost and saved, in a sentence."""
        per_sample = self.seconds / (self.computed * self.chunk) if self.computed else 0.0
        saved = max(0.0, self.served * per_sample - self.seconds)
        return (
            f"Teacher cache: {self.computed} of {self.chunks} chunks computed in "
            f"{self.seconds:.1f} s, {self.served} answers given, about {saved:.1f} s saved, "
            f"{self.bytes / 2**20:.1f} MB"
        )

    def fingerprint(self) -> dict[str, str]:
        """Return what the answers depend on: net, weights, data and its transformation."""
        net, weights = hashlib.sha256(), hashlib.sha256()
        for node in self.frozen.nodes:
            net.update(text.to_text(node.layer.proto).encode())
            weights.update(node.layer.digest)
            for blob in node.layer.blobs:
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
