"""Fills new parameter blobs, as FillerParameter says.

``n`` below is the fan of the blob: ``count / shape[0]`` (FAN_IN, the default), ``count / shape[1]``
(FAN_OUT) or their mean (AVERAGE). Random numbers come from torch's global generator, which the
solver seeds with ``random_seed``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NetError, did_you_mean
from ..proto import caffe_pb2 as pb


def fill(blob: Tensor, filler: Any) -> None:
    """Fill ``blob`` in place.

    Raises:
        NetError: the filler's type is unknown, or the blob's shape does not suit it.
    """
    function = _FILLERS.get(filler.type)
    if function is None:
        raise NetError(
            f"Unknown filler name: '{filler.type}'. Known: {', '.join(_FILLERS)}."
            f"{did_you_mean(filler.type, _FILLERS)}"
        )
    if filler.sparse < -1:
        raise NetError(f"sparse must be at least 0, or -1 for none. Received: {filler.sparse}")
    if filler.sparse != -1 and filler.type != "gaussian":
        raise NetError(
            f"Sparsity not supported by this Filler: '{filler.type}'; only gaussian does. "
            f"Received: sparse={filler.sparse}"
        )
    with torch.no_grad():
        function(blob, filler)


def _items(blob: Tensor, filler: Any) -> int:
    """Return the size of the first axis: how many units the blob has."""
    if blob.dim() == 0:
        raise NetError(
            f"filler '{filler.type}' needs a blob of at least 1 axis, not a single value"
        )
    return blob.shape[0]


def _fan(blob: Tensor, filler: Any) -> float:
    fan_in = blob.numel() / _items(blob, filler)
    # A blob with one axis has no second one; Caffe uses 1.
    fan_out = blob.numel() / (blob.shape[1] if blob.dim() > 1 else 1)
    norm = filler.variance_norm
    if norm == pb.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if norm == pb.FillerParameter.FAN_OUT else fan_in


def _constant(blob: Tensor, filler: Any) -> None:
    """Every value is ``value``, 0 by default."""
    blob.fill_(filler.value)


def _uniform(blob: Tensor, filler: Any) -> None:
    """U(min, max)."""
    if not (filler.min <= filler.max and math.isfinite(filler.max - filler.min)):
        raise NetError(
            "filler 'uniform': min must not exceed max, and both must be finite. "
            f"Received: min={filler.min}, max={filler.max}"
        )
    blob.uniform_(filler.min, filler.max)


def _gaussian(blob: Tensor, filler: Any) -> None:
    """N(mean, std); with ``sparse`` each input has about that many non-zero outputs."""
    if not filler.std > 0:
        raise NetError(f"filler 'gaussian': std must be above 0. Received: std={filler.std}")
    blob.normal_(filler.mean, filler.std)
    if filler.sparse != -1:
        share = min(1.0, filler.sparse / _items(blob, filler))
        blob.mul_(torch.bernoulli(torch.full_like(blob, share)))


def _positive_unitball(blob: Tensor, filler: Any) -> None:
    """U(0, 1) divided by the sum over each item of the first axis, which then sums to 1."""
    blob.uniform_(0, 1)
    rows = blob.view(_items(blob, filler), -1)
    rows.div_(rows.sum(1, keepdim=True))


def _xavier(blob: Tensor, filler: Any) -> None:
    """U(-a, a), a = sqrt(3 / n). Source: Glorot and Bengio 2010, as Caffe scales it."""
    bound = math.sqrt(3 / _fan(blob, filler))
    blob.uniform_(-bound, bound)


def _msra(blob: Tensor, filler: Any) -> None:
    """N(0, sqrt(2 / n)). Source: He et al. 2015, as Caffe scales it."""
    blob.normal_(0, math.sqrt(2 / _fan(blob, filler)))


def _bilinear(blob: Tensor, _filler: Any) -> None:
    """Every plane is the kernel of bilinear interpolation; for Deconvolution that upsamples."""
    if blob.dim() != 4 or blob.shape[-1] != blob.shape[-2]:
        raise NetError(
            "filler 'bilinear': Blob must be 4 dim. and Filter must be square. "
            f"Received: shape={tuple(blob.shape)}"
        )
    size = blob.shape[-1]
    half = math.ceil(size / 2)
    centre = (size - 1) / (2.0 * half)
    line = 1 - (torch.arange(size, device=blob.device) / half - centre).abs()
    blob.copy_(line[:, None] * line[None, :])


_FILLERS: dict[str, Callable[[Tensor, Any], None]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
