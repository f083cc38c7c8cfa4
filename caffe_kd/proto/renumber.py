"""Reads a fork's binary nets: translates its field numbers to the numbers, or names, used here.

Forks use the same free numbers for different fields, so a number alone is ambiguous: 147 is
swish_param in Caffe and knowledge_distillation_param elsewhere. The layer's type decides. What is
in no table stays as it is: protobuf keeps fields it does not know.

Source: the public schemas of the forks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from . import schema
from .wire import LEN, VARINT, Field, Walker, header, varint

_LAYER, _TYPE, _POOLING = 100, 2, 121


class _Home(NamedTuple):
    """Where the settings of a layer type are here, and the numbers that forks have them under.

    Attributes:
        field: the field of LayerParameter; empty where the settings are left out.
        numbers: its numbers in forks.
        inner: by such a number, the fields inside that are numbered otherwise too; 0: left out.
    """

    field: str
    numbers: tuple[int, ...]
    inner: Mapping[int, Mapping[int, int]] = {}


_SEGNET_BN = {1: 51061, 2: 51062, 3: 51063}
# Beside a schedule of pruning: dilation.
_SQUEEZE = {18: 0, 19: 0, 20: 0, 21: 0, 22: 0, 23: 0, 24: 18}
_SQUEEZE_IP = {7: 0, 8: 0, 9: 0, 10: 0, 11: 0, 12: 0}
_HOMES = {
    "BN": _Home("bn_param", (41, 45, 137, 1137), {45: _SEGNET_BN}),
    "Bias": _Home("bias_param", (161,)),
    "CConvolution": _Home("", (140, 150)),
    "CConvolutionDepthwise": _Home("", (152,)),
    "CInnerProduct": _Home("", (141, 151)),
    "CenterLoss": _Home("center_loss_param", (147, 149)),
    "ConvolutionRistretto": _Home("quantization_param", (145, 149)),
    "DeconvolutionRistretto": _Home("quantization_param", (145, 149)),
    "FcRistretto": _Home("quantization_param", (145, 149)),
    "Interp": _Home("interp_param", (143,)),
    "KnowledgeDistillation": _Home("knowledge_distillation_param", (147, 158)),
    "LSTM": _Home("recurrent_param", (151,)),
    "Normalize": _Home("norm_param", (149,)),
    "PSROIPooling": _Home("psroi_pooling_param", (149, 153)),
    "RNN": _Home("recurrent_param", (151,)),
    "ROIPooling": _Home("roi_pooling_param", (147, 150, 154)),
    "ReLU6": _Home("relu6_param", (2060,)),
    "Reorg": _Home("reorg_param", (147, 148, 155, 159)),
    "Scale": _Home("scale_param", (160,)),
    "ShuffleChannel": _Home("shuffle_channel_param", (159,)),
    "SmoothL1Loss": _Home("smooth_l1_loss_param", (148, 201, 243, 8266719)),
    "SqueezeConvolution": _Home("convolution_param", (147, 187), {147: _SQUEEZE, 187: _SQUEEZE}),
    "SqueezeDeconvolution": _Home("convolution_param", (147, 187), {147: _SQUEEZE, 187: _SQUEEZE}),
    "SqueezeInnerProduct": _Home(
        "inner_product_param", (148, 188), {148: _SQUEEZE_IP, 188: _SQUEEZE_IP}
    ),
    "Upsample": _Home("upsample_param", (137,)),
}

# NVIDIA's fields of every layer. They are numbers, where Caffe has blocks under the same numbers.
_NVIDIA_TYPES = ("DOUBLE", "FLOAT", "FLOAT16", "INT", "UINT", "BOOL")
_NVIDIA = {145: "forward_type", 146: "backward_type", 147: "forward_math", 148: "backward_math"}

# Intel's nets are recognised by the net's engine and compile_net_state, or by a layer's engine.
_INTEL_NET = (9, 10)
_INTEL_ENGINE = 149
_ENGINES = (b"", b"CAFFE", b"MKL2017", b"MKLDNN")
# PoolingParameter there: every size has another number, and two fields exist only there.
_INTEL_POOLING = {2: 4, 3: 2, 4: 3, 5: 9, 6: 10, 7: 5, 8: 6, 9: 7, 10: 8}
_INTEL_POOLING_NAMES = {13: "avg_include_pad", 14: "axis"}


def renumber(data: bytes | bytearray) -> bytes | memoryview:
    """Return a binary NetParameter with the fields of forks where caffe.proto has them.

    Args:
        data: the message; read, never changed.

    Raises:
        Damaged: the bytes do not follow the wire format.
    """
    view = memoryview(data)
    walker = Walker(data)
    is_intel = any(f.number in _INTEL_NET and f.kind == LEN for f in walker.fields(0, len(data)))
    pieces: list[bytes | memoryview] = []
    written = 0
    for layer in walker.fields(0, len(data), {_LAYER: (LEN,)}):
        changed = _layer(walker, layer, is_intel)
        if changed is not None:
            pieces += [view[written : layer.begin], header(_LAYER, len(changed)), changed]
            written = layer.end
    return b"".join([*pieces, view[written:]]) if pieces else view


def _layer(walker: Walker, layer: Field, is_intel: bool) -> bytes | None:
    """Return a layer's bytes with other numbers, or None where nothing changes."""
    fields = list(walker.fields(layer.start, layer.end))
    types = [walker.bytes(f) for f in fields if f.number == _TYPE and f.kind == LEN]
    home = _HOMES.get(types[-1].decode("utf-8", "replace")) if types else None
    is_intel = is_intel or any(_is_engine(walker, f) for f in fields)
    changes: dict[int, bytes] = {}
    for index, field in enumerate(fields):
        change = _moved(walker, field, home)
        if change is None:
            change = _named(walker, field)
        if change is None and is_intel and field.number == _POOLING and field.kind == LEN:
            change = _intel_pooling(walker, field)
        if change is not None:
            changes[index] = change
    if not changes:
        return None
    return b"".join(
        changes[i] if i in changes else walker.data[f.begin : f.end] for i, f in enumerate(fields)
    )


