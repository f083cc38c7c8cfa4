"""What losses and Accuracy share: checks of their bottoms' sizes and of labels."""

from __future__ import annotations

import math
from typing import NoReturn

from torch import Tensor

from ...losses.normalization import split_at_axis
from ..base import Layer, Shape
from ..shared.indices import IndexingLayer


def check_same_batch_size(layer: Layer, data: Shape, label: Shape) -> None:
    """Fail unless both bottoms have the same first size."""
    if data[:1] != label[:1]:
        layer.fail(
            "The data and label should have the same first dimension", data=data, label=label
        )


def axis_of_same_logits(layer: Layer, student: Shape, teacher: Shape) -> int:
    """Return the class axis, after checking the logits of a student and its teacher.

    Both must have the same sizes around the classes.
    """
    axis: int = layer.param.axis
    if any(not -len(shape) <= axis < len(shape) for shape in (student, teacher)):
        layer.fail(
            "axis is out of range: bottoms are the student's logits, the teacher's, then the label "
            f"if it takes one, and the first two must have the classes along axis {axis}",
            student=student,
            teacher=teacher,
        )
    axis %= len(student)
    if len(teacher) <= axis or student[axis] != teacher[axis]:
        fact = "student and teacher must have the same number of classes"
        hint = ". Where their classes differ, put a ClassMap between"
    elif split_at_axis(student, axis) != split_at_axis(teacher, axis):
        fact, hint = "student and teacher must have logits of the same shape", ""
    else:
        return axis
    layer.fail(f"{fact} (axis {axis}){hint}", student=student, teacher=teacher)


class LabelledLayer(IndexingLayer):
    """A layer with class scores along an axis and a label for each position."""

    ignore_label: int | None = None
    label_bottom = -1  # the index of the bottom with the labels
    _has_seen_labels = False

    def label_smoothing(self) -> float:
        """Return loss_param's label_smoothing, after checking that it is in 0..1."""
        share: float = self.proto.loss_param.label_smoothing
        if not 0 <= share <= 1:
            self.fail("label_smoothing must be in 0..1", label_smoothing=share)
        return share

    def check_label_shape(self, scores: Shape, label: Shape, axis: int) -> None:
        """Fail unless there is one label for each position of the scores."""
        predictions = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
        if math.prod(label) != predictions:
            self.fail(
                "Number of labels must match number of predictions; e.g., if axis == 1 and "
                "prediction shape is (N, C, H, W), label count (number of labels) must be N*H*W, "
                "with integer values in {0, 1, ..., C-1}",
                predictions=scores,
                labels=label,
                axis=axis,
            )

    def check_label_per_sample(self, scores: Shape, label: Shape) -> None:
        """Fail unless there is one label for each sample of the scores."""
        check_same_batch_size(self, scores, label)
        if scores[:1] != (math.prod(label),):
            self.fail("there must be one label for each sample", data=scores, label=label)

    def read_labels(self, label: Tensor, classes: int) -> Tensor:
        """Return the labels as integers, after checking that they are in range.

        As in Caffe, fractional labels are truncated. This is logged once, if the first batch has
        one, or the data of a layer whose values are in memory.
        """
        if not self._has_seen_labels and not label.is_meta:
            self._has_seen_labels = True
            self._report_fractions(label)
        return self.read_indices(label, classes, self.ignore_label)

    def _report_fractions(self, label: Tensor) -> None:
        known = self.context.in_memory.get(self.proto.bottom[self.label_bottom])
        values = label.detach() if known is None else known()
        if not values.is_floating_point():
            return
        fractions = values[values != values.trunc()]
        if fractions.numel():
            first = float(fractions[0])
            taken = f" as {int(first)}" if math.isfinite(first) else ""
            self.context.notify(
                f"Warning: layer '{self.name}' ({self.type}) takes the label {first:g}{taken}: "
                "labels are whole numbers, and fractions are truncated"
            )

    def refuse_index(self, index: int, count: int) -> NoReturn:
        self.fail(
            f"a label is out of range: labels must be integers in 0..{count - 1}. Raise num_output "
            "of the layer that makes the scores, or set the label as ignore_label",
            label=index,
            classes=count,
        )


class SampleLoss(LabelledLayer):
    """The base of losses with any axes of scores and one label for each sample."""

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.check_label_per_sample(*bottom_shapes)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]
