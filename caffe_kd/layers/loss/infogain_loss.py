"""InfogainLoss: cross entropy weighted by a matrix of confusions."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...losses.classification import infogain
from ...losses.normalization import normalization_mode
from ...proto.binary import read_blob
from ..base import Shape, register
from .loss import LabelledLayer, check_same_batch_size


@register("InfogainLoss", param="infogain_loss_param", bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(LabelledLayer):
    """Penalise scores by the matrix H: row = label, column = class.

    ``loss = sum over positions and classes c of -H[label, c] log(max(p[c], 1e-20)) / normaliser``,
    ``p = softmax(x)`` along ``axis`` (infogain_loss_param, default 1). With the identity as H this
    is SoftmaxWithLoss. The gradient is
    ``(p[c] * sum of row H[label] - H[label, c]) / normaliser``.

    The normaliser is that of SoftmaxWithLoss, by ``normalization`` of loss_param, default VALID.

    Bottoms: scores (N, C, ...), not yet probabilities; labels, one for each position, whole numbers
    in 0..C-1 or ``ignore_label``; optionally H, C * C values in any shape, without which ``source``
    names a .binaryproto that has it. H gets no gradient.
    Tops: the loss, a scalar in nats; optionally p, of the scores' shape, through which no gradient
    flows.

    Raises:
        NetError: the labels are not as many as the positions, one of them is out of range, there is
            no H or it isn't C x C, or ``normalize`` is set.
        ParseError: the source cannot be read.

    Source: Caffe's InfogainLossLayer; in early versions its bottom was probabilities.

    Sample::

        layer {
          name: "loss"
          type: "InfogainLoss"
          bottom: "fc8"  # (4, 3)
          bottom: "label"  # (4)
          top: "loss"  # scalar
          infogain_loss_param { source: "infogain.binaryproto" }
        }
    """

    is_loss = True
    constant_bottoms = (1, 2)
    label_bottom = 1
    matrix: Tensor  # H, if it is in a file

    def setup(self, bottom_shapes: list[Shape]) -> None:
        scores, label, *given = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(scores))
        check_same_batch_size(self, scores, label)
        self.check_label_shape(scores, label, self.class_axis)
        loss_param = self.proto.loss_param
        if loss_param.HasField("normalize"):
            self.fail('normalize is deprecated. use "normalization"')
        if loss_param.HasField("ignore_label"):
            self.ignore_label = loss_param.ignore_label
        self.normalization = normalization_mode(loss_param)
        self.with_probabilities = len(self.proto.top) == 2
        if given:
            self._check_size(given[0], scores[self.class_axis])
            return
        if not self.param.HasField("source"):
            self.fail("Infogain matrix source must be specified, or the matrix be the third bottom")
        values = read_blob(self.find(self.param.source))
        self._check_size(values.shape, scores[self.class_axis])
        self.register_buffer("matrix", torch.from_numpy(np.array(values)), persistent=False)

    def _check_size(self, shape: Shape, classes: int) -> None:
        if math.prod(shape) != classes**2:
            self.fail(f"H must be {classes}x{classes}", shape=shape)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(), bottom_shapes[0]] if self.with_probabilities else [()]

    def forward(
        self, scores: Tensor, label: Tensor, given: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        loss = infogain(
            scores,
            self.read_labels(label, scores.shape[self.class_axis]),
            self.matrix if given is None else given,
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
        )
        if self.with_probabilities:
            return loss, F.softmax(scores.detach(), self.class_axis)
        return loss
