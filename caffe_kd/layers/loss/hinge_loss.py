"""HingeLoss: the margin loss of linear classifiers, one versus all."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.classification import hinge
from ...proto import caffe_pb2 as pb
from ..base import register
from .loss import SampleLoss


@register("HingeLoss", param="hinge_loss_param", bottoms=2)
class HingeLoss(SampleLoss):
    """Penalise scores below 1 for the label's class and above -1 for the others.

    With ``v = max(0, 1 - x)`` for the label's class and ``max(0, 1 + x)`` for each other:
    ``loss = sum of v / N`` (norm L1, the default) or ``sum of v^2 / N`` (L2).

    Bottoms: scores (N, ...), each sample's flattened to C classes; N labels, whole numbers in
    0..C-1. Top: the loss, a scalar, 0 or more.

    Raises:
        NetError: the labels are not as many as the samples, or one of them is out of range.

    Source: Caffe's HingeLossLayer.

    Sample::

        layer {
          name: "loss"
          type: "HingeLoss"
          bottom: "fc8"  # (4, 10)
          bottom: "label"  # (4)
          top: "loss"  # scalar
          hinge_loss_param { norm: L2 }
        }
    """

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        labels = self.read_labels(label, math.prod(scores.shape[1:]))
        return hinge(scores, labels, squared=self.param.norm == pb.HingeLossParameter.L2)
