"""LSTMUnit: one step of an LSTM's cell, from its gates' sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c_prev: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        cells = c_prev.shape[-1]
        i, f, o = gates[..., : 3 * cells].sigmoid().chunk(3, -1)
        g = gates[..., 3 * cells :].tanh()
        f = cont * f
        c = torch.addcmul(i * g, f, c_prev)
        squashed = c.tanh()
        ctx.save_for_backward(c_prev, i, f, o, g, squashed)
        return c, o * squashed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, c_grad: Tensor, h_grad: Tensor) -> tuple[Tensor, Tensor, None]:
        c_prev, i, f, o, g, squashed = ctx.saved_tensors
        o_grad = h_grad * squashed
        total = c_grad + h_grad * o * (1 - squashed * squashed)
        sums = (
            total * g * i * (1 - i),
            total * c_prev * f * (1 - f),
            o_grad * o * (1 - o),
            total * i * (1 - g * g),
        )
        return total * f, torch.cat(sums, -1), None


def lstm_unit(c_prev: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next cell state and the output of an LSTM's cells; see ``LSTMUnit``.

    Args:
        c_prev: [..., D] the cell state before.
        gates: [..., 4 D] the sums that make i, f, o and g.
        cont: [..., 1] whether the sequence continues; no gradient flows to it.
    """
    result: tuple[Tensor, Tensor] = _Unit.apply(c_prev, gates, cont)  # type: ignore[no-untyped-call]
    return result


@register("LSTMUnit", bottoms=3, tops=2)
class LSTMUnit(Layer):
    """Make one step of an LSTM's cells, without weights.

    ``i, f, o = sigmoid`` and ``g = tanh`` of the four parts of the gates' sums, then::

        c = cont f c_prev + i g;  h = o tanh(c)

    Bottoms: c_prev (1, N, D); the gates' sums (1, N, 4 D); cont (1, N), 0 where a sequence begins
    and 1 where it continues, which gets no gradient. Tops: c and h, both (1, N, D).

    Raises:
        NetError: the bottoms do not fit each other.

    Source: Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; Caffe's
    LSTMUnitLayer, whose gradient to f's sum is the derivative where cont is 0 or 1, as here. Here
    the first size need not be 1.

    Sample::

        layer {
          name: "unit" type: "LSTMUnit"
          bottom: "c_prev"  # (1, 2, 16)
          bottom: "gates"  # (1, 2, 64)
          bottom: "cont"  # (1, 2)
          top: "c"  # (1, 2, 16)
          top: "h"  # (1, 2, 16)
        }
    """

    constant_bottoms = (2,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        c_prev, gates, cont = bottom_shapes
        if len(c_prev) != 3 or gates != (*c_prev[:2], 4 * c_prev[2]) or cont != c_prev[:2]:
            self.fail(
                "the bottoms must be (1, N, D), (1, N, 4 D) and (1, N)",
                c_prev=c_prev,
                gates=gates,
                cont=cont,
            )
        return [c_prev, c_prev]

    @property
    def per_sample(self) -> bool:
        return True

    def forward(self, c_prev: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        return lstm_unit(c_prev, gates, cont.detach().unsqueeze(-1))

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        c_prev, gates, cont = bottoms
        kept = graph.temporary("cont")
        graph.node("Unsqueeze", [cont, graph.constant([-1], "axes")], [kept])
        sizes = graph.constant([graph.shape(c_prev)[-1]] * 4, "sizes")
        for op, inputs, outputs, attributes in unit_nodes(graph, c_prev, gates, kept, sizes, tops):
            graph.node(op, inputs, outputs, **attributes)


OnnxNode = tuple[str, list[str], list[str], dict[str, int]]


def unit_nodes(
    graph: Graph, c_prev: str, gates: str, cont: str, sizes: str, tops: list[str]
) -> list[OnnxNode]:
    """Return the ONNX nodes of ``lstm_unit``; ``sizes`` is a constant of four times D."""
    c, h = tops
    sums = [graph.temporary(f"{gate}_sum") for gate in "ifog"]
    i, f, o, g = (graph.temporary(gate) for gate in "ifog")
    kept, old, new, squashed = (graph.temporary(n) for n in ("kept", "old", "new", "squashed"))
    return [
        ("Split", [gates, sizes], sums, {"axis": -1}),
        ("Sigmoid", [sums[0]], [i], {}),
        ("Sigmoid", [sums[1]], [f], {}),
        ("Sigmoid", [sums[2]], [o], {}),
        ("Tanh", [sums[3]], [g], {}),
        ("Mul", [cont, f], [kept], {}),
        ("Mul", [kept, c_prev], [old], {}),
        ("Mul", [i, g], [new], {}),
        ("Add", [old, new], [c], {}),
        ("Tanh", [c], [squashed], {}),
        ("Mul", [o, squashed], [h], {}),
    ]
