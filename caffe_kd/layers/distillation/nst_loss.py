"""NSTLoss: a student's channels fire at the positions where its teacher's do."""

from __future__ import annotations

from torch import Tensor

from ...losses.features import neuron_selectivity
from ..base import Shape, register
from .pair_loss import PairLoss


@register("NSTLoss", bottoms=2, origin="caffe_kd")
class NSTLoss(PairLoss):
    """Penalise a student whose channels are active at other positions than its teacher's.

    The channels of a sample, each scaled to length 1 over the positions, are two sets of vectors;
    the loss is their squared maximum mean discrepancy with ``k(a, b) = (a.b)^2``: ``loss = mean
    k(t, t) + mean k(s, s) - 2 mean k(s, t)``. Usual loss_weight: 50.

    Bottoms: the student's maps (N, C, H, W), the teacher's (N, D, K, L), with any numbers of
    channels; the larger are average-pooled to the smaller. Top: the loss, a scalar in 0..2. No
    gradient goes to the teacher unless ``propagate_down`` asks for it.

    Raises:
        NetError: the bottoms are not maps, or differ in samples.

    Source: Huang, Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer,
        https://arxiv.org/abs/1707.01219.

    Sample::

        layer {
          name: "nst"
          type: "NSTLoss"
          bottom: "student/conv3"  # (4, 8, 4, 4)
          bottom: "teacher/conv3"  # (4, 16, 4, 4)
          top: "nst"  # scalar
          loss_weight: 50
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_maps(student, teacher)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return neuron_selectivity(student, teacher)
