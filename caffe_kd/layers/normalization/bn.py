"""BN: batch normalisation with factor and offset in one layer, as forks of Caffe have it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import ExportError
from ...proto import caffe_pb2 as pb
from ..base import Shape, Tops, register
from ..shared.batch_statistics import BatchStatistics
from .batch_norm import normalize_batch

if TYPE_CHECKING:
    from ...export.graph import Graph

_SEGNET_FIELDS = ("scale_filler", "shift_filler", "bn_mode")
_RUNNING_FIELDS = ("slope_filler", "bias_filler", "momentum", "eps", "frozen")
_SEGNET_EPS = 1e-9


@register("BN", param="bn_param", tops=(1, 3), origin="yjxiong, PSPNet, SegNet")
class BN(BatchStatistics):
    """Normalise each channel, multiply it by a learned factor and add a learned offset.

    ``y = slope (x - mean) / sqrt(var + eps) + bias``. Two families of forks share the name:

    * yjxiong's and PSPNet's. In TRAIN mean and (biased) variance are the batch's, and the forward
      pass updates the running ones: ``running = momentum running + (1 - momentum) batch's``. In
      TEST, or with ``frozen: true``, they are the running ones; frozen, nothing here learns.
    * SegNet's, recognised by ``scale_filler``, ``shift_filler`` or ``bn_mode``. LEARN (the default)
      takes the batch's statistics in TEST too, with an eps of 1e-9; INFERENCE is ``y = scale x +
      shift``, for blobs that the statistics have been put into.

    Bottom: (N, C, any axes...). Top: the same shape. SegNet's LEARN may have two more, without
    gradient: the batch's mean and biased variance, each (1, C, 1, 1).
    Blobs, each (1, C, 1, 1): slope, bias, running mean, running variance; or SegNet's scale and
    shift. Unfilled they are 0, also the slope; the running variance of a frozen layer is 1. The
    running statistics never learn, whatever lr_mult says.

    Raises:
        NetError: fields of both families are given, the bottom has fewer than 2 axes, eps is not
            above 0, momentum is outside 0..1, or there are more tops than the kind has.

    Source: yjxiong/caffe and hszhao/PSPNet (their CPU code; NVIDIA's library keeps the unbiased
    variance); alexgkendall/caffe-segnet. Ioffe and Szegedy 2015.

    Sample::

        layer {
          name: "bn1"
          type: "BN"
          bottom: "conv1"  # (4, 8, 4, 4)
          top: "bn1"  # (4, 8, 4, 4)
          bn_param { slope_filler { value: 1 } bias_filler { value: 0 } momentum: 0.9 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        param = self.param
        segnet, running = (
            [name for name in names if param.HasField(name)]
            for names in (_SEGNET_FIELDS, _RUNNING_FIELDS)
        )
        if segnet and running:
            self.fail(
                f"{', '.join(segnet)} are SegNet's and {', '.join(running)} another fork's; use "
                "the fields of one"
            )
        if len(shape) < 2:
            self.fail("the bottom must have at least 2 axes", bottom=shape)
        self.channels = shape[1]
        self.is_segnet = bool(segnet)
        self.is_affine = self.is_segnet and param.bn_mode == pb.BNParameter.INFERENCE
        if len(self.proto.top) > 1 and (not self.is_segnet or self.is_affine):
            self.fail("takes 1 top blob(s); only SegNet's LEARN has more", tops=len(self.proto.top))
        if self.is_segnet:
            self.use_global_stats = False
            self._add_blobs(param.scale_filler, param.shift_filler)
        else:
            self.use_global_stats = param.frozen or not self.is_training
            self._setup_running()

    def _add_blobs(self, *fillers: object) -> None:
        for filler in fillers:
            self.add_blob((1, self.channels, 1, 1), filler)

    def _setup_running(self) -> None:
        param = self.param
        if not param.eps > 0:
            self.fail("eps must be above 0", eps=param.eps)
        if not 0 <= param.momentum <= 1:
            self.fail("momentum must be in 0..1", momentum=param.momentum)
        variance = pb.FillerParameter(value=1 if param.frozen else 0)
        self._add_blobs(param.slope_filler, param.bias_filler, None, variance)
        for blob in self.parameters_in_order[0 if param.frozen else 2 :]:
            blob.requires_grad_(False)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,) = bottom_shapes
        if shape[1] != self.channels:
            self.fail("the bottom's channels may not change", bottom=shape, channels=self.channels)
        statistics: Shape = (1, self.channels, 1, 1)
        return [shape, statistics, statistics][: len(self.proto.top)]

    @property
    def per_sample(self) -> bool:
        return self.use_global_stats or self.is_affine

    def forward(self, x: Tensor) -> Tops:
        if self.use_global_stats:
            slope, bias, mean, var = (blob.flatten() for blob in self.blobs)
            return F.batch_norm(x, mean, var, slope, bias, eps=self.param.eps)
        slope, bias = (b.reshape(-1, *[1] * (x.dim() - 2)) for b in self.blobs[:2])
        if self.is_affine:
            return x * slope + bias
        y, mean, var = normalize_batch(x, _SEGNET_EPS if self.is_segnet else self.param.eps)
        values = x.numel() // self.channels
        var = var * ((values - 1) / values)
        y = y * slope + bias
        if not self.is_segnet:
            self.take_batch(mean, var)
        tops = (y, mean.reshape(1, -1, 1, 1), var.reshape(1, -1, 1, 1))[: len(self.proto.top)]
        return tops if len(tops) > 1 else y

    @property
    def updates_running_stats(self) -> bool:
        return not (self.use_global_stats or self.is_segnet)

    @property
    def window(self) -> float:
        return 1 / (1 - self.param.momentum) if self.param.momentum < 1 else math.inf

    @property
    def eps(self) -> float:
        return float(self.param.eps)

    def running_stats(self) -> tuple[Tensor, Tensor]:
        mean, var = (blob.detach().flatten() for blob in self.blobs[2:])
        return mean, var

    @torch.no_grad()
    def set_running_stats(self, mean: Tensor, var: Tensor, batches: int) -> None:
        for blob, value in zip(self.blobs[2:], (mean, var), strict=True):
            blob.copy_(value.reshape(blob.shape))

    @torch.no_grad()
    def update_running_stats(self, mean: Tensor, var: Tensor) -> None:
        share = 1 - self.param.momentum
        for blob, value in zip(self.blobs[2:], (mean, var), strict=True):
            blob.lerp_(value.reshape(blob.shape), share)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        if self.is_affine:
            rank = len(graph.shape(bottoms[0]))
            scale = graph.constant(self._line(0, rank), "scale")
            shift = graph.constant(self._line(1, rank), "shift")
            scaled = graph.temporary("scaled")
            graph.node("Mul", [bottoms[0], scale], [scaled])
            graph.node("Add", [scaled, shift], tops)
            return
        if not self.use_global_stats:
            raise ExportError(
                f"layer '{self.name}' (BN): bn_mode: LEARN takes the statistics of the batch, so "
                "that a sample's output depends on the others. Put the statistics into scale and "
                "shift, as SegNet's compute_bn_statistics.py does, and write bn_mode: INFERENCE",
                self.proto.source_line or None,
            )
        names = ("slope", "bias", "mean", "var")
        inputs = [graph.constant(self._line(i, 2), name) for i, name in enumerate(names)]
        graph.node("BatchNormalization", [*bottoms, *inputs], tops, epsilon=self.param.eps)

    def _line(self, index: int, rank: int) -> object:
        """Return a blob as an array of C values and an axis of 1 for each axis behind them."""
        blob = self.blobs[index].detach().cpu()
        return blob.reshape(-1, *[1] * (rank - 2)).numpy()
