"""Layers that forks prune: types whose weights have a mask beside them.

Such a layer computes with ``weight * mask`` and ``bias * mask``. Here it is the plain type: the
masks, blobs behind weight and bias, are multiplied into these when a file is read, and the settings
of the fork's own schedule of pruning are left out.

Source: the public schemas and layers of Dynamic Network Surgery (Guo et al. 2016), Auto_pruning,
MCWPrune and Synopsys' fork. Auto_pruning's layers mask the weight only; Synopsys' have one more
blob, with statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import foreign, text
from .blob import Array


class Plain(NamedTuple):
    """What a fork's type is here.

    Attributes:
        type: the plain type.
        param: its block of settings.
        block: the fork's block.
    """

    type: str
    param: str
    block: str


# The first have only their pruning's settings in the fork's block, the others all they have.
TYPES = {
    "CConvolution": Plain("Convolution", "convolution_param", "cconvolution_param"),
    "CInnerProduct": Plain("InnerProduct", "inner_product_param", "cinner_product_param"),
    "CConvolutionDepthwise": Plain(
        "ConvolutionDepthwise", "convolution_param", "cconv_depthwise_param"
    ),
    "SqueezeConvolution": Plain("Convolution", "convolution_param", "squeeze_convolution_param"),
    "SqueezeDeconvolution": Plain(
        "Deconvolution", "convolution_param", "squeeze_convolution_param"
    ),
    "SqueezeInnerProduct": Plain(
        "InnerProduct", "inner_product_param", "squeeze_inner_product_param"
    ),
}
_SQUEEZE = "Squeeze"
# Settings of pruning; Squeeze types have them among the plain type's.
_SCHEDULE = ("gamma", "power", "c_rate", "iter_stop", "weight_mask_filler", "bias_mask_filler")


def has_pruned(net: Any) -> bool:
    """Return whether a net has layers of such types."""
    return any(layer.type in TYPES for layer in net.layer)


def upgrade(net: Any) -> Iterator[str]:
    """Give a net's layers of such types the plain ones, in place; yield messages."""
    found: dict[str, list[str]] = {}
    for layer in net.layer:
        plain = TYPES.get(layer.type)
        if plain is not None:
            found.setdefault(layer.type, []).append(layer.source_line)
            _upgrade(layer, plain)
    for name, places in found.items():
        where = f"{places[0]}: " if places[0] else ""
        more = f" ({len(places) - 1} more)" if len(places) > 1 else ""
        yield (
            f"{where}'{name}' is {TYPES[name].type} whose weights are multiplied by their masks "
            f"when they are read{more}. Its schedule of pruning is left out: zeros stay in a "
            "training whose solver has pruning { keep_zeros: true }"
        )


def _upgrade(layer: Any, plain: Plain) -> None:
    is_whole = layer.type.startswith(_SQUEEZE)
    layer.type = plain.type
    entry = foreign.take(layer, plain.block)
    if entry is None or not is_whole:
        return
    content = f"{plain.param} {foreign.parts(entry)[1]}".replace("\n", " ")
    name, _, line = entry.source_line.rpartition(":")
    text.parse(content, layer, name, int(line or 1))
    for field in _SCHEDULE:
        foreign.take(getattr(layer, plain.param), field)


def without_masks(
    blobs: Sequence[Array | None], legacy: Sequence[bool]
) -> tuple[list[Array | None], list[bool]]:
    """Return a layer's blobs as those of the plain type.

    Args:
        blobs: weight, bias if there is one, the mask of each or of the weight alone.
        legacy: for each blob, what ``LayerWeights`` has.
    """
    weight, *rest = blobs or [None]
    own, masks = ([], rest) if _fits(weight, rest[:1]) else (rest[:1], rest[1:])
    if not _fits(weight, masks[:1]):  # it was not pruned yet
        return list(blobs), list(legacy)
    plain = [_masked(weight, masks[:1]), *(_masked(bias, masks[1:2]) for bias in own)]
    return plain, list(legacy[: len(plain)])


def _fits(blob: Array | None, mask: Sequence[Array | None]) -> bool:
    """Return whether there is a mask and it has a blob's shape."""
    return any(blob is not None and m is not None and m.shape == blob.shape for m in mask)


def _masked(blob: Array | None, mask: Sequence[Array | None]) -> Array | None:
    """Return a blob times its mask, if there is one."""
    return np.multiply(blob, mask[0]) if _fits(blob, mask) else blob  # type: ignore[arg-type]
