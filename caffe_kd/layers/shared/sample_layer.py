"""The base of data layers that read numbered samples."""

from __future__ import annotations

import abc
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from google.protobuf.message import Message
from torch import Tensor

from ...core.errors import DataError, ParseError
from ...data.prefetch import Prefetch
from ...data.source import SampleSource, digest
from ...data.transformer import Transformer
from ..base import Layer, Shape

# float32, in which blobs are, has all whole numbers up to here.
_MOST_NUMBERS = 1 << 24

Indices = slice | np.ndarray
State = dict[str, np.ndarray]


@dataclass
class _Batch:
    """A prefetched batch: the numbers and values of its samples, and the layer's state after it."""

    indices: Indices
    tops: tuple[Tensor, ...]
    after: State
    lines: list[str]  # for the log


class SampleLayer(Layer):
    """Reads batches of numbered samples: ``next_indices`` picks them, ``load`` reads them.

    The two steps are separate so that the outputs of frozen layers can be cached by sample number,
    and so that a resumed run continues at the sample where it stopped.

    If ``depth`` is above 0, a thread prefetches batches: the same ones, in the same order and with
    the same random numbers as without it. ``state`` is the state after the last batch that
    ``forward`` returned, however many have been prefetched.

    Attributes:
        last: the numbers of the samples in the last batch.
        position: where in the order of samples the next batch to be loaded begins.
        contents: how many times the samples were replaced by others.
        generator: the layer's own random number generator.
    """

    last: Indices = slice(0, 0)
    position = 0
    contents = 0
    generator: torch.Generator

    def seed(self) -> None:
        """Create the layer's random number generator, which follows from ``random_seed``."""
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self._prefetch: Prefetch[_Batch] | None = None
        self._after: State = {}  # the state after the last batch from the thread
        self._lock = threading.Lock()  # held while samples are loaded
        self._fingerprint: tuple[int, dict[str, str]] | None = None  # for which contents
        self._lines: list[str] = []  # for the log, with the batch that is being loaded

    @property
    @abc.abstractmethod
    def sample_count(self) -> int:
        """How many samples there are."""

    @property
    @abc.abstractmethod
    def deterministic(self) -> bool:
        """Whether a sample is the same each time it is read."""

    @property
    def depth(self) -> int:
        """How many batches are prefetched; 0: none, as where loading one takes next to no time."""
        return 0

    @abc.abstractmethod
    def next_indices(self) -> Indices:
        """Return the numbers of the next batch's samples, and advance."""

    @abc.abstractmethod
    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the tops for some samples, on the CPU."""

    def read(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the tops for some samples, on the net's device."""
        with self._lock:
            return self._to_device(self.load(indices))

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Name the layer in errors about its files."""
        try:
            yield
        except (DataError, ParseError) as error:
            raise type(error)(
                f"layer '{self.name}' ({self.type}): {error}", self.proto.source_line or None
            ) from None

    def log(self, line: str) -> None:
        """Log a line when the batch that is being loaded is returned."""
        self._lines.append(line)

    def forward(self) -> tuple[Tensor, ...]:
        if not self.depth:
            self.last = self.next_indices()
            tops, lines = self.load(self.last), self._lines.copy()
            self._lines.clear()  # to set an attribute of a torch module takes longer
        else:
            batch = self._next_batch()
            self.last, self._after = batch.indices, batch.after
            tops, lines = batch.tops, batch.lines
        for line in lines:
            self.context.notify(line)
        return self._to_device(tops)

    def _to_device(self, tops: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(top.to(self.context.device) for top in tops)

    def _next_batch(self) -> _Batch:
        if self._prefetch is not None and self._prefetch.is_lost:
            self._lock = threading.Lock()  # the thread may have held it
            self.restore(self._after)
        if self._prefetch is None:
            self._after = self.progress()
            self._prefetch = Prefetch(self._make, self.depth)
        try:
            return self._prefetch.next()
        except Exception:
            self.restore(self._after)
            raise

    def _make(self) -> _Batch:
        """Load the next batch; runs in the thread."""
        with self._lock:
            indices = self.next_indices()
            tops = self.load(indices)
            lines = self._lines.copy()
            self._lines.clear()
        return _Batch(indices, tops, self.progress(), lines)

    # ---- resuming

    def fingerprint(self) -> dict[str, str]:
        """Return the number of samples, the settings and checksums of the data.

        Paths are left out: the files may be moved.
        """
        if self._fingerprint is None or self._fingerprint[0] != self.contents:
            with self._lock:
                self._fingerprint = self.contents, self._identity()
        return self._fingerprint[1]

    def _identity(self) -> dict[str, str]:
        settings = type(self.proto)()
        settings.CopyFrom(self.proto)
        for _, message in settings.ListFields():
            for field in ("source", "mean_file", "root_folder", "prefetch", "batch_size"):
                if isinstance(message, Message) and field in message.DESCRIPTOR.fields_by_name:
                    message.ClearField(field)
        kept = [f for f, _ in settings.ListFields() if f.name.endswith("_param")]
        text = "".join(f"{f.name} {getattr(settings, f.name)}" for f in kept)
        return {
            "samples": str(self.sample_count),
            "batch_size": str(self.param.batch_size),
            "settings": f"{zlib.crc32(text.encode()):08x}",
            **self.digests(),
        }

    @abc.abstractmethod
    def digests(self) -> dict[str, str]:
        """Return checksums of the samples by name; of a large set, checksums of a part."""

    def progress(self) -> State:
        """Return the state after the last batch that was loaded."""
        return {
            "position": np.array(self.position),
            "generator": self.generator.get_state().numpy(),
        }

    def go_on(self, state: State) -> None:
        """Continue from a state that ``progress`` returned."""
        self.position = int(state["position"])
        self.generator.set_state(torch.from_numpy(state["generator"].copy()))

    def state(self) -> State:
        return self.progress() if self._prefetch is None else self._after

    def restore(self, state: State) -> None:
        if self._prefetch is not None:
            self._prefetch.stop()
            self._prefetch = None
            self._lines = []
        self.go_on(state)


class OrderedSampleLayer(SampleLayer):
    """Reads ``batch_size`` samples at a time, in an order that may change with each pass.

    Attributes:
        order: the numbers of the samples in the order of this pass, int64.
    """

    order: np.ndarray

    @abc.abstractmethod
    def new_order(self) -> np.ndarray:
        """Return the order of the next pass."""

    def begin_pass(self) -> None:
        """Begin the next pass."""
        self.position = 0
        self.order = self.new_order()

    def next_indices(self) -> Indices:
        taken: list[np.ndarray] = []
        missing = self.param.batch_size
        while missing:
            part = self.order[self.position : self.position + missing]
            taken.append(part)
            missing -= len(part)
            self.position += len(part)
            if self.position == len(self.order):
                self.begin_pass()
        return np.concatenate(taken)

    def progress(self) -> State:
        return {**super().progress(), "order": self.order}

    def go_on(self, state: State) -> None:
        order, count = state["order"], self.sample_count
        if not np.array_equal(np.sort(order), np.arange(count)):
            raise ValueError(
                f"layer '{self.name}' has {count} samples, but the state has an order of "
                f"{len(order)}"
            )
        if not 0 <= state["position"] < count:
            raise ValueError(
                f"layer '{self.name}' has {count} samples, but the state is at sample "
                f"{state['position']}"
            )
        super().go_on(state)
        self.order = order.astype(np.int64)


class ImageLayer(SampleLayer):
    """Reads images of a sample source, transformed, with their labels and the samples' numbers.

    Attributes:
        samples: the source.
        transformer: applies ``transform_param``.
        sample_shape: the shape [C, h, w] of a transformed image.
    """

    samples: SampleSource
    transformer: Transformer
    sample_shape: Shape

    def transform_as(self, first: int) -> None:
        """Create the transformer; the sample ``first`` determines the shape of its output."""
        self.transformer = Transformer(self.proto.transform_param, self.is_training, self.find)
        image, _ = self.samples.read(first)
        self.sample_shape = self.transformer.output_shape(image.shape)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        batch, tops = self.param.batch_size, len(self.proto.top)
        if tops > 2 and self.sample_count > _MOST_NUMBERS:
            self.fail(
                f"a third top numbers {_MOST_NUMBERS} samples at most", samples=self.sample_count
            )
        shapes: list[Shape] = [(batch, *self.sample_shape), (batch,), (batch,)]
        return shapes[:tops]

    @property
    def sample_count(self) -> int:
        return len(self.samples)

    @property
    def deterministic(self) -> bool:
        return self.transformer.deterministic

    def digests(self) -> dict[str, str]:
        mean = self.transformer.mean
        extra = {} if mean is None else {"mean": digest(np.asarray(mean))}
        return {**self.samples.digests(), **extra}

    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        images, labels = self.samples.batch(indices)
        data = self.transformer(images, self.generator)
        tops = (data, torch.from_numpy(labels).to(data.dtype))
        if len(self.proto.top) < 3:
            return tops[: len(self.proto.top)]
        if isinstance(indices, slice):
            indices = np.arange(indices.start, indices.stop)
        return (*tops, torch.from_numpy(indices).to(data.dtype))
