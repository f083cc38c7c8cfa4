"""InnerProduct: the fully connected layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("InnerProduct", param="inner_product_param")
class InnerProduct(Layer):
    """Multiply each item by a weight matrix and add a bias.

    ``y = x W^T + b`` with x flattened from ``axis`` on to K values.

    Bottom: (leading axes..., K as any axes). Top: (leading axes..., num_output).
    Blobs: weight (num_output, K), or (K, num_output) with ``transpose``; bias (num_output).

    Raises:
        NetError: num_output is 0 or axis out of range.

    Source: Caffe's InnerProductLayer. With ``transpose`` the fan-in its fillers see is num_output.

    Sample::

        layer {
          name: "fc8"
          type: "InnerProduct"
          bottom: "pool5"  # (2, 4, 3, 3)
          top: "fc8"  # (2, 10)
          inner_product_param { num_output: 10 weight_filler { type: "xavier" } }
        }
    """

    output_axis: int | None = 0

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        param = self.param
        self.check_num_output()
        self.start = self.axis(param.axis, len(shape))
        for top in self.top_shapes(bottom_shapes):  # before memory is allocated for the weights
            self.check_shape(top, "the top")
        inputs = math.prod(shape[self.start :])
        weight = (inputs, param.num_output) if param.transpose else (param.num_output, inputs)
        self.add_blob(weight, param.weight_filler)
        if param.bias_term:
            self.add_blob((param.num_output,), param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(*bottom_shapes[0][: self.start], self.param.num_output)]

    @property
    def per_sample(self) -> bool:
        return self.start > 0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.blobs[0].t() if self.param.transpose else self.blobs[0]
        return self.sum_products(F.linear, x.flatten(self.start), weight, *self.blobs[1:])

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        (x,) = bottoms
        weight, *bias = (graph.blob(self, i) for i in range(len(self.blobs)))
        is_flat = len(graph.shape(x)) == self.start + 1
        flat = x if is_flat else graph.temporary("flat")
        if self.start == 1:
            if not is_flat:
                graph.node("Flatten", [x], [flat], axis=1)
            graph.node("Gemm", [flat, weight, *bias], tops, transB=int(not self.param.transpose))
            return
        if not is_flat:
            sizes = graph.constant([0] * self.start + [-1], "sizes")
            graph.node("Reshape", [x, sizes], [flat])
        if not self.param.transpose:
            weight, stored = graph.temporary("transposed"), weight
            graph.node("Transpose", [stored], [weight], perm=[1, 0])
        product = graph.temporary("product") if bias else tops[0]
        graph.node("MatMul", [flat, weight], [product])
        if bias:
            graph.node("Add", [product, *bias], tops)
