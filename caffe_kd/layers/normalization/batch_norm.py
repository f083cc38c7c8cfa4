"""BatchNorm: normalises each channel, without the learned scale that Scale adds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.multi_tensor import foreach
from ..base import Shape, register
from ..shared.batch_statistics import BatchStatistics

if TYPE_CHECKING:
    from ...export.graph import Graph


def normalize_batch(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(x - mean) / sqrt(var + eps)``, and the batch's mean and unbiased variance.

    ``var`` in the formula is the biased one. Both statistics have no gradient and one value for
    each channel of x (N, C, any axes...); of a single value the variance is 0.
    """
    channels = x.shape[1]
    # At momentum 1 torch leaves the batch's mean and unbiased variance here. Zeros, not empty: it
    # computes 0 * before + 1 * batch, and uninitialized memory may hold NaN.
    mean, var = x.new_zeros(channels), x.new_zeros(channels)
    if eps == 0:  # torch refuses; a channel of one value becomes NaN, as in Caffe
        return _normalize_exactly(x)
    if x.numel() == channels:  # torch refuses: the variance is 0, and so is every gradient
        return (x - x) / math.sqrt(eps), x.detach().reshape(channels), var
    y = F.batch_norm(x, mean, var, training=True, momentum=1.0, eps=eps)
    return y, mean, var


def _normalize_exactly(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    centred = x - x.mean(axes, keepdim=True)
    var = centred.square().mean(axes, keepdim=True)
    values = x.numel() // x.shape[1]
    unbiased = var.detach().flatten() * (values / max(values - 1, 1))
    return centred / var.sqrt(), x.detach().mean(axes), unbiased


@register("BatchNorm", param="batch_norm_param")
class BatchNorm(BatchStatistics):
    """Subtract each channel's mean and divide by its standard deviation.

    ``y = (x - mean) / sqrt(var + eps)``. In TRAIN mean and (biased) variance are the batch's, m
    values per channel, and the forward pass also updates the blobs, with f the
    moving_average_fraction::

        scale = f scale + 1;  mean = f mean + batch mean;  var = f var + m / (m - 1) batch var

    In TEST, or with ``use_global_stats: true``, they are ``mean / scale`` and ``var / scale``, 0
    while scale is 0.

    Bottom, top: (N, C, any axes...).
    Blobs: mean (C), var (C), scale (1), zeros at first. They are not learned: lr_mult is 0 always.

    Raises:
        NetError: the bottom has no axis of channels, a ``param`` gives a blob another lr_mult than
            0, or eps is negative.

    Source: Ioffe and Szegedy 2015; Caffe's BatchNormLayer.

    Sample::

        layer {
          name: "bn1"
          type: "BatchNorm"
          bottom: "conv1"  # (4, 8, 4, 4)
          top: "bn1"  # (4, 8, 4, 4)
          batch_norm_param { moving_average_fraction: 0.99 eps: 1e-5 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        if len(shape) < 2:
            fact = f"axis 1 out of range for {len(shape)}-D Blob: it holds the channels"
            self.fail(fact, bottom=shape)
        for index, spec in enumerate(self.proto.param):
            if spec.lr_mult != 0:
                self.fail(
                    "Cannot configure batch normalization statistics as layer parameters: "
                    f"lr_mult of param {index} must be 0",
                    lr_mult=spec.lr_mult,
                )
        param = self.param
        if not param.eps >= 0:
            self.fail("eps must be at least 0", eps=param.eps)
        given = param.HasField("use_global_stats")
        self.use_global_stats = param.use_global_stats if given else not self.is_training
        self.channels = shape[1]
        for blob_shape in ((self.channels,), (self.channels,), (1,)):
            self.add_blob(blob_shape)
        for blob in self.parameters_in_order:
            blob.requires_grad_(False)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        if shape[1] != self.channels:
            self.fail("the bottom's channels may not change", bottom=shape, channels=self.channels)
        return bottom_shapes

    @property
    def per_sample(self) -> bool:
        return self.use_global_stats

    def forward(self, x: Tensor) -> Tensor:
        eps = self.param.eps
        if self.use_global_stats:
            mean, var = self.running_stats()
            return F.batch_norm(x, mean, var, eps=eps)
        y, mean, var = normalize_batch(x, eps)
        self.take_batch(mean, var)
        return y

    @property
    def window(self) -> float:
        fraction = self.param.moving_average_fraction
        return 1 / (1 - fraction) if fraction < 1 else math.inf

    @property
    def eps(self) -> float:
        return float(self.param.eps)

    def running_stats(self) -> tuple[Tensor, Tensor]:
        mean, var, scale = self.blobs
        factor = torch.where(scale == 0, 0.0, scale.reciprocal())
        return mean * factor, var * factor

    @torch.no_grad()
    def set_running_stats(self, mean: Tensor, var: Tensor, batches: int) -> None:
        # As after so many forward passes, so that training can continue from them.
        fraction = self.param.moving_average_fraction
        scale = sum(fraction**i for i in range(batches))
        for blob, value in zip(self.blobs, (mean * scale, var * scale, scale), strict=True):
            blob.copy_(torch.as_tensor(value))

    @torch.no_grad()
    def update_running_stats(self, mean: Tensor, var: Tensor) -> None:
        blobs = self.blobs
        foreach("mul_", blobs, self.param.moving_average_fraction)
        foreach("add_", blobs[:2], [mean, var])
        blobs[2].add_(1)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if not self.use_global_stats:
            return super().onnx(graph, bottoms, tops)
        mean, var = (s.detach().cpu().numpy() for s in self.running_stats())
        constants = {"scale": 1 + 0 * mean, "bias": 0 * mean, "mean": mean, "var": var}
        inputs = [graph.constant(value, name) for name, value in constants.items()]
        graph.node("BatchNormalization", [*bottoms, *inputs], tops, epsilon=self.param.eps)
        return None
