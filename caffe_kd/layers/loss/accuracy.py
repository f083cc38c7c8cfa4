"""Accuracy: the share of positions that are classified correctly."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Shape, register
from .loss import LabelledLayer


@register("Accuracy", param="accuracy_param", bottoms=2, tops=(1, 2))
class Accuracy(LabelledLayer):
    """Measure how often the label's class is among the ``top_k`` highest scores.

    A position is correct if fewer than ``top_k`` (default 1) other classes score as high as the
    label's: ties count against it, so scores that are all equal are wrong. The value is
    ``correct / counted``, 0 if no position counts. Positions labelled ``ignore_label`` don't count.

    Bottoms: scores (N, C, ...) with the classes along ``axis`` (default 1); labels, one for each
    position, whole numbers in 0..C-1. Tops: the accuracy, a scalar 0..1; optionally the accuracy of
    each class (C), 0 for a class without labels. There is no gradient.

    Raises:
        NetError: the labels are not as many as the positions, one of them is out of range, or top_k
            exceeds the classes.

    Source: Caffe's AccuracyLayer since 2017; before, ties could count as correct.

    Sample::

        layer {
          name: "accuracy"
          type: "Accuracy"
          bottom: "fc8"  # (4, 10)
          bottom: "label"  # (4)
          top: "accuracy"  # scalar
          accuracy_param { top_k: 5 }
        }
    """

    constant_bottoms = (0, 1)
    no_backward = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        scores, label = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(scores))
        self.check_label_shape(scores, label, self.class_axis)
        self.top_k = self.param.top_k
        if self.top_k > scores[self.class_axis]:
            self.fail(
                "top_k must be less than or equal to the number of classes",
                top_k=self.top_k,
                classes=scores[self.class_axis],
            )
        if self.param.HasField("ignore_label"):
            self.ignore_label = self.param.ignore_label
        self.per_class = len(self.proto.top) == 2

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        classes = bottom_shapes[0][self.class_axis]
        return [(), (classes,)] if self.per_class else [()]

    def forward(self, scores: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:
        axis, classes = self.class_axis, scores.shape[self.class_axis]
        position_shape = list(scores.shape)
        position_shape[axis] = 1
        labels = self.read_labels(label, classes).reshape(position_shape)
        counted = None
        if self.ignore_label is not None:
            counted = labels != self.ignore_label
            labels = labels.where(counted, 0)
        # The label's own class scores as high: hence <= and not <.
        as_high = (scores >= scores.gather(axis, labels)).sum(axis, keepdim=True)
        right = as_high <= self.top_k
        if counted is not None:
            right &= counted
        right = right.to(scores.dtype)
        total = right.numel() if counted is None else counted.sum().clamp(min=1)
        accuracy = right.sum() / total
        if not self.per_class:
            return accuracy
        return accuracy, self._accuracy_per_class(right, labels, counted, classes)

    @staticmethod
    def _accuracy_per_class(
        right: Tensor, labels: Tensor, counted: Tensor | None, classes: int
    ) -> Tensor:
        labels = labels.flatten()
        ones = torch.ones_like(right) if counted is None else counted.to(right.dtype)
        zeros = right.new_zeros(classes)
        present = zeros.index_add(0, labels, ones.flatten())
        return zeros.index_add(0, labels, right.flatten()) / present.clamp(min=1)
