"""The base of data layers whose samples have numbers."""

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
    """A batch made ahead: its samples, what they are, and how the layer stands after it."""

    indices: Indices
    tops: tuple[Tensor, ...]
    after: State
    told: list[str]


class RecordLayer(Layer):
    """Gives batches of numbered samples: which ones is ``next_indices``, what they are ``load``.

    The two are apart so that what frozen layers make of a sample can be remembered by its number,
    and so that a run can go on at the sample where it stopped.

    Where ``depth`` says so, batches are made ahead in a thread. They are the same ones, in the same
    order and with the same random numbers: the thread does what the layer would do. ``state`` is
    that after the batch given last, whatever has been made ahead.

    Attributes:
        last: the numbers of the batch given last.
        position: where in the order of samples the next batch begins that is made.
        contents: counts how often the samples were exchanged for others.
        generator: the layer's own random numbers.
    """

    last: Indices = slice(0, 0)
    position = 0
    contents = 0
    generator: torch.Generator

    def seed(self) -> None:
        """Make the layer's random numbers, which ``random_seed`` rules."""
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self._prefetch: Prefetch[_Batch] | None = None
        self._after: State = {}  # how the layer stood after the last batch from the thread
        self._lock = threading.Lock()  # whoever loads samples
        self._fingerprint: tuple[int, dict[str, str]] | None = None  # for which contents
        self._told: list[str] = []

    @property
    @abc.abstractmethod
    def record_count(self) -> int:
        """How many samples there are."""

    @property
    @abc.abstractmethod
    def deterministic(self) -> bool:
        """Whether a sample is the same each time it is read."""

    @property
    def depth(self) -> int:
        """How many batches are made ahead; 0: none, where making one takes next to no time."""
        return 0

    @abc.abstractmethod
    def next_indices(self) -> Indices:
        """Return which samples the next batch holds, and move on."""

    @abc.abstractmethod
    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the tops for some samples, in the memory of the CPU."""

    def read(self, indices: Indices) -> tuple[Tensor, ...]:
        """Return the tops for some samples."""
        with self._lock:
            return self._placed(self.load(indices))

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Name the layer in what goes wrong with its files."""
        try:
            yield
        except (DataError, ParseError) as error:
            raise type(error)(
                f"layer '{self.name}' ({self.type}): {error}", self.proto.source_line or None
            ) from None

    def tell(self, line: str) -> None:
        """Tell something with the batch that is being made."""
        self._told.append(line)

    def forward(self) -> tuple[Tensor, ...]:
        if not self.depth:
            self.last = self.next_indices()
            tops = self.load(self.last)
            told, self._told = self._told, []
        else:
            batch = self._next_batch()
            self.last, self._after = batch.indices, batch.after
            tops, told = batch.tops, batch.told
        for line in told:
            self.context.notify(line)
        return self._placed(tops)

    def _placed(self, tops: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
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
        """Make the next batch; runs in the thread."""
        with self._lock:
            indices = self.next_indices()
            tops = self.load(indices)
        told, self._told = self._told, []
        return _Batch(indices, tops, self.progress(), told)

    # ---- going on later

    def fingerprint(self) -> dict[str, str]:
        """Return the number of samples, the settings and checksums of the data.

        Where the files lie is left out: they may be moved.
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
            "samples": str(self.record_count),
            "batch_size": str(self.param.batch_size),
            "settings": f"{zlib.crc32(text.encode()):08x}",
            **self.digests(),
        }

    @abc.abstractmethod
    def digests(self) -> dict[str, str]:
        """Return checksums of the samples, of large sets for some of them, by what they are."""

    def progress(self) -> State:
        """Return how the layer stands after the batch made last."""
        return {
            "position": np.array(self.position),
            "generator": self.generator.get_state().numpy(),
        }

    def go_on(self, state: State) -> None:
        """Make the next batches as after ``progress`` returned this state."""
        self.position = int(state["position"])
        self.generator.set_state(torch.from_numpy(state["generator"].copy()))

    def state(self) -> State:
        return self.progress() if self._prefetch is None else self._after

    def restore(self, state: State) -> None:
        if self._prefetch is not None:
            self._prefetch.stop()
            self._prefetch = None
            self._told = []
        self.go_on(state)


class OrderedRecordLayer(RecordLayer):
    """Gives ``batch_size`` samples after another, in an order that each pass may have its own.

    Attributes:
        order: the numbers of the samples as they come in this pass, int64.
    """

    order: np.ndarray

    @abc.abstractmethod
    def new_order(self) -> np.ndarray:
        """Return the order of another pass."""

    def begin_pass(self) -> None:
        """Begin another pass."""
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
        order, count = state["order"], self.record_count
        if not np.array_equal(np.sort(order), np.arange(count)):
            raise ValueError(
                f"layer '{self.name}' has {count} samples and stood in an order of {len(order)}"
            )
        if not 0 <= state["position"] < count:
            raise ValueError(f"layer '{self.name}' stood at sample {state['position']} of {count}")
        super().go_on(state)
        self.order = order.astype(np.int64)


class ImageLayer(RecordLayer):
    """Gives images of a sample source with their labels, transformed, and the samples' numbers.

    Attributes:
        samples: the source.
        transformer: what ``transform_param`` says.
        record_shape: the shape [C, h, w] of a transformed image.
    """

    records: SampleSource
    transformer: Transformer
    record_shape: Shape

    def transform_as(self, first: int) -> None:
        """Make the transformer; the sample ``first`` shows what shape it gives."""
        self.transformer = Transformer(self.proto.transform_param, self.is_training, self.find)
        image, _ = self.records.read(first)
        self.record_shape = self.transformer.output_shape(image.shape)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        batch, tops = self.param.batch_size, len(self.proto.top)
        if tops > 2 and self.record_count > _MOST_NUMBERS:
            self.fail(
                f"a third top numbers {_MOST_NUMBERS} samples at most", records=self.record_count
            )
        shapes: list[Shape] = [(batch, *self.record_shape), (batch,), (batch,)]
        return shapes[:tops]

    @property
    def record_count(self) -> int:
        return len(self.records)

    @property
    def deterministic(self) -> bool:
        return self.transformer.deterministic

    def digests(self) -> dict[str, str]:
        mean = self.transformer.mean
        extra = {} if mean is None else {"mean": digest(np.asarray(mean))}
        return {**self.records.digests(), **extra}

    def load(self, indices: Indices) -> tuple[Tensor, ...]:
        images, labels = self.records.batch(indices)
        data = self.transformer(images, self.generator)
        tops = (data, torch.from_numpy(labels).to(data.dtype))
        if len(self.proto.top) < 3:
            return tops[: len(self.proto.top)]
        if isinstance(indices, slice):
            indices = np.arange(indices.start, indices.stop)
        return (*tops, torch.from_numpy(indices).to(data.dtype))
