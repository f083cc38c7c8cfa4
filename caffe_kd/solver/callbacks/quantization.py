"""Quantisation-aware training: the student computes with values rounded to few bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.errors import SolverError
from ...layers import Layer
from ...layers.shared import fake_quantize
from ...layers.shared.fake_quantize import FLOAT
from ...layers.shared.quantized_layer import LayerRounding, ValueRounding, attach, channels
from ...net import LayerNode, Net, statistics
from ...net.quantized_values import Way, ways
from ...proto import caffe_pb2 as pb
from .. import quantized_layers
from ..callback import Callback
from ..options import Options
from ..updates import Updater

if TYPE_CHECKING:
    from ..solver import Solver

_SEARCH_INTERVAL = 50  # iterations between searches for the steps of weights of few bits


class ObservedValue(ValueRounding):
    """Rounds a value by a range that follows what is seen of it.

    Attributes:
        range: the running means of each batch's least and greatest value.
        momentum: the share of the old means that a batch leaves.
        batches: how many batches the means are of, while they are taken for the first time.
        observing: whether the range follows.
        active: whether the value is rounded.
    """

    range: Tensor

    def __init__(self, bits: int, momentum: float) -> None:
        super().__init__(bits)
        self.momentum = momentum
        self.batches = 0
        self.observing = self.active = False
        self.register_buffer("range", torch.zeros(2))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the range follow a batch."""
        keep = self.momentum if self.active else self.batches / (self.batches + 1)
        self.batches += 1
        self.range.mul_(keep).add_(torch.stack(x.detach().aminmax()), alpha=1 - keep)

    @torch.no_grad()
    def follow(self) -> None:
        """Take step and zero from the range."""
        step, zero = fake_quantize.step_and_zero(self.range[0], self.range[1], self.bits)
        self.step.copy_(step)
        self.zero.copy_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.active else x


