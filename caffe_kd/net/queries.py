"""What a layer's message says, without building the layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..core.files import find
from ..layers import layer_types
from ..proto.sources import DATA, Source, source_of_layer

_DATA_PARAMS = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "HDF5Data": "hdf5_data_param",
    "MemoryData": "memory_data_param",
    "WindowData": "window_data_param",
}
# Types with a learned factor, and the fields that hold the settings and the factor's filler.
WEIGHT_FILLERS = {
    "Convolution": ("convolution_param", "weight_filler"),
    "Deconvolution": ("convolution_param", "weight_filler"),
    "DepthwiseConvolution": ("convolution_param", "weight_filler"),
    "ConvolutionDepthwise": ("convolution_param", "weight_filler"),
    "ConvolutionRistretto": ("convolution_param", "weight_filler"),
    "DeconvolutionRistretto": ("convolution_param", "weight_filler"),
    "FcRistretto": ("inner_product_param", "weight_filler"),
    "InnerProduct": ("inner_product_param", "weight_filler"),
    "Embed": ("embed_param", "weight_filler"),
    "LSTM": ("recurrent_param", "weight_filler"),
    "RNN": ("recurrent_param", "weight_filler"),
    "BN": ("bn_param", "slope_filler"),
}


def is_data(proto: Any) -> bool:
    """Return whether a layer reads data from outside."""
    return is_source(proto) and source_of_layer(proto) is Source.SAMPLES


def is_source(proto: Any) -> bool:
    """Return whether a layer begins the net: with data, inputs or generated values."""
    if source_of_layer(proto) not in DATA:
        return False
    kind = layer_types().get(proto.type)  # a ReLU whose bottom was forgotten is none
    return kind is None or kind.brings is not None


def data_param(proto: Any) -> Any | None:
    """Return a data layer's settings, or None for a type that is not known."""
    field = _DATA_PARAMS.get(proto.type)
    return getattr(proto, field) if field else None


def batch_size(proto: Any) -> int | None:
    """Return how many samples a data layer gives at a time, or None."""
    param = data_param(proto)
    return None if param is None else int(param.batch_size)


def source(proto: Any) -> str:
    """Return the database or list that a data layer reads, or an empty string."""
    return str(getattr(data_param(proto), "source", ""))


def share_samples(one: Any, other: Any) -> bool:
    """Return whether two data layers read the same samples of a source, judging by the ranges."""
    (begin, end), (from_, to) = _range(one), _range(other)
    return source(one) == source(other) and begin < to and from_ < end


def _range(proto: Any) -> tuple[int, float]:
    """Return the first sample that a layer reads, and the one after its last."""
    if proto.type != "Data":
        return 0, math.inf
    param = proto.data_param
    return param.first, param.first + param.count if param.HasField("count") else math.inf


def beside(proto: Any, path: str, file: Path | None) -> Path:
    """Return where a path of a layer is, looked up as the layer would."""
    home, _, line = proto.source_line.rpartition(":")
    found = find(path, home if line.isdecimal() else None)
    return found if found.exists() else find(path, file)


def filler(proto: Any) -> Any | None:
    """Return the filler of a layer's factor, set or not; None for types without one."""
    fields = WEIGHT_FILLERS.get(proto.type)
    if fields is None:
        return None
    param = getattr(proto, fields[0])
    if _is_segnets(proto):
        return param.scale_filler
    return getattr(param, fields[1])


def _is_segnets(proto: Any) -> bool:
    names = ("scale_filler", "shift_filler", "bn_mode")
    return proto.type == "BN" and any(proto.bn_param.HasField(name) for name in names)


def has_bias(proto: Any) -> bool:
    """Return whether a layer's second blob is an offset."""
    fields = WEIGHT_FILLERS.get(proto.type)
    if fields is None:
        return bool(proto.type == "Scale" and proto.scale_param.bias_term)
    return bool(getattr(getattr(proto, fields[0]), "bias_term", True))


def blob_count(proto: Any) -> int:
    """Return how many parameters a layer of one of the usual types has, before it is built."""
    if proto.type in ("LSTM", "RNN"):
        return 3 if proto.type == "LSTM" else 5
    if proto.type == "BN":
        return 2 if _is_segnets(proto) else 4
    if proto.type == "Scale":
        return (len(proto.bottom) == 1) + proto.scale_param.bias_term
    if proto.type in WEIGHT_FILLERS:
        return 1 + has_bias(proto)
    return {"BatchNorm": 3, "PReLU": 1, "Bias": 1}.get(proto.type, 0)


def called(proto: Any) -> str:
    """Return a layer's name and type for a message."""
    return f"layer '{proto.name}' ({proto.type})"


def shown(value: Any) -> str:
    """Return a field's value for a message; ``none`` for an empty string or list."""
    if isinstance(value, float):
        return f"{value:g}"
    entries = value if isinstance(value, str) else ", ".join(f"{entry:g}" for entry in value)
    return entries or "none"
