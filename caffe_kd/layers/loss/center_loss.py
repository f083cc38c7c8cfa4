"""CenterLoss: pulls features to a learned center of their class."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.metric import center_loss
from ..base import Shape, register
from .loss import LabelledLayer


@register("CenterLoss", param="center_loss_param", bottoms=2, origin="caffe-face")
class CenterLoss(LabelledLayer):
    """Penalise the distance of features to the center of their class, which learns.

    ``loss = sum over n of |x_n - c_(label n)|^2 / (2 N)``, with the gradient ``(x_n - c) / N`` to
    x. The gradient to center j is ``sum over n with label j of (c_j - x_n) / (1 + how many)``, and
    does not depend on loss_weight: the learning rate and their ``lr_mult`` set how fast centers
    move. Used beside a SoftmaxWithLoss, with a small loss_weight such as 0.008.

    Bottoms: x (N, features as any axes...); labels (N) or (N, 1, 1, 1), whole numbers in
    0..num_output-1. Top: the loss, a scalar, 0 or more, in squared units of the features.
    Blobs: centers (num_output, K), zeros unless ``center_filler`` says otherwise.

    Raises:
        NetError: num_output is 0, ``axis`` leaves more than one vector of features a sample, the
            labels are not as many as the samples, or one of them is out of range.

    Source: Wen et al. 2016, A Discriminative Feature Learning Approach for Deep Face Recognition;
        their fork, caffe-face.

    Sample::

        layer {
          name: "center_loss" type: "CenterLoss"
          bottom: "fc7"  # (4, 16)
          bottom: "label"  # (4)
          top: "center_loss"  # scalar
          loss_weight: 0.008
          center_loss_param { num_output: 10 center_filler { type: "xavier" } }
        }
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        x, label = bottom_shapes
        self.check_num_output()
        self.check_label_per_sample(x, label)
        features = math.prod(x[self.axis(self.param.axis, len(x)) :])
        if x[0] * features != math.prod(x):
            self.fail("axis must leave one vector for each sample", bottom=x, axis=self.param.axis)
        filler = self.param.center_filler if self.param.HasField("center_filler") else None
        self.add_blob((self.param.num_output, features), filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        (centers,) = self.blobs
        labels = self.read_labels(label, len(centers))
        return center_loss(x.reshape(len(x), -1), centers, labels)
