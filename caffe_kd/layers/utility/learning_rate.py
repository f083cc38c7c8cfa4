"""LearningRate: the solver's current rate as a blob."""

from __future__ import annotations

import torch
from torch import Tensor

from ..base import Layer, Shape, register


@register("LearningRate", param="lr_param", bottoms=0, origin="caffe_kd")
class LearningRate(Layer):
    """Show the solver's current learning rate among the net's outputs.

    The rate of this iteration by the solver's ``base_lr`` and ``lr_policy``, or 0 without a solver;
    ``lr_param`` (policy, decay_mult) has no effect.

    Top: a scalar, 0 or more; no gradient.

    Source: BVLC Caffe has no such layer; it logs the rate in its solver.

    Sample::

        layer {
          name: "lr"
          type: "LearningRate"
          top: "lr"  # scalar
        }
    """

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self) -> Tensor:
        return torch.full((), self.context.rate, device=self.context.device)
