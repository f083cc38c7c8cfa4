"""Recurrent layers; a sequence starts where ``cont`` is 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...net import LayerNode
from .base import Code, call, emits, layer_of, listed, named


class Recurrent(nn.Module):
    """Run over T timesteps of N streams; where ``cont`` is 0, the state is reset to 0.

    x is (T, N, ...), cont (T, N) and static (N, ...). A given state, in parts of (1, N, D), is
    returned as it is after the last timestep; otherwise each call continues from the state of the
    last one, until ``state`` is set to None.
    """

    gates, parts = 1, 1

    def __init__(self, inputs: int, outputs: int, static: int = 0) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, self.gates * outputs)
        self.static = nn.Linear(static, self.gates * outputs, bias=False) if static else None
        self.hidden = nn.Linear(outputs, self.gates * outputs, bias=False)
        self.state: list[Tensor] | None = None

    def forward(
        self,
        x: Tensor,
        cont: Tensor,
        static: Tensor | None = None,
        state: tuple[Tensor, ...] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        sums = self.input(x.flatten(2))
        if self.static is not None and static is not None:
            sums = sums + self.static(static.flatten(1))
        now = self.carried(sums) if state is None else [part[0] for part in state]
        seen = []
        for own, go_on in zip(sums, cont.unsqueeze(-1), strict=True):
            now = self.step(own + self.hidden(go_on * now[0]), go_on, now)
            seen.append(now[0])
        y = self.view(torch.stack(seen))
        if state is not None:
            return (y, *(part[None] for part in now))
        self.state = [part.detach() for part in now]
        return y

    def carried(self, sums: Tensor) -> list[Tensor]:
        if self.state is not None and len(self.state[0]) == sums.shape[1]:
            return self.state
        zeros = sums.new_zeros(sums.shape[1], self.hidden.in_features)
        return [zeros] * self.parts

    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def view(self, h: Tensor) -> Tensor:
        return h


class LSTM(Recurrent):
    """An LSTM; the order of its gates is in, forget, out, new."""

    gates, parts = 4, 2

    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        i, f, o, g = sums.chunk(4, dim=-1)
        c = cont * f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]


class RNN(Recurrent):
    """A recurrent layer with tanh: of its input and state, and of its output."""

    def __init__(self, inputs: int, outputs: int, static: int = 0) -> None:
        super().__init__(inputs, outputs, static)
        self.output = nn.Linear(outputs, outputs)

    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [sums.tanh()]

    def view(self, h: Tensor) -> Tensor:
        return torch.tanh(self.output(h))


class LSTMUnit(nn.Module):
    """Compute one timestep of an LSTM's cells from its gates' sums: in, forget, out, new."""

    def forward(self, c: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = gates.chunk(4, dim=-1)
        c = cont[..., None] * f.sigmoid() * c + i.sigmoid() * g.tanh()
        return c, o.sigmoid() * c.tanh()


@emits("LSTM", "RNN")
def _recurrent(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    arguments, state = bottoms, []
    if layer.exposed:
        arguments, state = bottoms[: -layer.exposed], bottoms[-layer.exposed :]
    if state:
        arguments = [*arguments, f"state=({listed(state)}{',' * (len(state) == 1)})"]
    names = ["input.weight", "input.bias", "static.weight", "hidden.weight"]
    if not layer.has_static:
        names.remove("static.weight")
    if layer.type == "RNN":
        names += ["output.weight", "output.bias"]
    weights = named(node, *names)
    static = layer.blob_shapes[2][1] if layer.has_static else 0
    inputs, outputs = layer.blob_shapes[0][1], layer.param.num_output
    module = call(layer.type, inputs, outputs, static=(static, 0))
    helper = LSTM if layer.type == "LSTM" else RNN
    return Code(f"{{self}}({listed(arguments)})", module, weights, helpers=(Recurrent, helper))


@emits("LSTMUnit")
def _lstm_unit(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{{self}}({listed(bottoms)})", "LSTMUnit()", helpers=(LSTMUnit,))