class _Reading:
    """A hook that rounds a bottom of a layer, before the layer runs."""

    def __init__(self, value: ObservedValue, bottom: int, watches: bool) -> None:
        self.value = value
        self.bottom = bottom
        self.watches = watches  # whether the range follows what comes by

    def __call__(self, _layer: nn.Module, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value, x = self.value, bottoms[self.bottom]
        if self.watches and value.observing and (torch.is_grad_enabled() or not value.active):
            value.observe(x)
            if value.active:
                value.follow()
        return (*bottoms[: self.bottom], value(x), *bottoms[self.bottom + 1 :])


class Quantization(Callback):
    """Rounds what the student's layers multiply while they learn.

    Train and test nets have the same ranges. Until ``start_iter`` everything is float32; then the
    ranges are taken from batches of the train net's data, which is put back; from
    ``freeze_range_iter`` they stay.

    Args:
        settings: the solver's QuantizationTrainingParameter.
        solver: the solver, whose nets have their weights.
        bits: those of the value read and of the weights, by the name of each layer to quantise.
        where: ``file:line`` of the settings.

    Raises:
        SolverError: a layer's value cannot be rounded as asked.

    Source: Jacob et al. 2018; Esser et al. 2020.
    """

    name = "quantization"

    def __init__(
        self, settings: Any, solver: Solver, bits: dict[str, tuple[int, int]], where: str | None
    ) -> None:
        self.settings = settings
        self.begun = False
        self.freeze = settings.freeze_range_iter or math.inf
        self.learned = settings.range == pb.QuantizationTrainingParameter.LEARNED
        self.values: dict[tuple[str, int], ObservedValue] = {}  # by where they are written
        self.layers: dict[str, Layer] = {}
        self.roundings: dict[str, LayerRounding] = {}
        self._read_values(ways(solver.net, bits), bits, where)
        for layer in (node.layer for node in solver.net.nodes if node.layer.name in bits):
            self._round_products(layer, bits[layer.name][1])
        for net in solver.test_nets:
            self._share(net)
        self.updater = self._updater(solver) if self.learned else None

    # ---- building

    def _read_values(
        self, found: dict[str, Way], bits: dict[str, tuple[int, int]], where: str | None
    ) -> None:
        hooked: set[tuple[int, int]] = set()
        self._readers: dict[str, ObservedValue | None] = {}
        for name, way in found.items():
            width = bits[name][0]
            self._readers[name] = None
            if width == FLOAT:
                continue
            value = self.values.get(way.source)
            is_new = value is None
            if value is None:
                value = ObservedValue(width, self.settings.momentum)
                self.values[way.source] = value
            elif value.bits != width:
                raise SolverError(
                    f"layer '{name}' reads the same value as another quantised layer, which "
                    f"'{way.source[0]}' writes, and in another width. Received: bw_layer_in "
                    f"{width} and {value.bits}. Give both layers one",
                    where,
                )
            self._readers[name] = value
            _hook(way.steps[0], value, hooked, watches=is_new)

    def _round_products(self, layer: Layer, bits: int) -> None:
        value = self._readers[layer.name]
        steps = torch.ones(channels(layer))
        rounding = LayerRounding(value, bits, layer.output_axis or 0, steps, reads=False)
        rounding.active = False
        attach(layer, rounding)
        self.layers[layer.name], self.roundings[layer.name] = layer, rounding

    def _share(self, net: Net) -> None:
        """Let a test net's layers round as the train net's of the same names."""
        hooked: set[tuple[int, int]] = set()
        for name, way in ways(net, self.layers).items():
            value = self._readers[name]
            if value is not None:
                _hook(way.steps[0], value, hooked, watches=False)
            attach(way.steps[-1][0].layer, self.roundings[name])

    def _updater(self, solver: Solver) -> Updater:
        """Make the steps parameters that learn; return what updates them, by the solver's rule."""
        modules: list[Any] = [*self.values.values()]
        modules += [r for r in self.roundings.values() if r.bits != FLOAT]
        steps = []
        for module in modules:
            name = "step" if isinstance(module, ValueRounding) else "steps"
            buffer = module._buffers.pop(name)
            module.register_parameter(name, nn.Parameter(buffer))
            steps.append(getattr(module, name))
        param = pb.SolverParameter()
        param.CopyFrom(solver.param)
        param.clip_gradients = -1
        return Updater(param, [(step, 1.0, 0.0) for step in steps])

    # ---- in the loop

    def on_load(self, solver: Solver) -> None:
        """Find ranges again for other weights."""
        self._set_begun(False)

    def on_start(self, solver: Solver) -> None:
        """Begin if it is time, so that a test before the first update sees rounded values."""
        self._begin_if_due(solver)

    def before_test(self, solver: Solver, index: int) -> None:
        """Bring the steps of weights up to date."""
        self._begin_if_due(solver)
        self._follow_weights(solver)

    def before_forward(self, solver: Solver) -> None:
        """Bring the steps of weights up to date, and let ranges follow or learn."""
        self._begin_if_due(solver)
        self._follow_weights(solver, search=solver.iter % _SEARCH_INTERVAL == 0)
        moving = self.begun and solver.iter < self.freeze
        for value in self.values.values():
            value.observing = moving and not self.learned
        if self.updater is not None:
            self.updater.clear()
            for step in self.updater.learning:
                step.requires_grad_(moving)

    def after_update(self, solver: Solver) -> None:
        """Update the steps that learn."""
        if self.updater is not None and self.begun and solver.iter < self.freeze:
            self.updater.apply(solver.net.context.rate, solver.iter)
            for step in self.updater.learning:
                step.data.clamp_(min=fake_quantize.LEAST_STEP)

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Prepare what snapshot_best may write."""
        self._describe(solver)

    def on_snapshot(self, solver: Solver) -> None:
        """Prepare what the snapshot's files hold."""
        self._follow_weights(solver)
        self._describe(solver)

    def _describe(self, solver: Solver) -> None:
        """Write what was found into the layers that files of weights hold."""
        for model in solver.models:
            prefix = "" if model.name is None else f"{model.name}/"
            for proto in model.param.layer:
                rounding = self.roundings.get(prefix + proto.name)
                if rounding is not None and self.begun:
                    _describe(rounding, proto.quantization_param)

    def _begin_if_due(self, solver: Solver) -> None:
        if self.begun or solver.iter < self.settings.start_iter:
            return
        self._calibrate(solver.net)
        self._search_weights(every=True)
        self._set_begun(True)
        kind = "learned" if self.learned else "moving"
        solver.log.info(
            f"Quantization begins: {len(self.layers)} layers, {kind} ranges from "
            f"{self.settings.calibration_iter} batches"
        )
        for name, rounding in self.roundings.items():
            solver.log.info(f"Quantization of layer {name}: {_shown(rounding)}")

    @torch.no_grad()
    def _calibrate(self, net: Net) -> None:
        nodes = statistics.leading_to(net, [*self.layers.values()])
        for value in self.values.values():
            value.batches, value.observing = 0, True
        with statistics.put_back(net, nodes):
            for _ in range(self.settings.calibration_iter):
                net()
        for value in self.values.values():
            value.observing = False
            value.follow()

    def _set_begun(self, begun: bool) -> None:
        self.begun = begun
        parts: list[Any] = [*self.values.values(), *self.roundings.values()]
        for part in parts:
            part.active = begun

    def _follow_weights(self, solver: Solver, search: bool = False) -> None:
        if self.begun and not self.learned and solver.iter < self.freeze:
            self._search_weights(every=search)

    @torch.no_grad()
    def _search_weights(self, every: bool) -> None:
        """Take the steps of weights from the weights: of all, or of those for which it is quick."""
        for name, rounding in self.roundings.items():
            if rounding.bits != FLOAT and (every or rounding.bits > fake_quantize.FEW_BITS):
                layer, weight = self.layers[name], self.layers[name].blobs[0]
                if layer.type == "InnerProduct" and layer.param.transpose:
                    weight = weight.t()
                steps = fake_quantize.weight_steps(weight, rounding.bits, rounding.axis)
                rounding.steps.copy_(steps)

    # ---- the state

    def state(self) -> dict[str, np.ndarray]:
        """Return ranges, steps and, where they learn, the history of their rule."""
        found: dict[str, Tensor] = {"begun": torch.tensor([float(self.begun)])}
        for index, value in enumerate(self.values.values()):
            found[f"value{index}"] = torch.cat([value.range, torch.stack([value.step, value.zero])])
        for name, rounding in self.roundings.items():
            found[f"steps of {name}"] = rounding.steps
        for index, history in enumerate(self.updater.history() if self.updater else ()):
            found[f"history{index}"] = history
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on with the ranges of ``state``; with none of them, ranges are found again."""
        if state.keys() != self.state().keys():
            return
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        for index, value in enumerate(self.values.values()):
            value.range.copy_(tensors[f"value{index}"][:2])
            value.step.copy_(tensors[f"value{index}"][2])
            value.zero.copy_(tensors[f"value{index}"][3])
        for name, rounding in self.roundings.items():
            rounding.steps.copy_(tensors[f"steps of {name}"])
        if self.updater is not None:
            count = len(self.updater.history())
            self.updater.restore([tensors[f"history{index}"] for index in range(count)])
        self._set_begun(bool(tensors["begun"]))


def _hook(
    step: tuple[LayerNode, int], value: ObservedValue, hooked: set[tuple[int, int]], watches: bool
) -> None:
    node, bottom = step
    if (id(node), bottom) not in hooked:
        hooked.add((id(node), bottom))
        node.layer.register_forward_pre_hook(_Reading(value, bottom, watches))


@torch.no_grad()
def _describe(rounding: LayerRounding, param: Any) -> None:
    """Write what a layer rounds into its quantization_param."""
    param.Clear()
    if rounding.value is not None:
        param.bw_layer_in = rounding.value.bits
        param.step_in, param.zero_in = float(rounding.value.step), int(rounding.value.zero)
    if rounding.bits != FLOAT:
        param.bw_params = rounding.bits
        param.step_params.extend(rounding.steps.tolist())


@torch.no_grad()
def _shown(rounding: LayerRounding) -> str:
    parts = []
    if rounding.value is not None:
        value = rounding.value
        step, zero = float(value.step), float(value.zero)
        low, high = -zero * step, (fake_quantize.top_level(value.bits) - zero) * step
        parts.append(f"reads {low:g} to {high:g} in {value.bits} bits (step {step:g})")
    if rounding.bits != FLOAT:
        least, most = (float(step) for step in rounding.steps.aminmax())
        parts.append(f"weights of {rounding.bits} bits (steps {least:g} to {most:g})")
    return ", ".join(parts)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``quantization`` and a layer has fewer than 32 bits."""
    if solver.param.HasField("quantization"):
        bits = quantized_layers.widths_of(solver)
        if bits:
            where = solver.plan.where("quantization")
            yield Quantization(solver.param.quantization, solver, bits, where)
