"""Layers that compute with values rounded to few bits: what a ``quantization_param`` asks for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..base import Layer
from . import fake_quantize, int8

# The fields of this project's own scheme; the others are of forks.
_OWN = frozenset(("bw_layer_in", "bw_params", "step_in", "zero_in", "step_params"))


class ValueRounding(nn.Module):
    """Rounds one value of a net, for all layers that read it.

    Attributes:
        bits: of its levels.
        step: the distance of two levels.
        zero: the level that is 0.
    """

    step: Tensor
    zero: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("step", torch.ones(()))
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize.values(x, self.step, self.zero, self.bits)


class LayerRounding(nn.Module):
    """Rounds what a layer multiplies: the value it reads, its weights and its bias.

    Attributes:
        value: rounds the value that the layer reads; None: it stays float32.
        bits: of the weights; 32: they stay float32.
        axis: of the weight, that counts output channels.
        steps: of the weights, one for each output channel or one for all.
        reads: whether the layer rounds the value itself; otherwise it comes rounded.
        active: whether anything is rounded now.
    """

    steps: Tensor

    def __init__(
        self, value: ValueRounding | None, bits: int, axis: int, steps: Tensor, reads: bool
    ) -> None:
        super().__init__()
        self.value = value
        self.bits = bits
        self.axis = axis
        self.reads = reads
        self.active = True
        self.register_buffer("steps", steps)

    def bias_steps(self, count: int) -> Tensor | None:
        """Return the steps of a bias of ``count`` values; None where the sums are no integers."""
        if self.value is None or self.bits == fake_quantize.FLOAT:
            return None
        steps = self.value.step * self.steps
        return steps.repeat(count // steps.numel())  # the groups of a Deconvolution share them

    def sum_products(
        self, layer: Layer, operator: Callable[..., Tensor], x: Tensor, *blobs: Tensor
    ) -> Tensor:
        """Do as ``Layer.sum_products``, with rounded values."""
        if self.active and not x.is_meta:
            weight, *bias = blobs
            if self.reads and self.value is not None:
                x = self.value(x)
            if self.bits != fake_quantize.FLOAT:
                weight = fake_quantize.weights(weight, self.steps, self.bits, self.axis)
            steps = self.bias_steps(bias[0].numel()) if bias else None
            if steps is not None:
                bias = [fake_quantize.biases(bias[0], steps)]
            blobs = weight, *bias
        return Layer.sum_products(layer, operator, x, *blobs)


def attach(layer: Layer, rounding: LayerRounding) -> None:
    """Let a layer compute with rounded values."""
    layer.rounding = rounding.to(layer.blobs[0].device)
    layer.sum_products = partial(rounding.sum_products, layer)  # type: ignore[method-assign]


def detach(layer: Layer) -> None:
    """Let a layer compute in float32 again."""
    if rounding_of(layer) is not None:
        del layer.rounding, layer.sum_products


def has_steps(given: Any) -> bool:
    """Return whether a QuantizationParameter has steps of this project's scheme."""
    return bool(given.HasField("step_in") or given.step_params)


def rounding_of(layer: Layer) -> LayerRounding | None:
    """Return what a layer rounds; None: it computes in float32."""
    return getattr(layer, "rounding", None)


def apply(layer: Layer, given: Any = None) -> None:
    """Let a layer compute as a QuantizationParameter says.

    Args:
        layer: the layer.
        given: the message; None: the layer's own, if it has one. Widths without steps are for
            training, which finds the steps, and change nothing here.

    Raises:
        NetError: the message cannot be meant, or is of a fork.
    """
    if given is None:
        if layer.rounds_itself or not layer.proto.HasField("quantization_param"):
            return
        given = layer.proto.quantization_param
    if int8.is_given(given):
        return int8.attach(layer, given)
    foreign = [field.name for field, _ in given.ListFields() if field.name not in _OWN]
    if foreign:
        layer.fail(
            f"quantization_param has {foreign[0]}, of a fork of Caffe that rounds in another way, "
            "which is not implemented here. Remove the block for the float32 net"
        )
    bits_in, bits = widths(layer, given)
    value = None
    if given.HasField("step_in") and bits_in != fake_quantize.FLOAT:
        value = ValueRounding(bits_in)
        value.step.fill_(_positive(layer, "step_in", given.step_in))
        if given.zero_in > fake_quantize.top_level(bits_in):
            layer.fail("zero_in is no level of bw_layer_in bits", zero_in=given.zero_in)
        value.zero.fill_(given.zero_in)
    if not given.step_params:
        bits = fake_quantize.FLOAT
    if value is not None or bits != fake_quantize.FLOAT:
        steps = _weight_steps(layer, given)
        attach(layer, LayerRounding(value, bits, layer.output_axis or 0, steps, reads=True))


def widths(layer: Layer, given: Any) -> tuple[int, int]:
    """Return the bits of the value a layer reads and of its weights, 2 to 8 or 32.

    Raises:
        NetError: they are others, or the layer has no weights to multiply by.
    """
    if layer.output_axis is None:
        layer.fail(
            "quantization_param is for layers that multiply by weights: Convolution, "
            "Deconvolution and InnerProduct. Remove it"
        )
    for name in ("bw_layer_in", "bw_params"):
        bits = getattr(given, name)
        if bits not in fake_quantize.BITS and bits != fake_quantize.FLOAT:
            layer.fail(f"{name} must be 2 to 8, or 32 for float32", **{name: bits})
    return given.bw_layer_in, given.bw_params


def channels(layer: Layer) -> int:
    """Return how many steps the weights of a layer have."""
    transposed = layer.type == "InnerProduct" and layer.param.transpose
    axis = 1 if transposed else layer.output_axis or 0
    return layer.blob_shapes[0][axis]


def _weight_steps(layer: Layer, given: Any) -> Tensor:
    steps = [_positive(layer, "step_params", step) for step in given.step_params]
    if len(steps) not in (0, 1, channels(layer)):
        layer.fail(
            f"step_params must be one for each of the {channels(layer)} output channels, or one "
            "for all",
            step_params=len(steps),
        )
    return torch.tensor(steps or [1.0])


def _positive(layer: Layer, name: str, step: float) -> float:
    if not 0 < step < float("inf"):
        layer.fail(f"{name} must be above 0", **{name: step})
    return step
