"""Ristretto's layers: what they multiply is rounded to few bits, as ``quantization_param`` says.

The rounding to a half goes to the even neighbour, as on a GPU there; the fork's CPU code takes the
one further from 0.

Source: pmgysel/caffe; Gysel et al. 2018, https://arxiv.org/abs/1605.06402.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape

if TYPE_CHECKING:
    from ...export.graph import Graph

_QUANTIZATION = pb.QuantizationParameter
_FRACTION = 16  # fl_layer_in, fl_layer_out and fl_params where they are not given
_MOST_FRACTION = 64
_LAST_FIELD = 12  # of Ristretto; Intel's and ours have higher numbers
_MANTISSA, _EXPONENT = 23, 8  # the bits of float32


class RistrettoLayer(Layer):
    """What the layer types of Ristretto have in common; it goes before the plain type."""

    no_onnx = (
        "its rounding has no form in ONNX here. Write the plain type without quantization_param; "
        "caffe_kd quantize makes an int8 model of the float32 net"
    )
    no_torch = "its rounding has no form as PyTorch code. Write the plain type"
    rounds_itself = True
    output_axis: int | None = None  # the solver's quantization leaves the type alone

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        given = self.proto.quantization_param
        for field, _ in given.ListFields():
            if field.number > _LAST_FIELD:
                self.fail(f"quantization_param: {field.name} is not Ristretto's. Leave it out")
        _check(self, given)
        self.round_values, self.round_weights, self.round_bias = _roundings(given)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        return Layer.onnx(self, graph, bottoms, tops)  # refuses

    @property
    def per_sample(self) -> bool:
        is_random = self.is_training or self._is_stochastic
        return super().per_sample and not is_random

    @property
    def _is_stochastic(self) -> bool:
        given = self.proto.quantization_param
        return self.is_training or bool(given.rounding_scheme == _QUANTIZATION.STOCHASTIC)

    def sum_products(self, operator: Callable[..., Tensor], x: Tensor, *blobs: Tensor) -> Tensor:
        """Do as the plain layer, with rounded weights, and in phase TEST with rounded values."""
        nearest = _stochastic if self._is_stochastic else torch.round
        weight, *bias = blobs
        rounded = [
            _through(weight, self.round_weights(weight, nearest)),
            *(_through(b, self.round_bias(b, nearest)) for b in bias),
        ]
        if self.is_training:
            return super().sum_products(operator, x, *rounded)
        given = self.proto.quantization_param
        x = _through(x, self.round_values(x, nearest, given.bw_layer_in, given.fl_layer_in))
        y = super().sum_products(operator, x, *rounded)
        return _through(y, self.round_values(y, nearest, given.bw_layer_out, given.fl_layer_out))


_Nearest = Callable[[Tensor], Tensor]


def fixed_point(x: Tensor, nearest: _Nearest, bits: int, fraction: int) -> Tensor:
    """Round to multiples of ``2^-fraction`` that ``bits`` bits in two's complement can hold."""
    step, top = 2.0**-fraction, 2.0 ** (bits - 1)
    return nearest(x.clamp(-top * step, (top - 1) * step) / step) * step


def minifloat(x: Tensor, nearest: _Nearest, mantissa_bits: int, exponent_bits: int) -> Tensor:
    """Round to ``+-(1 + m / 2^mantissa_bits) 2^e``, e of so many bits; smaller values to 0."""
    bias, top = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
    levels = 2.0**mantissa_bits
    fraction, exponent = torch.frexp(x.abs())  # in [0.5, 1)
    mantissa = nearest((2 * fraction - 1) * levels)
    exponent = exponent - 1 + bias
    mantissa = torch.where(exponent > top, levels - 1, mantissa)
    scale = torch.exp2((exponent.clamp(max=top) - bias).to(x.dtype))
    rounded = x.sign() * (1 + mantissa / levels) * scale
    return torch.where((exponent < 0) | (x == 0), 0.0, rounded)


def power_of_two(x: Tensor, nearest: _Nearest, low: int, high: int) -> Tensor:
    """Round to ``+-2^e`` with a whole e from ``low`` to ``high``; 0 becomes ``2^low``."""
    exponent = nearest(x.abs().log2()).clamp(low, high)
    return torch.where(x < 0, -1.0, 1.0) * torch.exp2(exponent)


def _stochastic(x: Tensor) -> Tensor:
    """Round up with the probability of the fraction, else down."""
    return (x + torch.rand_like(x)).floor()


class _Through(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    result: Tensor = _Through.apply(x, rounded.detach())  # type: ignore[no-untyped-call]
    return result


def _roundings(given: Any) -> tuple[Callable[..., Tensor], ...]:
    """Return what rounds values, given their bits and fractions, weights, and the bias."""

    def values(x: Tensor, nearest: _Nearest, bits: int, fraction: Any) -> Tensor:
        return fixed_point(x, nearest, bits, _fraction(fraction))

    def fixed_weights(x: Tensor, nearest: _Nearest) -> Tensor:
        return fixed_point(x, nearest, given.bw_params, _fraction(given.fl_params))

    def small(x: Tensor, nearest: _Nearest, *_: Any) -> Tensor:
        return minifloat(x, nearest, given.mant_bits, given.exp_bits)

    def power(x: Tensor, nearest: _Nearest) -> Tensor:
        return power_of_two(x, nearest, given.exp_min, given.exp_max)

    def same(x: Tensor, nearest: _Nearest) -> Tensor:
        return x

    if given.precision == _QUANTIZATION.MINIFLOAT:
        return small, small, small
    if given.precision == _QUANTIZATION.INTEGER_POWER_OF_2_WEIGHTS:
        return values, power, same
    return values, fixed_weights, fixed_weights


def _fraction(given: Any) -> int:
    return int(given[0]) if given else _FRACTION


def _check(layer: Layer, given: Any) -> None:
    """Refuse widths that cannot be meant."""
    for name in ("bw_layer_in", "bw_layer_out", "bw_params"):
        if not 1 <= getattr(given, name) <= 32:
            layer.fail(f"{name} must be 1 to 32", **{name: getattr(given, name)})
    for name in ("fl_layer_in", "fl_layer_out", "fl_params"):
        values = list(getattr(given, name))
        if len(values) > 1 or any(abs(v) > _MOST_FRACTION for v in values):
            layer.fail(f"{name} is one number from -64 to 64", **{name: values})
    if not (1 <= given.mant_bits <= _MANTISSA and 1 <= given.exp_bits <= _EXPONENT):
        layer.fail(
            "mant_bits must be 1 to 23 and exp_bits 1 to 8",
            mant_bits=given.mant_bits,
            exp_bits=given.exp_bits,
        )
    if not -126 <= given.exp_min <= given.exp_max <= 127:
        layer.fail(
            "exp_min must be at least -126 and not above exp_max, that at most 127",
            exp_min=given.exp_min,
            exp_max=given.exp_max,
        )
