"""How each layer type treats channels: the one place that says it.

A rule takes a ``Visit`` and returns where each top has its channels. A type without a rule keeps
all that it reads, with a line that says so; a new layer type needs a rule only to be pruned past::

    @rule("HardSigmoid")
    def hard_sigmoid(visit):
        return [visit.bottom()]

Channels are removed, not set to 0, so a rule asks one question: does what is left of the top
depend on the removed channels of the bottom? If it does, in whatever small way, they are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..core.errors import CaffeKDError
from .channels import Ids, Value, gathered
from .visit import Kept, Size, Visit

Tops = Sequence[Value | None]
Rule = Callable[[Visit], Tops]

_RULES: dict[str, Rule] = {}


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of some layer types."""

    def decorate(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(types, function))
        return function

    return decorate


def rule_of(kind: str) -> Rule:
    """Return the rule of a layer type."""
    return _RULES.get(kind, _unknown)


def _unknown(_visit: Visit) -> Tops:
    raise Kept("how the type treats channels is not known")


# ---- layers with filters, which make channels


@rule("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
def _convolution(visit: Visit) -> Tops:
    layer = visit.layer
    value = visit.united(axis=layer.channel_axis)
    if _is_depthwise(layer):
        made = np.repeat(value.ids, layer.param.num_output // layer.channels)
        visit.count("group", value.ids)
    else:
        made = visit.make(layer.param.num_output)
        _tie_groups(visit, made)
        visit.use(0, 1, _tie_groups(visit, value.ids))
    visit.filter(0, made)
    return _convolution_tops(visit, value, made)


@rule("Deconvolution")
def _deconvolution(visit: Visit) -> Tops:
    layer = visit.layer
    value = visit.united(axis=layer.channel_axis)
    if _is_depthwise(layer):
        made = np.repeat(value.ids, layer.param.num_output // layer.channels)
        visit.count("group", value.ids)
        visit.filter(0, value.ids)
    else:
        made = visit.make(layer.param.num_output)
        _tie_groups(visit, value.ids)
        visit.use(0, 0, value.ids)
        visit.filter(1, _tie_groups(visit, made))
    return _convolution_tops(visit, value, made)


def _is_depthwise(layer: Any) -> bool:
    """Return whether each channel has filters of its own."""
    return bool(layer.param.group == layer.channels > 1)


def _tie_groups(visit: Visit, ids: Ids) -> Ids:
    """Let groups stay equally large, by tying their channels; return those of the first."""
    rows = ids.reshape(visit.layer.param.group, -1)
    for row in rows[1:]:
        visit.tie(rows[0], row)
    return np.ascontiguousarray(rows[0])


def _convolution_tops(visit: Visit, value: Value, made: Ids) -> Tops:
    visit.use(1, 0, made)
    visit.count("num_output", made)
    return [Value(value.axis, made)] * len(visit.top_shapes)


@rule("InnerProduct")
def _inner_product(visit: Visit) -> Tops:
    layer, (value,) = visit.layer, visit.bottoms
    transposed = layer.param.transpose
    if value is not None and value.axis < layer.start:
        visit.lock(value, "it multiplies other axes than that of the channels")
    elif value is not None:
        shape = visit.shapes[0]
        vector = np.broadcast_to(value.spread(shape), shape)[(0,) * layer.start]
        visit.use(0, 0 if transposed else 1, vector.reshape(-1))
    made = visit.make(layer.param.num_output)
    visit.filter(1 if transposed else 0, made)
    visit.use(1, 0, made)
    visit.count("num_output", made)
    return [Value(layer.start, made)]


@rule("Embed")
def _embed(visit: Visit) -> Tops:
    visit.lock(visit.bottoms[0])
    made = visit.make(visit.layer.param.num_output)
    visit.filter(1, made)
    visit.use(1, 0, made)
    visit.count("num_output", made)
    return [Value(len(visit.shapes[0]), made)]


# ---- layers that work on each channel alone


@rule("AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "ReLU6")
@rule("Sigmoid", "Split", "Swish", "TanH", "Threshold")
def _each_value(visit: Visit) -> Tops:
    return [visit.bottoms[0]] * len(visit.top_shapes)


@rule("Interp", "Pooling")
def _each_plane(visit: Visit) -> Tops:
    return [visit.bottom(axis=1)] * len(visit.top_shapes)


@rule("Silence", "PriorBox")
def _reads_no_channels(visit: Visit) -> Tops:
    return [None] * len(visit.top_shapes)


@rule("LRN")
def _lrn(visit: Visit) -> Tops:
    if not visit.layer.within:
        raise Kept("norm_region: ACROSS_CHANNELS makes each channel depend on its neighbours")
    return [visit.bottom(axis=1)]


@rule("MVN")
def _mvn(visit: Visit) -> Tops:
    if visit.layer.param.across_channels:
        raise Kept("with across_channels each channel depends on all")
    return [visit.bottom(axis=1)]


@rule("Softmax")
def _softmax(visit: Visit) -> Tops:
    (value,) = visit.bottoms
    if value is not None and value.axis == visit.layer.class_axis:
        raise Kept
    return [value]


@rule("BatchNorm", "BN")
def _batch_norm(visit: Visit) -> Tops:
    value = visit.bottom(axis=1)
    shapes = visit.layer.blob_shapes
    if visit.layer.type == "BN":
        visit.gain(1, value.ids)
    for blob, shape in enumerate(shapes):  # the last of BatchNorm's is a number
        if len(value.ids) in shape[:2]:
            visit.use(blob, 1 if len(shape) > 1 else 0, value.ids)
    return [value] * len(visit.top_shapes)


@rule("PReLU")
def _prelu(visit: Visit) -> Tops:
    value = visit.bottom(axis=1)
    if not visit.layer.param.channel_shared:
        visit.use(0, 0, value.ids)
    return [value]


@rule("Scale", "Bias")
def _scale(visit: Visit) -> Tops:
    layer, value = visit.layer, visit.bottom()
    axis = value.axis - layer.start  # of the operand
    if len(visit.bottoms) == 2:
        operand = visit.bottoms[1]
        covers = 0 <= axis < len(visit.shapes[1])
        if operand is not None and operand.axis == axis:
            visit.tie(value.ids, operand.ids)
        elif covers:
            raise Kept("its bottoms have their channels along different axes")
        else:
            visit.lock(operand, "it multiplies other axes than that of the channels")
    elif layer.type == "Scale" and 0 <= axis < len(layer.blob_shapes[0]):
        visit.gain(axis, value.ids)
    for blob, shape in enumerate(layer.blob_shapes):
        if 0 <= axis < len(shape):
            visit.use(blob, axis, value.ids)
    return [value]


# ---- layers that combine blobs channel by channel


@rule("Eltwise")
def _eltwise(visit: Visit) -> Tops:
    return [visit.united()]


@rule("Axpy", "Upsample")
def _united(visit: Visit) -> Tops:
    return [visit.united(axis=1)]


@rule("Crop")
def _crop(visit: Visit) -> Tops:
    value, reference = visit.bottoms
    for other in (value, reference):
        if other is not None and other.axis >= visit.layer.first_axis:
            raise Kept("it crops along the axis of the channels")
    return [value]


@rule("BatchReindex", "ROIPooling")
def _other_samples(visit: Visit) -> Tops:
    visit.lock(visit.bottoms[1])
    return [visit.bottom(axis=1)]


@rule("Concat")
def _concat(visit: Visit) -> Tops:
    axis = visit.layer.concat_axis
    if any(value is None or value.axis != axis for value in visit.bottoms):
        return [visit.united()]
    return [Value(axis, np.concatenate([visit.bottom(i).ids for i in range(len(visit.bottoms))]))]


@rule("Slice")
def _slice(visit: Visit) -> Tops:
    value, axis = visit.bottom(), visit.layer.slice_axis
    if value.axis != axis:
        return [value] * len(visit.top_shapes)
    ends = itertools.accumulate(shape[axis] for shape in visit.top_shapes)
    pieces = np.split(value.ids, list(ends)[:-1])

    def set_points(param: Any, size: Size) -> None:
        sizes = [size(piece) for piece in pieces]
        if param.slice_point or len(set(sizes)) > 1:
            param.slice_point[:] = list(itertools.accumulate(sizes))[:-1]

    visit.edit("slice_point", pieces, set_points)
    return [Value(axis, piece) for piece in pieces]


# ---- layers that put values elsewhere


@rule("Flatten", "Permute", "Tile")
def _rearranged(visit: Visit) -> Tops:
    """Rearrange the channels' numbers as the layer does values."""
    value, shape = visit.bottom(), visit.shapes[0]
    for batch in (1, shape[0]):  # a Reshape may name the batch's size
        spread = np.broadcast_to(value.spread(shape), (batch, *shape[1:])).copy()
        try:
            top = visit.layer.forward(torch.from_numpy(spread)).numpy()
        except CaffeKDError:
            continue
        found = gathered(top) if len(top) == batch else None
        if found is not None:
            return [found]
    raise Kept("behind it the channels do not lie along one axis")


@rule("Reshape")
def _reshape(visit: Visit) -> Tops:
    (top,) = _rearranged(visit)
    assert top is not None
    layer, shape = visit.layer, visit.top_shapes[0]
    start = (
        layer.param.axis if layer.param.axis >= 0 else len(visit.shapes[0]) + layer.param.axis + 1
    )
    index = top.axis - start

    def set_dim(param: Any, size: Size) -> None:
        if 0 <= index < len(param.shape.dim) and param.shape.dim[index] > 0:
            param.shape.dim[index] = size(top.ids)

    copied = [i for i, dim in enumerate(layer.dims) if dim == 0 and start + i != top.axis]
    if any(start + i == visit.bottom().axis for i in copied):
        raise Kept("a 0 in its shape copies the number of channels to another axis")
    assert shape[top.axis] == len(top.ids)
    visit.edit("shape", [top.ids], set_dim)
    return [top]


@rule("ShuffleChannel")
def _shuffle(visit: Visit) -> Tops:
    value = visit.bottom(axis=1)
    rows = value.ids.reshape(visit.layer.group, -1)
    _tie_groups(visit, value.ids)
    return [Value(1, np.ascontiguousarray(rows.T.reshape(-1)))]


# ---- layers that need all channels, as anyone would expect


@rule("Accuracy", "ArgMax", "DetectionOutput", "HDF5Output", "ClassMap", "TeacherEnsemble")
@rule("SoftmaxTemperature", "SoftmaxWithTemperature")
def _needs_all(_visit: Visit) -> Tops:
    raise Kept
