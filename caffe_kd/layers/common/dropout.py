"""Dropout: zeroes values at random while training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Dropout", param="dropout_param")
class Dropout(Layer):
    """Zero each value with probability dropout_ratio r and divide the others by ``1 - r``.

    In TEST the top is the bottom. The random numbers are those of torch's global generator.

    Bottom, top: any shape.

    Raises:
        NetError: dropout_ratio is outside [0, 1), in TRAIN.

    Source: Srivastava et al. 2014; Caffe's DropoutLayer.

    Sample::

        layer {
          name: "drop6"
          type: "Dropout"
          bottom: "fc6"  # (2, 10)
          top: "fc6"  # (2, 10)
          dropout_param { dropout_ratio: 0.5 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.ratio = self.param.dropout_ratio
        if self.is_training and not 0 <= self.ratio < 1:
            self.fail("dropout_ratio must be at least 0 and below 1", dropout_ratio=self.ratio)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return bottom_shapes

    @property
    def per_sample(self) -> bool:
        return not self.is_training

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.ratio) if self.is_training else x

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.alias(bottoms[0], tops[0])
