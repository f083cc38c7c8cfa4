"""Turns V0 layers (2013: one message for the settings of every type) into V1 layers (2014).

``_TYPES`` and ``_SETTINGS`` map each name; padding, which was a layer of its own,
becomes the pad of the convolution or pooling after it.

Source: Caffe's ``UpgradeV0Net``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from ..core.errors import NetError, did_you_mean
from . import caffe_pb2 as pb
from .fields import put, unknown_numbers

# Types with another name in V1; the others are the same in capitals.
_TYPES = {
    "conv": "CONVOLUTION",
    "images": "IMAGE_DATA",
    "innerproduct": "INNER_PRODUCT",
    "pool": "POOLING",
} | {
    word: word.upper()
    for word in (
        "accuracy bnll concat data dropout euclidean_loss flatten hdf5_data hdf5_output im2col "
        "infogain_loss lrn multinomial_logistic_loss relu sigmoid softmax softmax_loss split tanh "
        "window_data"
    ).split()
}

# Types that only forks had.
_FORK_TYPES = {"memory_data": "MEMORY_DATA"}

# Fields that every type has, and where V1 keeps them.
_COMMON = {
    "name": "name",
    "blobs": "blobs",
    "blobs_lr": "blobs_lr",
    "weight_decay": "weight_decay",
    "scale": "transform_param.scale",
    "meanfile": "transform_param.mean_file",
    "cropsize": "transform_param.crop_size",
    "mirror": "transform_param.mirror",
    "foreign": "foreign",
}

# By type: the message of V1 that holds its settings, and what each is called there.
_SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "concat": ("concat_param", {"concat_dim": "concat_dim"}),
    "conv": (
        "convolution_param",
        {
            "num_output": "num_output",
            "biasterm": "bias_term",
            "weight_filler": "weight_filler",
            "bias_filler": "bias_filler",
            "pad": "pad",
            "kernelsize": "kernel_size",
            "group": "group",
            "stride": "stride",
        },
    ),
    "data": (
        "data_param",
        {"source": "source", "batchsize": "batch_size", "rand_skip": "rand_skip"},
    ),
    "dropout": ("dropout_param", {"dropout_ratio": "dropout_ratio"}),
    "hdf5_data": ("hdf5_data_param", {"source": "source", "batchsize": "batch_size"}),
    "images": (
        "image_data_param",
        {
            "source": "source",
            "batchsize": "batch_size",
            "rand_skip": "rand_skip",
            "shuffle_images": "shuffle",
            "new_height": "new_height",
            "new_width": "new_width",
        },
    ),
    "infogain_loss": ("infogain_loss_param", {"source": "source"}),
    "innerproduct": (
        "inner_product_param",
        {
            "num_output": "num_output",
            "biasterm": "bias_term",
            "weight_filler": "weight_filler",
            "bias_filler": "bias_filler",
        },
    ),
    "lrn": (
        "lrn_param",
        {"local_size": "local_size", "alpha": "alpha", "beta": "beta", "k": "k"},
    ),
    "pool": (
        "pooling_param",
        {"pad": "pad", "kernelsize": "kernel_size", "stride": "stride", "pool": "pool"},
    ),
    "window_data": (
        "window_data_param",
        {
            "source": "source",
            "batchsize": "batch_size",
            "det_fg_threshold": "fg_threshold",
            "det_bg_threshold": "bg_threshold",
            "det_fg_fraction": "fg_fraction",
            "det_context_pad": "context_pad",
            "det_crop_mode": "crop_mode",
        },
    ),
}
# A whole message of its own.
_WHOLE = {"hdf5_output": {"hdf5_output_param": "hdf5_output_param"}}

_PADDED = ("conv", "pool")
# What a V0 layer has outside its ``layer`` block.
_OUTSIDE = ("bottom", "top", "layer", "foreign", "source_line")


def needs_upgrade(net: Any) -> bool:
    """Return whether a net has V0 layers."""
    return any(layer.HasField("layer") for layer in net.layers)


def upgrade(net: Any) -> list[str]:
    """Turn a net's V0 layers into V1 layers, in place; return messages about what was lost.

    Layers that are V1 already stay as they are.

    Raises:
        NetError: a type is unknown, or a padding layer feeds something it cannot.
    """
    old = list(net.layers)
    folded = _fold_padding(old, net.input)
    problems: list[str] = []
    del net.layers[:]
    for layer in folded:
        if layer.HasField("layer"):
            problems += _upgrade_layer(layer, net.layers.add())
        else:
            net.layers.add().CopyFrom(layer)
    return problems


def _fold_padding(layers: Sequence[Any], inputs: Sequence[str]) -> list[Any]:
    """Return the layers without the padding ones, whose pad moves to their consumers."""
    makers: dict[str, Any] = dict.fromkeys(inputs)
    kept = []
    for layer in layers:
        for index, blob in enumerate(layer.bottom):
            if blob not in makers:
                _fail(
                    layer,
                    f"Unknown blob input '{blob}': no layer before this one makes it."
                    f"{did_you_mean(blob, makers)}",
                )
            maker = makers[blob]
            if maker is not None and maker.layer.type == "padding":
                layer = _pad(layer, index, maker)
        if layer.layer.type != "padding":
            kept.append(layer)
        makers.update(dict.fromkeys(layer.top, layer))
    return kept


def _pad(layer: Any, index: int, padding: Any) -> Any:
    """Return a layer that pads by itself and reads what the padding layer read."""
    if layer.layer.type not in _PADDED:
        _fail(
            layer,
            "Padding layer input to non-convolutional / non-pooling layer type: padding layer "
            f"'{padding.layer.name}' can only feed conv and pool",
        )
    for owner, blobs, rule in (
        (layer, layer.bottom, "takes a single blob as input"),
        (padding, padding.bottom, "takes a single blob as input"),
        (padding, padding.top, "produces a single blob as output"),
    ):
        if len(blobs) != 1:
            _fail(owner, f"with padding it {rule}. Received: {', '.join(blobs) or 'none'}")
    padded = pb.V1LayerParameter()
    padded.CopyFrom(layer)
    padded.layer.pad = padding.layer.pad
    padded.bottom[index] = padding.bottom[0]
    return padded


def _upgrade_layer(old: Any, new: Any) -> list[str]:
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    new.foreign.extend(old.foreign)
    new.source_line = old.source_line
    word = old.layer.type
    successors = _successors(word)
    lost = [f"{f.name} (beside 'layer')" for f, _ in old.ListFields() if f.name not in _OUTSIDE]
    for field, value in old.layer.ListFields():
        if field.name == "type":
            new.type = _type_number(old)
        elif field.name in successors:
            *message, name = successors[field.name].split(".")
            try:
                put(getattr(new, message[0]) if message else new, name, field, value)
            except ValueError:  # signed in V0, unsigned now
                _fail(old, f"{field.name} must not be negative. Received: {value}")
        else:
            lost.append(field.name)
    numbers = unknown_numbers(old.layer) + unknown_numbers(old)
    lost += [f"number {number}, of a fork," for number in numbers]
    position = f"{old.source_line}: " if old.source_line else ""
    return [
        f"{position}layer '{old.layer.name}': Unknown parameter {name} for layer type {word}; "
        "it is left out"
        for name in lost
    ]


def _successors(word: str) -> dict[str, str]:
    """Return the names of a type's fields in V1, as ``name`` or ``message.name``."""
    message, settings = _SETTINGS.get(word, ("", {}))
    own = {ours: f"{message}.{theirs}" for ours, theirs in settings.items()}
    return _COMMON | own | _WHOLE.get(word, {})


def _type_number(layer: Any) -> int:
    word = layer.layer.type
    types = _TYPES | _FORK_TYPES
    if word not in types:
        _fail(
            layer,
            f"Unknown layer name: '{word}' is not a V0 layer type.{did_you_mean(word, types)}",
        )
    number: int = pb.V1LayerParameter.LayerType.Value(types[word])
    return number


def _fail(layer: Any, fact: str) -> NoReturn:
    name = layer.layer.name or layer.name  # a V1 layer among V0 layers has its own
    raise NetError(f"layer '{name}' ({layer.layer.type}): {fact}", layer.source_line or None)
