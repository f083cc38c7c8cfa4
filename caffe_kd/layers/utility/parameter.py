"""Parameter: a learned blob as a top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("Parameter", param="parameter_param", bottoms=0)
class Parameter(Layer):
    """Output a learned blob, for layers that take their parameters as a bottom.

    Top: the blob, of the given ``shape``.
    Blobs: the blob, zeros at first; a shared parameter or a caffemodel gives it other values.

    Raises:
        NetError: the shape isn't positive or too large.

    Source: Caffe's ParameterLayer.

    Sample::

        layer {
          name: "matrix"
          type: "Parameter"
          top: "matrix"  # (10, 10)
          parameter_param { shape { dim: 10 dim: 10 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.add_blob(self.param.shape.dim)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self.blob_shapes

    def forward(self) -> Tensor:
        return self.blobs[0]

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        graph.node("Identity", [graph.blob(self, 0)], tops)
