"""Eltwise: the sum, product or maximum of bottoms, value by value."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph

_OPS = pb.EltwiseParameter


@register("Eltwise", param="eltwise_param", bottoms=(2, None))
class Eltwise(Layer):
    """Combine bottoms value by value.

    SUM: ``sum of coeff_i x_i``; PROD: ``product of x_i``; MAX: ``max of x_i``. Where bottoms
    tie for the maximum, one gets the whole gradient: the second of the first two, else the
    earliest.

    Bottoms, top: any shape, the same for all.

    Raises:
        NetError: the bottoms' shapes differ, the number of coeff is not that of bottoms, or coeff
            is given with PROD.

    Source: Caffe's EltwiseLayer. stable_prod_grad makes no difference: the gradient of PROD is
    always the product of the others. MAX ignores coeff, as in Caffe.

    Sample::

        layer {
          name: "sum"
          type: "Eltwise"
          bottom: "shortcut"  # (2, 4, 8, 8)
          bottom: "conv2"  # (2, 4, 8, 8)
          top: "sum"  # (2, 4, 8, 8)
          eltwise_param { operation: SUM }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.coeff and param.operation == _OPS.PROD:
            self.fail(
                "Eltwise layer only takes coefficients for summation", coeff=list(param.coeff)
            )
        if len(param.coeff) not in (0, len(bottom_shapes)):
            self.fail(
                "Eltwise Layer takes one coefficient per bottom blob",
                coeff=list(param.coeff),
                bottoms=len(bottom_shapes),
            )
        self.coeff = list(param.coeff) or [1.0] * len(bottom_shapes)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottom_shapes):
            if shape != bottom_shapes[0]:
                self.fail(
                    "all bottoms must have the same shape: "
                    f"bottom[0]: {bottom_shapes[0]}, bottom[{index}]: {shape}"
                )
        return bottom_shapes[:1]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, *bottoms: Tensor) -> Tensor:
        first, second, *others = bottoms
        if self.param.operation == _OPS.PROD:
            return reduce(torch.mul, bottoms)
        if self.param.operation == _OPS.MAX:
            best = torch.where(first > second, first, second)
            return reduce(lambda best, x: torch.where(x > best, x, best), others, best)
        total = first if self.coeff[0] == 1 else first * self.coeff[0]
        for coeff, x in zip(self.coeff[1:], bottoms[1:], strict=True):
            total = torch.add(total, x, alpha=coeff)
        return total

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if self.param.operation == _OPS.MAX:
            graph.node("Max", bottoms, tops)
            return
        terms = list(bottoms)
        for index, coeff in enumerate(self.coeff):
            if coeff != 1:
                terms[index] = graph.temporary("term")
                graph.node("Mul", [bottoms[index], graph.constant(coeff, "coeff")], [terms[index]])
        op = "Mul" if self.param.operation == _OPS.PROD else "Add"
        for index, term in enumerate(terms[1:], 1):
            result = tops[0] if index == len(terms) - 1 else graph.temporary("partial")
            graph.node(op, [terms[0], term], [result])
            terms[0] = result
