"""Caches the outputs of frozen layers, so that they run once per sample.

The nodes of the net whose outputs for a sample are always the same (see frozen.py) are removed from
its running order and replaced by a lookup. Outputs are computed in chunks that begin at multiples
of the batch size, so that they are bitwise the same in whatever order the samples come.
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
from ..layers.shared.sample_layer import Indices, SampleLayer
from ..net import LayerNode, Net
from ..proto import caffe_pb2 as pb
from ..proto import text
from .cache_store import DiskStore, MemoryStore, Store
from .frozen import Frozen, select_frozen


class _Lookup(Layer):
    """Replaces the frozen nodes in the running order: its tops are their cached outputs."""

    type = "Cached"

    def __init__(self, cache: TeacherCache) -> None:
        super().__init__(pb.LayerParameter(name="cached"), pb.TEST, Context())
        self.cache = cache

    def forward(self) -> tuple[Tensor, ...]:
        source = self.cache.frozen.source.layer
        assert isinstance(source, SampleLayer)
        return self.cache.outputs(source.last)


class TeacherCache:
    """The outputs of a net's frozen part, by sample.

    Args:
        net: the net; from now on it runs without its frozen part.
        frozen: that part, from ``find_frozen``.
        folder: where to store the outputs, for later runs too; None: in memory.
        notify: logs a line.

    Raises:
        CaffeKDError: the folder cannot be written.
    """

    def __init__(
        self, net: Net, frozen: Frozen, folder: Path | None, notify: Callable[[str], None]
    ) -> None:
        assert isinstance(frozen.source.layer, SampleLayer)
        self.net = net
        self.frozen = frozen
        self.source = frozen.source.layer
        self.chunk = frozen.source.top_shapes[0][0]
        self.seconds = 0.0
        self.computed = 0  # chunks computed
        self.served = 0  # samples looked up
        self._folder = folder
        self._notify = notify
        self._allocate()
        self._attach()
        location = f"in {folder}" if folder else "in memory"
        notify(f"Caching {frozen.describe(net)} {location}")

    def _allocate(self) -> None:
        """Make room for the outputs for the samples that the source has now."""
        self._contents = self.source.contents
        self.sample_count = self.source.sample_count
        self.bytes = self.frozen.bytes(self.net)
        self.chunks = math.ceil(self.sample_count / self.chunk)
        shapes = self.frozen.shapes(self.net)
        self._store: Store | None = None  # releases the previous one, which may then be removed
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

    # ---- lookup

    def outputs(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the frozen part's blobs for some samples."""
        if self._contents != self.source.contents:
            self._allocate()
        if isinstance(indices, slice):
            first, last = indices.start // self.chunk, (indices.stop - 1) // self.chunk
            for chunk in range(first, last + 1):
                self._ensure(chunk)
            self.served += indices.stop - indices.start
        else:
            for chunk in np.unique(indices // self.chunk):
                self._ensure(int(chunk))
            self.served += len(indices)
        device = self.source.context.device
        assert self._store is not None
        return tuple(self._store.get(name, indices).to(device) for name in self.frozen.blobs)

    def _ensure(self, chunk: int) -> None:
        assert self._store is not None
        if not self._store.has(chunk):
            self._compute(chunk, self._store)

    @torch.no_grad()
    def _compute(self, chunk: int, store: Store) -> None:
        started = time.perf_counter()
        rows = slice(chunk * self.chunk, min(self.sample_count, (chunk + 1) * self.chunk))
        blobs = dict(zip(self.frozen.source.tops, self.source.read(rows), strict=True))
        for node in self.frozen.nodes:
            tops = node.layer.run(*(blobs[name] for name in node.bottoms))
            blobs.update(zip(node.tops, tops, strict=True))
        values: dict[str, Tensor] = {}
        for name, (_, *rest) in self.frozen.shapes(self.net).items():
            shape = (rows.stop - rows.start, *rest)
            if blobs[name].shape != shape:
                raise DataError(
                    f"blob '{name}' is {tuple(blobs[name].shape)} for samples {rows.start} to "
                    f"{rows.stop - 1}, where {shape} was expected: outputs for images of several "
                    "sizes cannot be cached. Train with -teacher_cache off"
                )
            values[name] = blobs[name].to("cpu", torch.float32)
        store.put(chunk, values)
        self.computed += 1
        self.seconds += time.perf_counter() - started

    def report(self) -> str:
        """Return a line on the time that the cache has cost and saved."""
        per_sample = self.seconds / (self.computed * self.chunk) if self.computed else 0.0
        saved = max(0.0, self.served * per_sample - self.seconds)
        return (
            f"Teacher cache: {self.computed} of {self.chunks} chunks computed in "
            f"{self.seconds:.1f} s, {self.served} outputs served, about {saved:.1f} s saved, "
            f"{self.bytes / 2**20:.1f} MB"
        )

    def fingerprint(self) -> dict[str, str]:
        """Return digests of what the outputs depend on: net, weights and transformed data."""
        net, weights = hashlib.sha256(), hashlib.sha256()
        for node in self.frozen.nodes:
            net.update(text.to_text(node.layer.proto).encode())
            weights.update(node.layer.digest)
            for blob in node.layer.blobs:
                weights.update(blob.detach().cpu().contiguous().numpy().tobytes())
        data = hashlib.sha256(str(self.sample_count).encode())
        for index in range(0, self.sample_count, self.chunk):
            rows = slice(index, min(self.sample_count, index + self.chunk))
            for top in self.source.read(rows)[:1]:
                data.update(top.cpu().contiguous().numpy().tobytes())
        return {
            "net": net.hexdigest(),
            "weights": weights.hexdigest(),
            "data": data.hexdigest(),
            "chunk": str(self.chunk),
            "torch": torch.__version__,
        }


def build_cache(
    net: Net,
    mode: str,
    folder: Path,
    batches: int,
    notify: Callable[[str], None],
    ema_layers: Collection[str] = (),
) -> TeacherCache | None:
    """Return a net's cache as ``-teacher_cache`` asks; None if it has none.

    Args:
        net: the train net, with its weights.
        mode: auto (in memory, if it pays off and fits), off, memory or disk.
        folder: where ``disk`` stores the outputs.
        batches: how many batches the training will use.
        notify: logs a line.
        ema_layers: as for ``find_frozen``.

    Raises:
        UsageError: ``memory`` or ``disk`` is asked for, but nothing can be cached.
    """
    if mode == "off":
        return None
    frozen = select_frozen(net, mode, batches, ema_layers)
    if isinstance(frozen, Frozen):
        return TeacherCache(net, frozen, folder if mode == "disk" else None, notify)
    if frozen:
        notify(f"No teacher cache: {frozen}")
    return None
