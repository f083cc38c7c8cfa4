"""What a sum of losses is divided by: Caffe's ``normalization`` of LossParameter."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..proto import caffe_pb2 as pb

FULL: int = pb.LossParameter.FULL
VALID: int = pb.LossParameter.VALID
BATCH_SIZE: int = pb.LossParameter.BATCH_SIZE
NONE: int = pb.LossParameter.NONE


def normalization_mode(loss_param: Any, default: int = VALID) -> int:
    """Return the normalisation a LossParameter asks for.

    ``normalization`` if it is set; else, if the older ``normalize`` is set, VALID for true and
    BATCH_SIZE for false; else ``default``.

    Source: the LayerSetUp of Caffe's SoftmaxWithLoss and SigmoidCrossEntropyLoss layers. The
    latter's default is BATCH_SIZE.
    """
    if loss_param.HasField("normalization"):
        return int(loss_param.normalization)
    if loss_param.HasField("normalize"):
        return VALID if loss_param.normalize else BATCH_SIZE
    return default


def normalizer(mode: int, outer: int, inner: int, valid: Tensor | None = None) -> float | Tensor:
    """Return the divisor of a sum of losses, at least 1.

    FULL: outer * inner. VALID: the true values of ``valid``. BATCH_SIZE: outer. NONE: 1.

    Args:
        mode: FULL, VALID, BATCH_SIZE or NONE.
        outer: the number of samples (the product of the dims before the class axis).
        inner: the positions of one sample (the product of the dims after it).
        valid: outer * inner booleans in any shape, false where the label is ignored; None when no
            label is, which makes VALID the same as FULL.

    Returns:
        A number; where positions are counted, a scalar tensor on their device, so that the
        CPU does not wait for an accelerator.

    Source: Caffe's ``get_normalizer``.
    """
    if mode == NONE:
        return 1.0
    if mode == BATCH_SIZE:
        return float(max(outer, 1))
    if mode == VALID and valid is not None:
        return valid.sum().clamp(min=1)
    return float(max(outer * inner, 1))


def split_at_axis(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """Return (outer, classes, inner): the products of the dims before, at and after the class axis.

    Args:
        shape: the shape of class scores.
        axis: the class axis, from the front or, if negative, from the back.
    """
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
