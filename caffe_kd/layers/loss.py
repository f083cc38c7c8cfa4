"""What losses and Accuracy have in common: bottoms of matching size, labels that are classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Layer, Shape


def check_same_records(layer: Layer, data: Shape, label: Shape) -> None:
    """Fail unless both bottoms of a loss have the same first extent."""
    if data[:1] != label[:1]:
        layer.fail(
            "The data and label should have the same first dimension", data=data, label=label
        )


class LabelledLayer(Layer):
    """A layer with class scores along an axis and a label for each position."""

    ignore_label: int | None = None
    # On a CUDA device: the extremes of the last batch's labels on their way to the host.
    _arriving: tuple[torch.cuda.Event, Tensor, int] | None = None

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

    def read_labels(self, label: Tensor, classes: int) -> Tensor:
        """Return the labels as integers, having refused those that are no class.

        A CUDA device is not waited for: its labels are looked at when the next batch comes, and
        until then a label out of range counts as the nearest class.
        """
        label = label.long()
        if label.is_meta:
            return label  # it has a shape alone
        ignored = None if self.ignore_label is None else label == self.ignore_label
        low, high = (label if ignored is None else label.masked_fill(ignored, 0)).aminmax()
        if not label.is_cuda:
            self._refuse_outside(int(low), int(high), classes)
            return label
        if self._arriving is not None:
            event, extremes, arriving_classes = self._arriving
            event.synchronize()
            self._refuse_outside(int(extremes[0]), int(extremes[1]), arriving_classes)
        extremes = torch.stack((low, high)).to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._arriving = event, extremes, classes
        near = label.clamp(0, classes - 1)
        return near if ignored is None else torch.where(ignored, label, near)

    def _refuse_outside(self, low: int, high: int, classes: int) -> None:
        if 0 <= low and high < classes:
            return
        self.fail(
            f"a label is no class: labels must be integers in 0..{classes - 1}. Raise num_output "
            "of the layer that makes the scores, or name the label in ignore_label",
            label=low if low < 0 else high,
            classes=classes,
        )
