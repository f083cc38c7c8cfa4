"""Remembers what frozen layers answer, so that they run once for a record.

A teacher, or a frozen trunk, that is fed by deterministic data gives a record the same answer each
time. The steps of the net that do so are found, taken out of its running order, and replaced by a
look-up. Answers are computed in chunks that begin at multiples of the batch size, so that a
record's answer has the same bits in whatever order the records come.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CaffeKDError, DataError, UsageError
from ..files import write_atomically
from ..layers import Context, Layer
from ..layers.records import Indices, RecordLayer
from ..net import Net, Step
from ..proto import caffe_pb2 as pb
from ..proto import text

AUTO_LIMIT = 2 << 30  # bytes of memory that `auto` may take


@dataclass
class Frozen:
    """The part of a net that can be remembered.

    Attributes:
        source: the step of the data layer that feeds it.
        steps: the frozen steps in their order.
        blobs: the names of its blobs that the rest of the net takes.
    """

    source: Step
    steps: list[Step]
    blobs: list[str]


def find_frozen(net: Net, moving: Collection[str] = ()) -> Frozen | str:
    """Return the part of a net that can be remembered, or why there is none.

    Args:
        net: the train net, with its weights.
        moving: the names of frozen layers whose parameters change all the same.
    """
    sources = [s for s in net.steps if isinstance(s.layer, RecordLayer)]
    reason = "no layer with parameters is frozen"
    for source in sources:
        steps = _frozen_steps(net, source, moving)
        if not any(_has_weights(step) for step in steps):
            continue
        if not source.layer.deterministic:
            reason = (
                f"layer '{source.layer.name}' gives a record another face each time "
                "(mirror, jitter or random crop)"
            )
            continue
        blobs = _frontier(net, steps)
        if isinstance(blobs, str):
            reason = blobs
            continue
        return Frozen(source, steps, blobs)
    return reason


def _has_weights(step: Step) -> bool:
    return bool(step.layer.blobs or step.layer.digest)


def _frozen_steps(net: Net, source: Step, moving: Collection[str]) -> list[Step]:
    """Return the steps whose answers depend on the source's records alone."""
    remembered = set(source.tops)
    steps: list[Step] = []
    for step in net.steps[net.steps.index(source) + 1 :]:
        layer = step.layer
        frozen = (
            bool(step.bottoms)
            and remembered.issuperset(step.bottoms)
            and layer.per_record
            and not any(step.loss_weights)
            and not layer.proto.HasField("loss_weight_schedule")
            and not any(blob.requires_grad for blob in layer.blobs)
            and layer.name not in moving
        )
        if frozen:
            steps.append(step)
            remembered.update(step.tops)
        else:
            remembered.difference_update(step.tops)  # changed in place by a layer that learns
    # What leads to no parameter is not worth remembering; the net runs it as ever.
    while steps and not _has_weights(steps[-1]) and _only_source(steps[-1], source):
        steps.pop()
    return steps


def _only_source(step: Step, source: Step) -> bool:
    return set(step.bottoms) <= set(source.tops)


def _frontier(net: Net, steps: Sequence[Step]) -> list[str] | str:
    """Return the frozen blobs that other steps or the net's outputs take."""
    version: dict[str, tuple[int, bool]] = {}  # of a name: who wrote it last, and whether frozen
    taken: dict[str, set[tuple[int, bool]]] = {}
    frozen = {id(step) for step in steps}
    for index, step in enumerate(net.steps):
        if id(step) not in frozen:
            for name in step.bottoms:
                taken.setdefault(name, set()).add(version[name])
        for name in step.tops:
            version[name] = (index, id(step) in frozen)
    for name in net.outputs:
        taken.setdefault(name, set()).add(version[name])
    blobs = []
    for name, versions in taken.items():
        remembered = sorted(writer for writer, is_frozen in versions if is_frozen)
        if not remembered:
            continue
        # The look-up sets a blob at once, so nobody may want what was there under its name before.
        if len(remembered) > 1 or min(versions)[0] < remembered[0]:
            return f"blob '{name}' is changed in place between layers that take it"
        blobs.append(name)
    return blobs


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
        notify(
            f"Remembering {len(frozen.steps)} frozen layers: {', '.join(frozen.blobs)} of "
            f"{self.records} records, {self.bytes / 2**20:.1f} MB "
            + (f"in {folder}" if folder else "in memory")
        )

    def _begin(self) -> None:
        """Make room for the answers to the records that the source has now."""
        self._contents = self.source.contents
        self.records = self.source.record_count
        shapes = {n: (self.records, *self.net.shapes[n][1:]) for n in self.frozen.blobs}
        self.bytes = sum(4 * math.prod(shape) for shape in shapes.values())
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
    frozen = find_frozen(net, moving)
    if isinstance(frozen, str):
        if mode != "auto":
            raise UsageError(f"-teacher_cache {mode}: {frozen}")
        if any(not p.blob.requires_grad and p.layer.type != "BatchNorm" for p in net.params):
            notify(f"No teacher cache: {frozen}")
        return None
    source = frozen.source.layer
    assert isinstance(source, RecordLayer)
    size = sum(4 * source.record_count * math.prod(net.shapes[n][1:]) for n in frozen.blobs)
    if mode == "auto" and batches * frozen.source.top_shapes[0][0] <= source.record_count:
        notify("No teacher cache: the training sees each record once at most")
        return None
    if mode == "auto" and size > AUTO_LIMIT:
        notify(
            f"No teacher cache: it would take {size / 2**30:.1f} GB of memory; "
            "-teacher_cache disk keeps it on disk"
        )
        return None
    return TeacherCache(net, frozen, folder if mode == "disk" else None, notify)
