"""Turns V1 layers (2014: types in capitals, ``layers``) into current ones.

Most fields kept name and meaning; ``TYPES``, ``_SPECS`` and ``_TRANSFORM`` say what the others
became.

Source: Caffe's ``UpgradeNetDataTransformation`` and ``UpgradeV1Net``.
"""

from __future__ import annotations

from typing import Any

from ..core.errors import NetError
from . import caffe_pb2 as pb
from .fields import put, unknown_numbers
from .foreign import name_v1_type

TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

_TYPE = pb.V1LayerParameter.DESCRIPTOR.fields_by_name["type"].number

# Lists with one entry per parameter blob, and the field of ParamSpec that holds the entry now.
_SPECS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}

# Fields that moved from the data layers' own messages to transform_param, under the same name.
_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_TRANSFORMED = {
    pb.V1LayerParameter.DATA: "data_param",
    pb.V1LayerParameter.IMAGE_DATA: "image_data_param",
    pb.V1LayerParameter.WINDOW_DATA: "window_data_param",
}


def needs_transform_upgrade(net: Any) -> bool:
    """Return whether a V1 data layer has transformation fields in its own message."""
    return any(
        getattr(layer, _TRANSFORMED[layer.type]).HasField(name)
        for layer in net.layers
        if layer.type in _TRANSFORMED
        for name in _TRANSFORM
    )


def upgrade_transform(net: Any) -> None:
    """Move the transformation fields of V1 data layers to ``transform_param``, in place."""
    for layer in net.layers:
        if layer.type not in _TRANSFORMED:
            continue
        param = getattr(layer, _TRANSFORMED[layer.type])
        for name in _TRANSFORM:
            if param.HasField(name):
                setattr(layer.transform_param, name, getattr(param, name))
                param.ClearField(name)


def upgrade(net: Any) -> list[str]:
    """Turn a net's ``layers`` into ``layer``, in place; return messages about what was lost.

    Raises:
        NetError: the net has both.
    """
    if net.layer:
        raise NetError(
            "Refusing to upgrade inconsistent NetParameter input; the definition includes both "
            "'layer' and 'layers' fields. "
            f"The first 'layer' is at {net.layer[0].source_line or 'an unknown line'}. Write all "
            'of them as layer { type: "Convolution" … }, the current format',
            net.layers[0].source_line or None,
        )
    old = list(net.layers)
    del net.layers[:]
    return [problem for layer in old for problem in _upgrade_layer(layer, net.layer.add())]


def _upgrade_layer(old: Any, new: Any) -> list[str]:
    for field, value in old.ListFields():
        if field.name == "type":
            new.type = TYPES[pb.V1LayerParameter.LayerType.Name(value)]
        elif field.name in _SPECS:
            for index, entry in enumerate(value):
                while len(new.param) <= index:
                    new.param.add()
                setattr(new.param[index], _SPECS[field.name], entry)
        else:
            put(new, field.name, field, value)
    name_v1_type(new)
    position = f"{old.source_line}: " if old.source_line else ""
    problems = []
    if not new.HasField("type"):  # in a binary file a fork's own type is a number only
        problems.append(f"{position}layer '{old.name}' has no known type")
    # The current layer has other numbers, so the meaning of these is unknown.
    numbers = [n for n in unknown_numbers(old) if n != _TYPE]
    if numbers:
        problems.append(
            f"{position}layer '{old.name}': fields of a fork are left out, known by number only: "
            f"{', '.join(map(str, numbers))}"
        )
    return problems
