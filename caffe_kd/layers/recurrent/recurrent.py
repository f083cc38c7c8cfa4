"""The base of LSTM and RNN: sequences, the state carried between passes, export to ONNX."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Context, Layer, Shape, Tops

if TYPE_CHECKING:
    from ...export.graph import Graph
    from .lstm_unit import OnnxNode


class RecurrentLayer(Layer):
    """A layer over T timesteps of N independent streams, whose hidden state is carried on in time.

    Bottoms: x (T, N, any axes...); cont (T, N), 0 where a sequence begins and 1 where it continues;
    optionally an input that stays the same over time (N, any axes...); with ``expose_hidden`` the
    hidden state before the first timestep, one or more of (1, N, D).
    Tops: the output (T, N, D); with ``expose_hidden`` the hidden state after the last timestep.

    Without ``expose_hidden`` the state after the last timestep is the one before the first timestep
    of the next forward pass; it is zero at first and when N changes. Train and test nets have
    separate states. No gradient flows to a state from an earlier pass, nor through exposed ones,
    nor to cont. ``debug_info`` of recurrent_param has no effect.

    Source: Caffe's RecurrentLayer, which refuses a change of T.
    """

    hidden: tuple[str, ...]  # the parts of the hidden state
    gates = 1  # sums for each output

    _state: list[Tensor] | None = None  # (N, D) each, from the last forward pass

    def __init__(self, proto: Any, phase: int, context: Context) -> None:
        super().__init__(proto, phase, context)
        self.exposed = len(self.hidden) if self.param.expose_hidden else 0
        self.bottoms = (2 + self.exposed, 3 + self.exposed)
        self.tops = (1 + self.exposed, 1 + self.exposed)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param
        if param.num_output < 1:
            self.fail("num_output must be positive", num_output=param.num_output)
        self.has_static = len(bottom_shapes) > 2 + self.exposed
        propagate = list(self.proto.propagate_down)
        if len(propagate) > 1 and propagate[1]:
            self.fail("Cannot backpropagate to sequence indicators: propagate_down of cont")
        first_hidden = len(bottom_shapes) - self.exposed
        self.constant_bottoms = (1, *range(first_hidden, len(bottom_shapes)))
        self._check(bottom_shapes)
        sums = self.gates * param.num_output
        self.check_shape((*bottom_shapes[0][:2], sums), "the gates' sums")
        self.add_blob((sums, math.prod(bottom_shapes[0][2:])), param.weight_filler)
        self.add_blob((sums,), param.bias_filler)
        if self.has_static:
            self.add_blob((sums, math.prod(bottom_shapes[2][1:])), param.weight_filler)
        self.add_blob((sums, param.num_output), param.weight_filler)

    def _check(self, bottom_shapes: list[Shape]) -> None:
        x, cont, *others = bottom_shapes
        if len(x) < 3:
            self.fail(
                "bottom[0] must have at least 3 axes -- (#timesteps, #streams, ...)", bottom=x
            )
        if cont != x[:2]:
            self.fail(
                "bottom[1] must have exactly 2 axes -- (#timesteps, #streams), those of bottom[0]",
                x=x,
                cont=cont,
            )
        if self.has_static:
            static = others.pop(0)
            if len(static) < 2 or static[0] != x[1]:
                self.fail(
                    "bottom[2], the static input, must be (#streams, ...)", x=x, static=static
                )
        wanted = (1, x[1], self.param.num_output)
        for index, (name, shape) in enumerate(zip(self.hidden, others, strict=False)):
            if shape != wanted:
                self.fail(
                    f"bottom[{2 + self.has_static + index}] shape must match hidden state input "
                    f"shape, {wanted} for {name}. To export a net that takes its hidden state, "
                    "give it more than 1 timestep in the prototxt; the model accepts any number",
                    bottom=shape,
                )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._check(bottom_shapes)
        sizes = [math.prod(bottom_shapes[0][2:])]
        sizes += [math.prod(bottom_shapes[2][1:])] if self.has_static else []
        wanted = [self.blob_shapes[i][1] for i in ((0, 2) if self.has_static else (0,))]
        if sizes != wanted:
            self.fail("the inputs' sizes may not change", now=sizes, before=wanted)
        time, streams = bottom_shapes[0][:2]
        outputs = self.param.num_output
        return [(time, streams, outputs)] + [(1, streams, outputs)] * self.exposed

    def forward(self, x: Tensor, cont: Tensor, *others: Tensor) -> Tops:
        sums = F.linear(x.flatten(2), *self.blobs[:2])
        if self.has_static:
            sums = sums + F.linear(others[0].flatten(1), self.blobs[2])
        if self.exposed:
            state = [given.detach()[0] for given in others[int(self.has_static) :]]
        else:
            state = self._carried(sums)
        weight = self.blobs[3 if self.has_static else 2].t()
        steps = []
        for own, go_on in zip(sums.unbind(), cont.detach().unsqueeze(-1).unbind(), strict=True):
            state = self.step(torch.addmm(own, go_on * state[0], weight), go_on, state)
            steps.append(state[0])
        output = self.output(torch.stack(steps))
        state = [part.detach() for part in state]
        if self.exposed:
            return (output, *(part.unsqueeze(0) for part in state))
        self._state = state
        return output

    def _carried(self, sums: Tensor) -> list[Tensor]:
        shape = (sums.shape[1], self.param.num_output)
        if self._state is None or self._state[0].shape != shape:
            return [sums.new_zeros(shape) for _ in self.hidden]
        return [part.to(sums) for part in self._state]

    @abstractmethod
    def step(self, sums: Tensor, cont: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the state after a timestep, its first part being h.

        Args:
            sums: [N, gates * D] of the inputs and of h.
            cont: [N, 1].
            state: [N, D] each, before the timestep.
        """

    def output(self, steps: Tensor) -> Tensor:
        """Return the output at all timesteps from h at all of them, both [T, N, D]."""
        return steps

    # ---- the state

    def reset(self) -> None:
        self._state = None

    def state(self) -> dict[str, np.ndarray]:
        if self.exposed:
            return {}
        nothing = np.zeros((0, self.param.num_output), np.float32)
        if self._state is None:
            return dict.fromkeys(self.hidden, nothing)
        parts = zip(self.hidden, self._state, strict=True)
        return {name: part.cpu().numpy().copy() for name, part in parts}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        parts = [torch.from_numpy(state[name]) for name in self.hidden]
        for part in parts:
            if (
                part.dim() != 2
                or part.shape != parts[0].shape
                or part.shape[1:] != (self.param.num_output,)
            ):
                raise ValueError(
                    f"layer '{self.name}' has {self.param.num_output} outputs, and its hidden "
                    f"state has the shape {tuple(part.shape)}"
                )
        self._state = [part.to(self.context.device) for part in parts] if len(parts[0]) else None

    # ---- ONNX

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        """Add a Scan over the timesteps; without exposed state it starts from zero."""
        x, cont, *others = bottoms
        static = others.pop(0) if self.has_static else None
        sums = self._onnx_sums(graph, x, static)
        kept = graph.temporary("cont")
        graph.node("Unsqueeze", [cont, graph.constant([-1], "axes")], [kept])
        first = self._onnx_exposed(graph, others) if others else self._onnx_zeros(graph, x)
        last = [graph.temporary(f"{name}_T") for name in self.hidden]
        steps = graph.temporary("steps")
        body = self._onnx_body(graph)
        graph.node("Scan", [*first, sums, kept], [*last, steps], body=body, num_scan_inputs=2)
        self.onnx_output(graph, steps, tops[0])
        for part, top in zip(last, tops[1:], strict=False):
            graph.node("Unsqueeze", [part, graph.constant([0], "axes")], [top])

    def _onnx_sums(self, graph: Graph, x: str, static: str | None) -> str:
        if len(graph.shape(x)) > 3:
            flat = graph.temporary("flat")
            graph.node("Reshape", [x, graph.constant([0, 0, -1], "sizes")], [flat])
            x = flat
        sums = graph.temporary("sums")
        onnx_linear(graph, x, graph.blob(self, 0), graph.blob(self, 1), sums)
        if static is None:
            return sums
        flat, same, total = (graph.temporary(n) for n in ("static", "static_sums", "total"))
        graph.node("Flatten", [static], [flat], axis=1)
        graph.node("Gemm", [flat, graph.blob(self, 2)], [same], transB=1)
        graph.node("Add", [sums, same], [total])
        return total

    def _onnx_exposed(self, graph: Graph, given: Sequence[str]) -> list[str]:
        first = [graph.temporary(f"{name}_0") for name in self.hidden]
        for bottom, part in zip(given, first, strict=True):
            graph.node("Squeeze", [bottom, graph.constant([0], "axes")], [part])
        return first

    def _onnx_zeros(self, graph: Graph, x: str) -> list[str]:
        streams, shape, zeros = (graph.temporary(n) for n in ("streams", "shape", "zeros"))
        outputs = graph.constant([self.param.num_output], "outputs")
        graph.node("Shape", [x], [streams], start=1, end=2)
        graph.node("Concat", [streams, outputs], [shape], axis=0)
        graph.node("ConstantOfShape", [shape], [zeros])
        return [zeros] * len(self.hidden)

    def _onnx_body(self, graph: Graph) -> Any:
        """Return the graph of one timestep: (state..., sums, cont) to (state..., output)."""
        from onnx import TensorProto, helper

        width, outputs = self.gates * self.param.num_output, self.param.num_output
        before = [graph.temporary(f"{name}_before") for name in self.hidden]
        after = [graph.temporary(f"{name}_after") for name in self.hidden]
        sums, cont, kept, total, output = (
            graph.temporary(n) for n in ("sums_t", "cont_t", "h_kept", "sums_all", "output_t")
        )
        weight = graph.blob(self, 3 if self.has_static else 2)
        nodes: list[OnnxNode] = [
            ("Mul", [cont, before[0]], [kept], {}),
            ("Gemm", [kept, weight, sums], [total], {"transB": 1}),
            *self.onnx_step(graph, total, cont, before, after),
            ("Identity", [after[0]], [output], {}),
        ]

        def value(name: str, size: int) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])

        def node(op: str, inputs: list[str], outputs: list[str], attributes: Any) -> Any:
            return helper.make_node(op, inputs, outputs, name=outputs[0], **attributes)

        return helper.make_graph(
            [node(*parts) for parts in nodes],
            f"{self.name}_step",
            [*(value(n, outputs) for n in before), value(sums, width), value(cont, 1)],
            [value(n, outputs) for n in (*after, output)],
        )

    @abstractmethod
    def onnx_step(
        self, graph: Graph, sums: str, cont: str, before: list[str], after: list[str]
    ) -> list[OnnxNode]:
        """Return the nodes from the sums of one timestep to the state after it."""

    def onnx_output(self, graph: Graph, steps: str, top: str) -> None:
        """Add the output, from the first part of the state at all timesteps."""
        graph.alias(steps, top)


def onnx_linear(graph: Graph, x: str, weight: str, bias: str, result: str) -> None:
    """Add ``x W^T + b`` for x of any number of axes."""
    turned, product = graph.temporary("turned"), graph.temporary("product")
    graph.node("Transpose", [weight], [turned], perm=[1, 0])
    graph.node("MatMul", [x, turned], [product])
    graph.node("Add", [product, bias], [result])
