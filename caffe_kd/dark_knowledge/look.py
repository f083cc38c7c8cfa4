"""What a teacher knows beyond the labels: which classes it finds similar, and for which samples.

For an image of a 2 its output gives the 3 and the 7 small probabilities. Softened by a temperature
they can be seen; a student learns them from a teacher and cannot learn them from labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.errors import CaffeKDError, NetError
from ..figures.samples import Sample, as_stored, is_image
from ..losses.soft_targets import softmax_with_temperature
from ..net import LayerNode, Net
from .teacher_student import TeacherStudent

MOST_DISPUTED = 24
_SURE = 0.9


@dataclass
class Batch:
    """Samples: images as the net gets them, labels, and the logits (N, C) of the nets.

    Without labels in the data the teacher's own predictions are used.
    """

    images: Tensor
    labels: Tensor
    teacher: Tensor
    student: Tensor | None

    @property
    def all_logits(self) -> list[Tensor]:
        """The logits of teacher and, if there is one, student."""
        return [self.teacher] if self.student is None else [self.teacher, self.student]


@dataclass
class Knowledge:
    """What was found.

    Attributes:
        classes: how many there are.
        temperature: that of the similarity.
        total: how many samples were seen.
        right: how many of them teacher and student (if any) get right.
        disagreements: on how many they differ.
        samples: for each class, in order, a sample that the teacher is right and sure about, with
            the greatest entropy; classes without samples are missing.
        similarity: (C, C): row, the true class; column, the teacher's mean probability of a class;
            NaN in rows of classes without a sample.
        disputed: samples on which both differ, those where both are sure first.
    """

    classes: int
    temperature: float
    total: int = 0
    right: list[int] = field(default_factory=list)
    disagreements: int = 0
    samples: list[Sample] = field(default_factory=list)
    similarity: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    disputed: list[Sample] = field(default_factory=list)


class Viewer:
    """Yields the samples of a net, and restores their pixels as they were stored.

    Args:
        pair: the nets.

    Raises:
        NetError: no data layer gives images of 1 or 3 channels.
    """

    def __init__(self, pair: TeacherStudent) -> None:
        self.pair = pair
        self.source = self._source(pair.net)
        layer = self.source.layer
        self.count: int | None = getattr(layer, "sample_count", None)

    @staticmethod
    def _source(net: Net) -> LayerNode:
        for node in net.nodes:
            if not node.bottoms and node.top_shapes and is_image(node.top_shapes[0]):
                return node
        raise NetError(
            "no data layer gives images: blobs of shape (N, 1, H, W) or (N, 3, H, W)",
            str(net.context.file),
        )

    @torch.no_grad()
    def batches(self, most: int) -> Iterator[Batch]:
        """Yield batches of samples, each sample once.

        Args:
            most: how many batches to run.
        """
        left = self.count if self.count else math.inf
        net, blobs = self.pair.net, self.pair.net.blobs
        for _ in range(most):
            if left <= 0:
                return
            net()
            images = blobs[self.source.tops[0]]
            size = int(min(len(images), left))
            left -= size
            teacher = self._logits(self.pair.teacher)
            student = self._logits(self.pair.student) if self.pair.student else None
            labels = teacher.argmax(1)
            if len(self.source.tops) > 1:
                labels = blobs[self.source.tops[1]].reshape(len(images), -1)[:, 0].long()
            if student is not None and student.shape != teacher.shape:
                raise NetError(
                    f"the teacher has {teacher.shape[1]} classes, the student {student.shape[1]}"
                )
            if int(labels.max()) >= teacher.shape[1] or int(labels.min()) < 0:
                raise NetError(f"a label is outside the teacher's {teacher.shape[1]} classes")
            own = None if student is None else student[:size]
            yield Batch(images[:size], labels[:size], teacher[:size], own)

    def _logits(self, blob: str) -> Tensor:
        values = self.pair.net.blobs[blob]
        if values.dim() < 2 or math.prod(values.shape[2:]) != 1:
            raise NetError(
                f"blob '{blob}' is {tuple(values.shape)}: one output per sample, (N, C), is needed"
            )
        return values.flatten(1)

    def to_image(self, image: Tensor) -> np.ndarray:
        """Return an image (C, H, W) as it was stored, for drawing: see ``Sample.image``."""
        return as_stored(image, self.source.layer)


def look(pair: TeacherStudent, batches: int = 100) -> Knowledge:
    """Run a teacher, and its student if there is one, over test data.

    Args:
        pair: the nets.
        batches: how many at most; never more than it takes to see each sample once.

    Raises:
        CaffeKDError: the data are not images, or the nets differ in their number of classes.
    """
    viewer = Viewer(pair)
    collector: _Collector | None = None
    for batch in viewer.batches(batches):
        collector = collector or _Collector(pair, viewer, batch.teacher.shape[1])
        collector.add(batch)
    if collector is None:
        raise CaffeKDError("there are no samples")
    return collector.knowledge()


class _Collector:
    """Reduces batches to what ``Knowledge`` holds, with few images."""

    def __init__(self, pair: TeacherStudent, viewer: Viewer, classes: int) -> None:
        count = 1 if pair.student is None else 2
        self.viewer = viewer
        self.found = Knowledge(classes, pair.temperature, right=[0] * count)
        self._sums, self._counts = torch.zeros(classes, classes), torch.zeros(classes)
        self._samples: dict[int, tuple[tuple[bool, bool, float], Sample]] = {}
        self._disputed: list[tuple[float, Sample]] = []

    def add(self, batch: Batch) -> None:
        """Add a batch."""
        found, labels = self.found, batch.labels
        found.total += len(labels)
        for index, logits in enumerate(batch.all_logits):
            found.right[index] += int((logits.argmax(1) == labels).sum())
        soft = softmax_with_temperature(batch.teacher, found.temperature)
        self._sums.index_add_(0, labels, soft)
        self._counts.index_add_(0, labels, torch.ones(len(labels)))
        for i, key in _informative(batch.teacher, labels):
            label = int(labels[i])
            if label not in self._samples or key > self._samples[label][0]:
                self._samples[label] = (key, self._sample(batch, i))
        if batch.student is not None:
            self._dispute(batch, batch.student)

    def _dispute(self, batch: Batch, student: Tensor) -> None:
        for i, sureness in _differing(batch.teacher, student):
            self.found.disagreements += 1
            if len(self._disputed) < MOST_DISPUTED or sureness > self._disputed[-1][0]:
                self._disputed.append((sureness, self._sample(batch, i)))
                self._disputed.sort(key=lambda entry: -entry[0])
                del self._disputed[MOST_DISPUTED:]

    def _sample(self, batch: Batch, i: int) -> Sample:
        student = None if batch.student is None else batch.student[i].clone()
        image = self.viewer.to_image(batch.images[i])
        return Sample(image, int(batch.labels[i]), batch.teacher[i].clone(), student)

    def knowledge(self) -> Knowledge:
        """Return what was found."""
        found = self.found
        found.similarity = (self._sums / self._counts[:, None]).numpy()  # 0 / 0: a class is missing
        found.samples = [self._samples[label][1] for label in sorted(self._samples)]
        found.disputed = [sample for _, sample in self._disputed]
        return found


def _informative(teacher: Tensor, labels: Tensor) -> Iterator[tuple[int, tuple[bool, bool, float]]]:
    """Yield each sample with a key that is greater the more it shows of what the teacher knows."""
    p = teacher.softmax(1)
    entropy = -(p * p.clamp(min=1e-12).log()).sum(1)
    of_label = p.gather(1, labels[:, None])[:, 0]
    right = teacher.argmax(1) == labels
    for i in range(len(labels)):
        yield i, (bool(right[i]), bool(of_label[i] >= _SURE), float(entropy[i]))


def _differing(teacher: Tensor, student: Tensor) -> Iterator[tuple[int, float]]:
    """Yield the samples on which both differ, with the product of their confidences."""
    sure = [z.softmax(1).max(1) for z in (teacher, student)]
    for i in (sure[0].indices != sure[1].indices).nonzero()[:, 0].tolist():
        yield i, float(sure[0].values[i] * sure[1].values[i])


def most_similar(knowledge: Knowledge, most: int = 5) -> list[tuple[int, int, float]]:
    """Return the most similar pairs of classes: (true class, other class, mean probability)."""
    others = knowledge.similarity.copy()
    np.fill_diagonal(others, np.nan)
    order = np.argsort(-np.nan_to_num(others, nan=-1.0), axis=None, kind="stable")[:most]
    pairs = [divmod(int(i), knowledge.classes) for i in order]
    return [(a, b, float(others[a, b])) for a, b in pairs if not math.isnan(others[a, b])]
