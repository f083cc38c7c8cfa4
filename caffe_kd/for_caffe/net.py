"""Rewrites a composed net so that BVLC Caffe trains it, with ``caffe_kd.plugin``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from ..core.errors import NetError, WeightsError
from ..layers import layer_types
from ..net.queries import blob_count
from ..proto import caffe_pb2 as pb
from ..proto.binary import LayerWeights
from ..solver.building import prefixed
from ..solver.plan import TrainingPlan
from . import FIRST_OWN_FIELD
from .databases import Databases, find_for, needs_database
from .layers import error, translated

# The greatest field number of LayerParameter in BVLC Caffe, and a field of forks that is supported.
_LAST_OF_LAYER = 148
_OF_FORKS = ("SoftmaxParameter.temperature",)

# Types that always have parameters, and those whose first blob has more than one axis, which
# early file formats do not distinguish from one with leading dims of 1.
_WITH_BLOBS = (
    "Convolution",
    "Deconvolution",
    "InnerProduct",
    "Embed",
    "PReLU",
    "BatchNorm",
    "LSTM",
)
_LEGACY_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2}

# Fields with a file's name, by their block.
_FILES = (
    ("data_param", "source"),
    ("data_param", "mean_file"),
    ("transform_param", "mean_file"),
    ("image_data_param", "source"),
    ("image_data_param", "mean_file"),
    ("window_data_param", "source"),
    ("window_data_param", "mean_file"),
    ("hdf5_data_param", "source"),
    ("infogain_loss_param", "source"),
)

# What to do about a field or value that BVLC Caffe lacks.
_INSTEAD = {
    **{
        f"DataParameter.{name}": "Give -databases FOLDER, which writes the samples as an LMDB"
        for name in ("backend", "first", "count", "leave_out")
    },
    "TransformationParameter.jitter": "It cannot shift images at random: drop it, or train here",
    "LayerParameter.quantization_param": "Drop it: it computes in float32",
    "LayerParameter.loss_weight_schedule": "Drop it, and give a fixed loss_weight",
}


def weights_for_caffe(plan: TrainingPlan, net: Any) -> dict[str, list[np.ndarray | None]]:
    """Return the teachers' weights by the names that their layers have in a composed net.

    Layers of the student that start from a teacher's weights are included. Other layers are not,
    since BVLC Caffe refuses a file in which a layer of the net has no blobs.

    Raises:
        WeightsError: the file of a teacher lacks a layer that has parameters.
    """
    found = [w for teacher in plan.teachers for w in prefixed(teacher.name, teacher.layers)]
    found += [dataclasses.replace(i.weights, name=i.to) for i in plan.injections]
    given = {w.name: w for w in found}
    weights = {}
    for layer in net.layer:
        of = given.get(layer.name)
        if of is not None and of.blobs:
            weights[layer.name] = [_in_own_axes(layer.type, i, of) for i in range(len(of.blobs))]
        if layer.name.partition("/")[0] in plan.frozen_names and layer.type in _WITH_BLOBS:
            if not weights.get(layer.name):
                raise WeightsError(
                    f"layer '{layer.name}' ({layer.type}): the teacher's file has no weights for "
                    "it. Give the file that was trained with this net",
                    layer.source_line or None,
                )
    return weights


def layers_with(net: Any, weights: Collection[str]) -> Any:
    """Return a net with only the layers that have weights, for writing them to a file."""
    kept = pb.NetParameter(name=net.name)
    kept.layer.extend(layer for layer in net.layer if layer.name in weights)
    return kept


def _in_own_axes(kind: str, index: int, weights: LayerWeights) -> np.ndarray | None:
    """Return a blob without the leading axes that old files add to make four."""
    blob = weights.blobs[index]
    if blob is None or not weights.legacy[index]:
        return blob
    axes = _LEGACY_AXES.get(kind, 1) if index == 0 else 1
    shape = blob.shape[-axes:]
    return blob.reshape(shape) if blob.size == math.prod(shape) else blob


def net_for_caffe(
    net: Any, ema_teachers: Collection[str] = (), databases: Databases | None = None
) -> Any:
    """Return a composed net with this package's own layers replaced by Python layers of the plugin.

    Args:
        net: the NetParameter; filtered for a phase or not.
        ema_teachers: the teachers that are averages (EMA) of the student.
        databases: writes LMDBs of samples that BVLC Caffe cannot read, if there is no other
            problem; None: such samples are a problem.

    Raises:
        DataError: samples cannot be read, or a database cannot be written.
        NetError: something in it is not BVLC Caffe's and the plugin has nothing for it; the
            message lists them all.
    """
    changed = pb.NetParameter()
    changed.CopyFrom(net)
    del changed.layer[:]
    caffe_types = {name for name, layer in layer_types().items() if layer.origin == "Caffe"}
    problems = [
        f"the teacher '{name}' is an average of the student (ema), which BVLC Caffe does not "
        "compute. Train here"
        for name in ema_teachers
    ]
    for given in net.layer:
        if given.name.partition("/")[0] in ema_teachers:
            continue
        layer = pb.LayerParameter()
        layer.CopyFrom(given)
        layer.bottom[:] = [bottom for bottom in given.bottom if bottom]  # "" is a blob name there
        _freeze(layer)
        _locate_files(layer)
        try:
            ours = translated(layer)
        except NetError as problem:
            problems.append(str(problem))
            continue
        changed.layer.append(ours)
        problems += _problems(ours, ours.type in caffe_types, databases is not None)
    if problems:
        raise NetError("\n  ".join(["BVLC Caffe cannot train this net:", *problems]))
    for layer in changed.layer:
        if databases is not None and needs_database(layer):
            databases.use(layer)
    return changed


def _freeze(layer: Any) -> None:
    """Replace ``frozen`` by BVLC Caffe's equivalent, learning rates of 0."""
    if not layer.frozen:
        layer.ClearField("frozen")
        return
    count = 1 if layer.type == "Parameter" else blob_count(layer)
    for index in range(max(count, len(layer.param))):
        spec = layer.param[index] if index < len(layer.param) else layer.param.add()
        spec.lr_mult = spec.decay_mult = 0
    layer.ClearField("frozen")


