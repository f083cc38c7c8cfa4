"""LSTM: long short-term memory over sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import register
from .lstm_unit import OnnxNode, lstm_unit, unit_nodes
from .recurrent import RecurrentLayer

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("LSTM", param="recurrent_param", bottoms=(2, 5), tops=(1, 3))
class LSTM(RecurrentLayer):
    """Run a long short-term memory over timesteps: cells with input, forget and output gates.

    At each timestep, with ``cont`` 0 where a sequence begins and 1 where it continues::

        i, f, o, g = W_xc x + W_xc_static static + b_c + W_hc (cont h_prev)
        c = cont sigmoid(f) c_prev + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c)

    Bottoms: x (T, N, any axes...), cont (T, N), optionally static (N, any axes...); with
    ``expose_hidden`` also h and c before the first timestep, (1, N, D) each.
    Tops: h at all timesteps (T, N, D), in -1..1; with ``expose_hidden`` also h and c after the last
    timestep, (1, N, D) each.
    Blobs: W_xc (4 D, x's size), b_c (4 D), with a static bottom W_xc_static (4 D, its size), W_hc
    (4 D, D). The order of the gates is i, f, o, g (torch's is i, f, g, o).

    For how the state is carried from one forward pass to the next, see ``RecurrentLayer``.

    Raises:
        NetError: num_output is 0 or the bottoms do not fit each other.

    Source: Hochreiter and Schmidhuber 1997; Caffe's LSTMLayer.

    Sample::

        layer {
          name: "lstm1"
          type: "LSTM"
          bottom: "x"  # (5, 2, 8)
          bottom: "cont"  # (5, 2)
          top: "lstm1"  # (5, 2, 16)
          recurrent_param { num_output: 16 weight_filler { type: "uniform" min: -0.08 max: 0.08 } }
        }
    """

    hidden = ("h", "c")
    gates = 4

    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        c, h = lstm_unit(state[1], sums, cont)
        return [h, c]

    def onnx_step(
        self, graph: Graph, sums: str, cont: str, before: list[str], after: list[str]
    ) -> list[OnnxNode]:
        sizes = graph.constant([self.param.num_output] * 4, "sizes")
        return unit_nodes(graph, before[1], sums, cont, sizes, [after[1], after[0]])