def _moved(walker: Walker, field: Field, home: _Home | None) -> bytes | None:
    """Return the settings of a layer's type under their number here."""
    if home is None or field.kind != LEN or field.number not in home.numbers:
        return None
    if not home.field:
        return b""
    number = _number(home.field)
    inner = home.inner.get(field.number)
    if inner is None:
        return _bytes(walker, field, number)
    settings = b"".join(
        _bytes(walker, f, inner.get(f.number, f.number))
        for f in walker.fields(field.start, field.end)
        if inner.get(f.number) != 0
    )
    return header(number, len(settings)) + settings


def _number(field: str) -> int:
    number: int = schema.messages()["LayerParameter"].DESCRIPTOR.fields_by_name[field].number
    return number


def _named(walker: Walker, field: Field) -> bytes | None:
    """Return a field that any layer of a fork may have as one of ``foreign``."""
    if field.kind == VARINT and field.number in _NVIDIA and field.value < len(_NVIDIA_TYPES):
        return _foreign(f"{_NVIDIA[field.number]}: {_NVIDIA_TYPES[field.value]}")
    if _is_engine(walker, field):
        return _foreign(f'engine: "{walker.bytes(field).decode()}"')
    return None


def _is_engine(walker: Walker, field: Field) -> bool:
    if field.number != _INTEL_ENGINE or field.kind != LEN or field.end - field.start > 100:
        return False
    return walker.bytes(field).split(b":")[0] in _ENGINES and walker.bytes(field).isascii()


def _foreign(text: str) -> bytes:
    octets = text.encode()
    entry = header(1, len(octets)) + octets
    return header(schema.FOREIGN_NUMBER, len(entry)) + entry


def _intel_pooling(walker: Walker, field: Field) -> bytes:
    pieces = []
    for f in walker.fields(field.start, field.end):
        if f.number in _INTEL_POOLING_NAMES and f.kind == VARINT:
            pieces.append(_foreign(f"{_INTEL_POOLING_NAMES[f.number]}: {f.value}"))
        else:
            pieces.append(_bytes(walker, f, _INTEL_POOLING.get(f.number, f.number)))
    settings = b"".join(pieces)
    return header(_POOLING, len(settings)) + settings


def _bytes(walker: Walker, field: Field, number: int) -> bytes:
    """Return a field as it is, under ``number``."""
    if field.kind == LEN:
        return header(number, field.end - field.start) + walker.bytes(field)
    tag = varint(number << 3 | field.kind)
    return tag + (varint(field.value) if field.kind == VARINT else walker.bytes(field))
