"""ContrastiveLoss: pulls similar pairs together and pushes others apart."""

from __future__ import annotations

from torch import Tensor

from ...losses.metric import contrastive
from ..base import Layer, Shape, register


@register("ContrastiveLoss", param="contrastive_loss_param", bottoms=3)
class ContrastiveLoss(Layer):
    """Penalise the distance of similar pairs, and that of others if it is below a margin.

    With ``d = |a_n - b_n|``: ``loss = sum of (d^2 if similar else max(margin - d, 0)^2) / (2 N)``.
    The gradient to a is ``(a - b) / N`` for similar pairs, for others closer than the margin
    ``-(margin - d) / (d + 1e-4) * (a - b) / N``; to b it is the opposite.

    With ``legacy_version`` others give ``max(margin - d^2, 0)``, as in the first version, with the
    gradient ``-(a - b) / N``.

    Bottoms: two blobs of features (N, C) or (N, C, 1, 1); labels (N), truncated, 0 for pairs to
    keep apart, others for similar ones. Top: the loss, a scalar, 0 or more, in squared units of the
    features.

    Raises:
        NetError: the features differ in shape or aren't vectors, or there isn't one label a pair.

    Source: Hadsell et al. 2006; Caffe's ContrastiveLossLayer.

    Sample::

        layer {
          name: "loss" type: "ContrastiveLoss"
          bottom: "features"  # (4, 2)
          bottom: "features_of_other"  # (4, 2)
          bottom: "similar"  # (4)
          top: "loss"  # scalar
          contrastive_loss_param { margin: 1 }
        }
    """

    is_loss = True
    constant_bottoms = (2,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        a, b, label = bottom_shapes
        vectors = all(len(s) >= 2 and set(s[2:]) <= {1} for s in (a, b))
        if not vectors or a[:2] != b[:2]:
            self.fail(
                "both bottoms must have the same number of channels, height 1 and width 1",
                bottom0=a,
                bottom1=b,
            )
        if not label or label[0] != a[0] or set(label[1:]) - {1}:
            self.fail("there must be one label for each pair", label=label, pairs=a[0])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, a: Tensor, b: Tensor, label: Tensor) -> Tensor:
        return contrastive(a, b, label, margin=self.param.margin, legacy=self.param.legacy_version)