def _locate_files(layer: Any) -> None:
    """Make paths relative to the working directory, as in BVLC Caffe, instead of the prototxt."""
    for block, name in _FILES:
        param = getattr(layer, block)
        path = getattr(param, name) if param.HasField(name) else ""
        if path and (found := find_for(layer, path)).exists():
            setattr(param, name, str(found))


def _problems(layer: Any, is_caffe_type: bool, has_databases: bool) -> list[str]:
    """Return a layer's features that BVLC Caffe lacks, and what to do about them."""
    if layer.type == "Data" and len(layer.top) > 2:
        return [str(error(layer, "BVLC Caffe does not number the samples. Drop the third top"))]
    if has_databases and needs_database(layer):
        checked = pb.LayerParameter()
        checked.CopyFrom(layer)
        checked.ClearField("data_param")
        layer = checked
    if not is_caffe_type:
        return [str(error(layer, "neither BVLC Caffe nor the plugin has this type. Train here"))]
    return [str(error(layer, fact)) for fact in _own_fields(layer)]


def _own_fields(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name == "LayerParameter.source_line":
            continue
        last = (
            _LAST_OF_LAYER if message.DESCRIPTOR.name == "LayerParameter" else FIRST_OWN_FIELD - 1
        )
        advice = f" {_INSTEAD[name]}." if name in _INSTEAD else ""
        if field.number > last or name in _OF_FORKS:
            yield f"BVLC Caffe has no field '{field.name}'.{advice}"
        elif field.enum_type is not None and not field.is_repeated and value >= FIRST_OWN_FIELD:
            word = field.enum_type.values_by_number[value].name
            yield f"BVLC Caffe has no {field.name} {word}.{advice}"
        elif field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _own_fields(part)
