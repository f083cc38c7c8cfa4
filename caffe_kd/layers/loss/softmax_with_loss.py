"""SoftmaxWithLoss: the cross entropy of scores and labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...losses.classification import softmax_cross_entropy
from ...losses.gradients import scale_gradient
from ...losses.normalization import normalization_mode
from .. import formula
from ..base import Shape, register
from ..utility.softmax import divisor
from .loss import LabelledLayer, check_same_batch_size


@register("SoftmaxWithLoss", param="softmax_param", bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(LabelledLayer):
    """Penalise scores by the cross entropy with the labels.

    ``loss = sum over positions of -log(max(p[label], FLT_MIN)) / normaliser``, ``p = softmax(x)``
    along ``axis`` (softmax_param, default 1). The gradient is ``(p - onehot) / normaliser``.

    The normaliser (loss_param) is the number of labels that count (VALID, the default), of all
    positions (FULL), of samples (BATCH_SIZE), or 1 (NONE), and never below 1.

    With ``label_smoothing`` e (loss_param, default 0) the label has only probability ``1 - e``:
    ``-log p[label]`` becomes ``(1 - e) * -log p[label] + e * mean over all c of -log p[c]``. So the
    labels act as a teacher for whom all wrong classes are equal; usual e: 0.1.

    Bottoms: scores (N, C, ...), not yet probabilities; labels, one for each position, such as (N)
    or (N, 1, H, W), whole numbers in 0..C-1 or ``ignore_label``.
    Tops: the loss, a scalar in 0..87.3365 nats for each position counted; optionally p, of the
    scores' shape, through which no gradient flows.

    Raises:
        NetError: the labels are not as many as the positions, one of them is out of range, the
            temperature is below 0, or label_smoothing outside 0..1.

    Source: Caffe's SoftmaxWithLossLayer, which does not check the classes. softmax_param's
    ``temperature`` t is that of the forks Softmax names: ``p = softmax(x / t)`` in both tops, while
    the gradient remains ``(p - onehot) / normaliser``, without a factor 1 / t. Smoothing is this
    project's own, after Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.

    Sample::

        layer {
          name: "loss"
          type: "SoftmaxWithLoss"
          bottom: "fc8"  # (4, 10)
          bottom: "label"  # (4)
          top: "loss"  # scalar
          loss_param { ignore_label: 255 }
        }
    """

    is_loss = True
    constant_bottoms = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        scores, label = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(scores))
        check_same_batch_size(self, scores, label)
        self.check_label_shape(scores, label, self.class_axis)
        loss_param = self.proto.loss_param
        if loss_param.HasField("ignore_label"):
            self.ignore_label = loss_param.ignore_label
        self.normalization = normalization_mode(loss_param)
        self.smoothing = self.label_smoothing()
        self.temperature = divisor(self)
        self.with_probabilities = len(self.proto.top) == 2

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(), bottom_shapes[0]] if self.with_probabilities else [()]

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        scores, label = formula.names(self)
        n, divided = formula.divisor(self, bottom_shapes[0]), ""
        if self.temperature != 1:
            divided = f" / {self.temperature:g}"
        lines = [f"loss = sum of -log softmax({scores}{divided})[{label}] / {n}"]
        if divided:
            lines.append(f"its gradient is that of {self.temperature:g} * loss")
        if self.smoothing:
            lines.append(f"label_smoothing {self.smoothing:g}: the rest is spread over all classes")
        return lines

    def forward(self, scores: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.temperature != 1:
            scores = scale_gradient(scores / self.temperature, self.temperature)
        loss = softmax_cross_entropy(
            scores,
            self.read_labels(label, scores.shape[self.class_axis]),
            axis=self.class_axis,
            ignore_label=self.ignore_label,
            normalization=self.normalization,
            label_smoothing=self.smoothing,
        )
        if self.with_probabilities:
            return loss, F.softmax(scores.detach(), self.class_axis)
        return loss
