"""MultinomialLogisticLoss: the cross entropy of probabilities and labels."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.classification import multinomial_logistic
from ..base import register
from .loss import SampleLoss


@register("MultinomialLogisticLoss", bottoms=2)
class MultinomialLogisticLoss(SampleLoss):
    """Penalise low probabilities of the labels.

    ``loss = sum of -log(max(p[label], 1e-20)) / N``; the gradient to p[label] is
    ``-1 / max(p[label], 1e-20) / N``, to the other classes 0. After a Softmax, SoftmaxWithLoss
    does the same with less rounding.

    Bottoms: probabilities (N, ...), each sample's flattened to C classes; N labels, whole numbers
    in 0..C-1. Top: the loss, a scalar in 0..46.0517 nats.

    Raises:
        NetError: the labels are not as many as the samples, or one of them is out of range.

    Source: Caffe's MultinomialLogisticLossLayer.

    Sample::

        layer {
          name: "loss"
          type: "MultinomialLogisticLoss"
          bottom: "prob"  # (4, 10)
          bottom: "label"  # (4)
          top: "loss"  # scalar
        }
    """

    def forward(self, probabilities: Tensor, label: Tensor) -> Tensor:
        labels = self.read_labels(label, math.prod(probabilities.shape[1:]))
        return multinomial_logistic(probabilities, labels)
