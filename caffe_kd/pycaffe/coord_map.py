"""Maps between the coordinates of a NetSpec's tops, to crop one to fit another.

A map ``(axis, scale, offset)`` says that position ``x`` of a top is at ``scale * x + offset`` of a
bottom, from axis ``axis + 1`` on; scale and offset are numbers or arrays of one per axis. An axis
of None, with scale 1 and offset 0, fits any axis.

Source: pycaffe's coord_map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..core.errors import NetError
from .net_spec import Function, Top, layer_function

CoordMap = tuple[int | None, Any, Any]

IDENTITY: CoordMap = (None, 1, 0)

PASS_THROUGH_LAYERS = (
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp"),
    *("MVN", "Power", "ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"),
)


class UndefinedMapException(NetError):
    """A layer has no map between the coordinates of its top and its bottoms."""


class AxisMismatchException(NetError):
    """Two maps are about different axes."""


class CropError(NetError, AssertionError):
    """One top cannot be cropped to fit another."""


class UnconnectedError(NetError, RuntimeError):
    """No layers with maps lead from one top to another."""


def conv_params(fn: Function) -> tuple[int, Any, Any, Any]:
    """Return axis, stride, dilated kernel size and pad of a layer.

    Raises:
        CropError: the layer gives sizes as ``_h`` and ``_w``.
    """
    params: Mapping[str, Any] = fn.params.get("convolution_param", fn.params)
    legacy = [name for name in params if name.endswith(("_h", "_w"))]
    if legacy:
        raise CropError(
            "cropping does not support legacy _h/_w params: give a list, as kernel_size=[3, 5]. "
            f"Received: {', '.join(legacy)}"
        )
    kernel = np.array(params["kernel_size"], ndmin=1)
    dilation = np.array(params.get("dilation", 1), ndmin=1)
    stride, pad = (np.array(params.get(n, d), ndmin=1) for n, d in (("stride", 1), ("pad", 0)))
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, Any]:
    """Return axis and offset of a Crop layer."""
    params: Mapping[str, Any] = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """Return the map from a layer's tops to its bottoms.

    Raises:
        UndefinedMapException: the layer's type has none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"layers of type {fn.type_name} have no map of coordinates")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """Return the composition of ``base_map`` and then ``next_map``.

    Raises:
        AxisMismatchException: they are about different axes.
    """
    base_axis, base_scale, base_offset = base_map
    next_axis, next_scale, next_offset = next_map
    if None not in (base_axis, next_axis) and base_axis != next_axis:
        raise AxisMismatchException(
            f"maps of different axes cannot be composed. Received: {base_axis}, {next_axis}"
        )
    axis = next_axis if base_axis is None else base_axis
    return axis, base_scale * next_scale, base_scale * next_offset + base_offset


def inverse(coord_map: CoordMap) -> CoordMap:
    """Return the inverse map."""
    axis, scale, offset = coord_map
    return axis, 1 / scale, -offset / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """Return the map from one top's coordinates to another's, through a common ancestor.

    Raises:
        UnconnectedError: the layers between them have no maps.
        AxisMismatchException: their maps are about different axes.
    """
    from_maps = dict(_maps_to_ancestors(top_from))
    for top, to_map in _maps_to_ancestors(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise UnconnectedError(
        "Could not compute map between tops; are they connected by spatial layers?"
    )


def _maps_to_ancestors(top: Top) -> Iterator[tuple[Top, CoordMap]]:
    """Yield a top and what it is computed from, nearest first, each with the map from it to there.

    A Crop's second bottom only gives its size.
    """
    maps = {top: IDENTITY}
    waiting = [top]
    for ancestor in waiting:  # the list grows while it is walked
        yield ancestor, maps[ancestor]
        fn = ancestor.fn
        bottoms = fn.inputs[:1] if fn.type_name == "Crop" else fn.inputs
        try:
            step = coord_map(fn) if bottoms else None
        except UndefinedMapException:
            continue
        for bottom in bottoms:
            if bottom not in maps and step is not None:
                maps[bottom] = compose(maps[ancestor], step)
                waiting.append(bottom)


def crop(top_from: Top, top_to: Top) -> Top:
    """Return a Crop layer's top: ``top_from``, cut to the position and size of ``top_to``.

    Raises:
        CropError: the two differ in scale, or the offset is negative or not a whole number.
        UnconnectedError: the layers between them have no maps.
    """
    axis, scale, offset = coord_map_from_to(top_from, top_to)
    scale, offset = np.array(scale, ndmin=1), np.array(offset, ndmin=1)
    if not (scale == 1).all():
        raise CropError(f"scale mismatch on crop (a = {scale})")
    if not (offset <= 0).all():
        raise CropError(f"cannot crop negative offset (b = {offset})")
    if not (np.round(offset) == offset).all():
        raise CropError(f"cannot crop noninteger offset (b = {offset})")
    whole = [int(-o) for o in np.round(offset)]
    first = 2 if axis is None else axis + 1  # Crop's own default where no layer gives one
    top: Top = layer_function("Crop")(top_from, top_to, crop_param={"axis": first, "offset": whole})
    return top
