"""RNN: the simple recurrent layer over sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Shape, register
from .lstm_unit import OnnxNode
from .recurrent import RecurrentLayer, onnx_linear

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("RNN", param="recurrent_param", bottoms=(2, 4), tops=(1, 2))
class RNN(RecurrentLayer):
    """Run a simple recurrent net over timesteps: a tanh of the input and of the state before.

    At each timestep, with ``cont`` 0 where a sequence begins and 1 where it continues::

        h = tanh(W_xh x + W_xh_static static + b_h + W_hh (cont h_prev));  o = tanh(W_ho h + b_o)

    Bottoms: x (T, N, any axes...), cont (T, N), optionally static (N, any axes...); with
    ``expose_hidden`` also h before the first timestep, (1, N, D).
    Tops: o at all timesteps (T, N, D), in -1..1; with ``expose_hidden`` also h after the last
    timestep, (1, N, D).
    Blobs: W_xh (D, x's size), b_h (D), with a static bottom W_xh_static (D, its size), W_hh (D, D),
    W_ho (D, D), b_o (D).

    For how the state is carried from one forward pass to the next, see ``RecurrentLayer``.

    Raises:
        NetError: num_output is 0 or the bottoms do not fit each other.

    Source: Elman 1990; Caffe's RNNLayer.

    Sample::

        layer {
          name: "rnn1"
          type: "RNN"
          bottom: "x"  # (5, 2, 8)
          bottom: "cont"  # (5, 2)
          top: "rnn1"  # (5, 2, 16)
          recurrent_param { num_output: 16 weight_filler { type: "uniform" min: -0.08 max: 0.08 } }
        }
    """

    hidden = ("h",)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        outputs = self.param.num_output
        self.add_blob((outputs, outputs), self.param.weight_filler)
        self.add_blob((outputs,), self.param.bias_filler)

    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(sums)]

    def output(self, steps: Tensor) -> Tensor:
        return torch.tanh(F.linear(steps, *self.blobs[-2:]))

    def onnx_step(
        self, graph: Graph, sums: str, cont: str, before: list[str], after: list[str]
    ) -> list[OnnxNode]:
        return [("Tanh", [sums], after, {})]

    def onnx_output(self, graph: Graph, steps: str, top: str) -> None:
        first, sums = len(self.blobs) - 2, graph.temporary("output_sums")
        onnx_linear(graph, steps, graph.blob(self, first), graph.blob(self, first + 1), sums)
        graph.node("Tanh", [sums], [top])
