"""SigmoidCrossEntropyLoss: the cross entropy of independent binary scores."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.classification import sigmoid_cross_entropy
from ...losses.normalization import BATCH_SIZE, normalization_mode
from ..base import Layer, Shape, register
from .loss import check_same_batch_size


@register("SigmoidCrossEntropyLoss", bottoms=2)
class SigmoidCrossEntropyLoss(Layer):
    """Penalise scores by the cross entropy with independent targets.

    ``loss = sum of -(t log s + (1 - t) log(1 - s)) / normaliser`` over every element, with
    ``s = 1 / (1 + e^-x)``. The gradient is ``(s - t) / normaliser``.

    The normaliser (loss_param) is the number of samples (BATCH_SIZE, the default here), of elements
    whose target counts (VALID), of all elements (FULL), or 1 (NONE), and never below 1.

    Bottoms: scores (N, ...), not yet probabilities; as many targets in 0..1. ``ignore_label`` is
    compared with the truncated targets. Top: the loss, a scalar in nats, 0 or more.

    Raises:
        NetError: the bottoms differ in samples or in the number of values.

    Source: Caffe's SigmoidCrossEntropyLossLayer.

    Sample::

        layer {
          name: "loss"
          type: "SigmoidCrossEntropyLoss"
          bottom: "attributes"  # (4, 10)
          bottom: "target"  # (4, 10)
          top: "loss"  # scalar
        }
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        scores, targets = bottom_shapes
        check_same_batch_size(self, scores, targets)
        if math.prod(scores) != math.prod(targets):
            self.fail(
                "SIGMOID_CROSS_ENTROPY_LOSS layer inputs must have the same count",
                scores=scores,
                targets=targets,
            )
        loss_param = self.proto.loss_param
        ignores = loss_param.HasField("ignore_label")
        self.ignore_label: int | None = loss_param.ignore_label if ignores else None
        self.normalization = normalization_mode(loss_param, default=BATCH_SIZE)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, scores: Tensor, targets: Tensor) -> Tensor:
        return sigmoid_cross_entropy(
            scores,
            targets,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
        )
