"""Embed: a learned vector for each word of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from ..shared.indices import IndexingLayer

if TYPE_CHECKING:
    from ...export.graph import Graph

_INT64 = 7  # as ONNX numbers it


@register("Embed", param="embed_param")
class Embed(IndexingLayer):
    """Look up the row of a table for each index: ``y = W[x] + b``.

    The same as an InnerProduct of one-hot vectors. The bottom gets no gradient.

    Bottom: indices of any shape, whole numbers in 0..input_dim-1; fractions are truncated. Top:
    (the bottom's axes..., num_output).
    Blobs: weight (input_dim, num_output), bias (num_output).

    Raises:
        NetError: num_output or input_dim is 0, or in the forward pass an index is out of range.

    Source: Caffe's EmbedLayer, which does not check the indices.

    Sample::

        layer {
          name: "embed"
          type: "Embed"
          bottom: "words"  # (5, 2)
          top: "embedded"  # (5, 2, 16)
          embed_param { input_dim: 1000 num_output: 16 weight_filler { type: "xavier" } }
        }
    """

    constant_bottoms = (0,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        for name in ("num_output", "input_dim"):
            if getattr(param, name) < 1:
                self.fail(f"EmbedLayer {name} must be positive", **{name: getattr(param, name)})
        for top in self.top_shapes(bottom_shapes):  # before memory is allocated for the weights
            self.check_shape(top, "the top")
        self.add_blob((param.input_dim, param.num_output), param.weight_filler)
        if param.bias_term:
            self.add_blob((param.num_output,), param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(*bottom_shapes[0], self.param.num_output)]

    @property
    def per_sample(self) -> bool:
        return True

    @property
    def index_bottoms(self) -> dict[int, int]:
        return {0: self.param.input_dim}

    def forward(self, x: Tensor) -> Tensor:
        weight, *bias = self.blobs
        rows = F.embedding(self.read_indices(x, len(weight)), weight)
        return rows + bias[0] if bias else rows

    def refuse_index(self, index: int, count: int) -> NoReturn:
        self.fail(
            f"an index is out of range: it must be in 0..{count - 1}. Increase input_dim if there "
            "are more words",
            index=index,
            input_dim=count,
        )

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        weight, *bias = (graph.blob(self, index) for index in range(len(self.blobs)))
        whole = graph.temporary("index")
        graph.node("Cast", bottoms, [whole], to=_INT64)
        rows = graph.temporary("rows") if bias else tops[0]
        graph.node("Gather", [weight, whole], [rows], axis=0)
        if bias:
            graph.node("Add", [rows, *bias], tops)
