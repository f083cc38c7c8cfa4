"""SoftmaxWithLoss: the cross entropy of scores and labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..losses.classification import softmax_cross_entropy
from ..losses.normalization import normalization_mode
from .base import Shape, register
from .loss import LabelledLayer, check_same_records


@register("SoftmaxWithLoss", param="softmax_param", bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(LabelledLayer):
    """Punish scores for how improbable they make the labels.

    ``loss = sum over positions of -log(max(p[label], FLT_MIN)) / normaliser``, ``p = softmax(x)``
    along ``axis`` (softmax_param, default 1). The gradient is ``(p - onehot) / normaliser``.

    The normaliser (loss_param) is the number of labels that count (VALID, the default), of all
    positions (FULL), of records (BATCH_SIZE), or 1 (NONE), and never below 1.

    Bottoms: scores (N, C, ...), not yet probabilities; labels, one for each position, such as (N)
    or (N, 1, H, W), whole numbers in 0..C-1 or ``ignore_label``.
    Tops: the loss, a scalar in 0..87.3365 nats for each position counted; optionally p, of the
    scores' shape, through which no gradient flows.

    Raises:
        NetError: the labels are not as many as the positions, or one of them is no class.

    Source: Caffe's SoftmaxWithLossLayer, which does not check the classes.
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        scores, label = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(scores))
        check_same_records(self, scores, label)
        self.check_label_shape(scores, label, self.class_axis)
        loss_param = self.proto.loss_param
        if loss_param.HasField("ignore_label"):
            self.ignore_label = loss_param.ignore_label
        self.normalization = normalization_mode(loss_param)
        self.with_probabilities = len(self.proto.top) == 2

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(), bottom_shapes[0]] if self.with_probabilities else [()]

    def forward(self, scores: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:  # type: ignore[override]
        loss = softmax_cross_entropy(
            scores,
            self.read_labels(label, scores.shape[self.class_axis]),
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
        )
        if self.with_probabilities:
            return loss, F.softmax(scores.detach(), self.class_axis)
        return loss
