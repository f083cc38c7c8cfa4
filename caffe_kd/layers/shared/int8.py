"""Intel's int8 layers: a plain type whose ``quantization_param`` has scales.

A scale is the number of levels for each unit of value. In phase TEST::

    x' = clamp(round(x * scale_in), 0, 255) / scale_in            -128 to 127: is_negative_input
    w' = clamp(round(w * scale_params), -128, 127) / scale_params        of each output channel
    b' = round(b * scale_in * scale_params) / (scale_in * scale_params)
    y' = clamp(round(y * scale_out), -128, 127) / scale_out         0 to 255 where a ReLU follows

Weights with a scale of 0 are 0. In TRAIN nothing is rounded.

Source: the MKLDNN layers of intel/caffe and its scripts/calibrator.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..base import Layer
from . import fake_quantize

_UNSIGNED, _SIGNED = (0.0, 255.0), (-128.0, 127.0)
_BITS = 8
_FIELDS = frozenset(
    "precision rounding_scheme bw_layer_in bw_layer_out bw_params fl_layer_in fl_layer_out "
    "fl_params scale_in scale_out scale_params is_negative_input".split()
)
_NO_EXPORT = (
    "its values are rounded by Intel's scales. caffe_kd quantize -method GIVEN makes an int8 model "
    "of the net and these scales"
)

Affine = tuple[Tensor, Tensor]


class Int8:
    """What a layer rounds.

    Attributes:
        affine: gives factor and offset of each output channel of the normalisation behind the
            layer, which is part of its weights and bias; None: there is none.
        top: the least and the greatest level of the top; None: it is not rounded.
    """

    def __init__(self, layer: Layer, given: Any) -> None:
        self.layer = layer
        self.scale_in = _scales(layer, given, "in")[0]
        self.scale_params = torch.tensor(_scales(layer, given, "params"))
        self.bottom = _SIGNED if given.is_negative_input else _UNSIGNED
        self.scale_out = _scales(layer, given, "out")[0] if given.bw_layer_out == _BITS else None
        self.top: tuple[float, float] | None = None
        self.affine: Callable[[], Affine] | None = None

    def round_top(self, is_positive: bool) -> None:
        """Round the top too, where the layer has a scale for it."""
        if self.scale_out is not None:
            self.top = _UNSIGNED if is_positive else _SIGNED

    def sum_products(self, operator: Callable[..., Tensor], x: Tensor, *blobs: Tensor) -> Tensor:
        """Do as ``Layer.sum_products``, with rounded values."""
        layer, axis = self.layer, self.layer.output_axis or 0
        weight, bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        if self.affine is not None:
            factor, offset = self.affine()
            weight = weight * fake_quantize.along(factor, axis, weight.dim())
            bias = offset if bias is None else bias * factor + offset
        scales = self.scale_params.to(weight.device)
        weight = _rounded(weight, fake_quantize.along(scales, axis, weight.dim()), _SIGNED)
        rounded = [weight]
        if bias is not None:
            sums = torch.where(scales == 0, 1.0, scales * self.scale_in)
            rounded.append((bias * sums).round() / sums)
        y = Layer.sum_products(
            layer, operator, self._round(x, self.scale_in, self.bottom), *rounded
        )
        if self.top is None or self.scale_out is None:
            return y
        return self._round(y, self.scale_out, self.top)

    @staticmethod
    def _round(x: Tensor, scale: float, levels: tuple[float, float]) -> Tensor:
        return _rounded(x, torch.tensor(scale, device=x.device), levels)


def _rounded(x: Tensor, scale: Tensor, levels: tuple[float, float]) -> Tensor:
    return torch.where(scale == 0, 0.0, (x * scale).round().clamp(*levels) / scale)


def is_given(given: Any) -> bool:
    """Return whether a QuantizationParameter is Intel's."""
    return any(
        getattr(given, f"{kind}_{where}")
        for kind in ("scale", "fl")
        for where in ("in" if kind == "scale" else "layer_in", "params")
    )


def attach(layer: Layer, given: Any) -> None:
    """Let a layer compute by Intel's scales in phase TEST.

    Raises:
        NetError: they cannot be meant, or the type has no weights.
    """
    if layer.output_axis is None:
        layer.fail(
            "quantization_param with scales is for Convolution, Deconvolution and InnerProduct. "
            "Remove it"
        )
    for field, _ in given.ListFields():
        if field.name not in _FIELDS:
            layer.fail(f"quantization_param: {field.name} does not go with Intel's scales")
    if given.precision or given.rounding_scheme:
        layer.fail("precision and rounding_scheme are Ristretto's: Intel's fork has one of each")
    if (given.bw_layer_in, given.bw_params) != (_BITS, _BITS):
        layer.fail(
            "Intel's scales are for bw_layer_in: 8 and bw_params: 8",
            bw_layer_in=given.bw_layer_in,
            bw_params=given.bw_params,
        )
    int8 = Int8(layer, given)
    layer.no_onnx = layer.no_torch = _NO_EXPORT
    layer.onnx = partial(Layer.onnx, layer)  # type: ignore[method-assign]
    if not layer.is_training:
        layer.int8 = int8  # type: ignore[assignment]
        layer.sum_products = int8.sum_products  # type: ignore[method-assign]


def int8_of(layer: Layer) -> Int8 | None:
    """Return what a layer rounds by Intel's scales; None: it has none."""
    return getattr(layer, "int8", None)


def _scales(layer: Layer, given: Any, where: str) -> list[float]:
    """Return the scales of a kind of value: as given, or 2^fl."""
    fractions = getattr(given, "fl_params" if where == "params" else f"fl_layer_{where}")
    scales: Sequence[float] = getattr(given, f"scale_{where}") or [2.0**f for f in fractions]
    counts = (1, _channels(layer)) if where == "params" else (1,)
    if len(scales) not in counts or not all(0 <= s < float("inf") for s in scales):
        wanted = "one for each output channel, or one for all" if where == "params" else "one"
        layer.fail(f"scale_{where} must be {wanted}, 0 or more", **{f"scale_{where}": len(scales)})
    return [float(s) for s in scales]


def _channels(layer: Layer) -> int:
    return int(layer.param.num_output)
