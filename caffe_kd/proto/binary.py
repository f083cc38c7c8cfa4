"""Reads and writes Caffe's binary files: weights, solver states and blobs.

Weights are ``.caffemodel`` files, a NetParameter whose layers have blobs, or HDF5 files; a solver
state holds what training needs to continue; a ``.binaryproto`` is one blob, usually a mean image.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from ..core.errors import ParseError, WeightsError
from ..core.files import replacing
from . import pruned_layers, schema
from .blob import Array, blob_parts, read_blob_message
from .text import clear_source_lines
from .wire import (
    HDF5_MAGIC,
    I32,
    I64,
    LEN,
    VARINT,
    Damaged,
    Field,
    Walker,
    block,
    header,
    looks_like,
    number_field,
    signed,
    whole_file,
)

Result = TypeVar("Result")

# Field numbers of caffe.proto, with the wire types a field may have.
_NET_LAYER, _NET_V1_LAYER = 100, 2
_NET = {1: (LEN,), _NET_LAYER: (LEN,), _NET_V1_LAYER: (LEN,)}
_V1_V0_LAYER = 1
_STATE_ITER, _STATE_LEARNED_NET, _STATE_HISTORY, _STATE_CURRENT_STEP = 1, 2, 3, 4
_STATE = {
    _STATE_ITER: (VARINT,),
    _STATE_LEARNED_NET: (LEN,),
    _STATE_HISTORY: (LEN,),
    _STATE_CURRENT_STEP: (VARINT,),
}


class _LayerFields(NamedTuple):
    """The field numbers of what is read from a kind of layer message."""

    name: int
    type: int
    type_kind: int
    blobs: int
    quantization: int = 0  # 0: such layers have none

    @property
    def kinds(self) -> dict[int, tuple[int, ...]]:
        kinds: dict[int, tuple[int, ...]] = {self.name: (LEN,), self.blobs: (LEN,)}
        if self.quantization:
            kinds[self.quantization] = (LEN,)
        return {**kinds, self.type: (self.type_kind,)}


_LAYER = _LayerFields(name=1, type=2, type_kind=LEN, blobs=7, quantization=158)
_V1_LAYER = _LayerFields(name=4, type=5, type_kind=VARINT, blobs=6)
_V0_LAYER = _LayerFields(name=1, type=2, type_kind=LEN, blobs=50)


@dataclass
class LayerWeights:
    """The weights of one layer in a file.

    Attributes:
        name: the layer's name.
        type: as the file spells it: ``Convolution``, ``CONVOLUTION`` (V1), ``conv`` (V0), or
            nothing in HDF5. Of a type with masks (``pruned_layers.py``) the plain one.
        blobs: its parameters in Caffe's order. None, in HDF5 only, where the layer shares the
            parameter of another layer, which holds it.
        legacy: per blob, whether its shape came as num, channels, height and width: four axes, the
            meaningful ones to the right (a bias of N values is 1 x 1 x 1 x N).
        owned_only: whether blobs that another layer owns may be missing, as in HDF5.
        quantization: the layer's QuantizationParameter as the file has it; empty: it has none.
    """

    name: str
    type: str
    blobs: list[Array | None]
    legacy: list[bool]
    owned_only: bool = False
    quantization: bytes = b""


@dataclass
class SolverState:
    """What training needs to continue.

    Attributes:
        iter: iterations done.
        learned_net: path of the weights that belong to it, as it was written.
        history: the update rule's history, one array per learnable blob (two for AdaDelta, Adam).
        current_step: how many of a multistep policy's steps have been passed.
    """

    iter: int
    learned_net: str
    history: list[Array]
    current_step: int


def read_weights(path: str | Path) -> list[LayerWeights]:
    """Read a ``.caffemodel`` or ``.caffemodel.h5``, recognised by content, in file order.

    Layers of all three formats (V0, V1, current) are read, and layers without blobs are listed. The
    arrays are views of the file's bytes where it holds float32 in one piece, and may be unaligned.
    Writing to them does not change the file.

    Returns:
        One entry per layer; float32 arrays of the shapes the file gives.

    Raises:
        ParseError: the file is missing, damaged, truncated, or holds something else; or a blob's
            number of values does not match its shape.

    Source: ``Blob::FromProto``: num, channels, height, width go before shape, double_data before
    data.
    """
    data = whole_file(path)
    if data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        from . import hdf5  # here: h5py takes long to import

        try:
            layers = hdf5.read_weights(path)
        except ParseError as error:
            raise _taken_for(error, _HOLDS_STATE, lambda: hdf5.read_solver_state(path)) from None
        return [LayerWeights(n, "", blobs, [False] * len(blobs), True) for n, blobs in layers]
    try:
        return _parsed(path, "a caffemodel", data, _weights)
    except ParseError as error:
        raise _taken_for(error, _HOLDS_STATE, lambda: _solver_state(Walker(data))) from None


def read_solver_state(path: str | Path) -> SolverState:
    """Read a ``.solverstate`` or ``.solverstate.h5``, recognised by content.

    Raises:
        ParseError: the file is missing, damaged, truncated, or holds something else.
    """
    data = whole_file(path)
    if data[: len(HDF5_MAGIC)] == HDF5_MAGIC:
        from . import hdf5

        try:
            return SolverState(*hdf5.read_solver_state(path))
        except ParseError as error:
            raise _taken_for(error, _HOLDS_WEIGHTS, lambda: hdf5.read_weights(path)) from None
    try:
        return _parsed(path, "a solver state", data, _solver_state)
    except ParseError as error:
        raise _taken_for(error, _HOLDS_WEIGHTS, lambda: _weights(Walker(data))) from None


_HOLDS_WEIGHTS = (
    "is not a solver state, it holds weights: -snapshot wants the .solverstate, -weights takes "
    "the .caffemodel"
)
_HOLDS_STATE = (
    "is not a caffemodel, it holds a solver state: -weights wants the .caffemodel, -snapshot takes "
    "the .solverstate"
)


def _taken_for(error: ParseError, fact: str, read_other: Callable[[], object]) -> ParseError:
    """Return a better error if the file is the other file of a snapshot, else the given one."""
    try:
        found = read_other()
    except (ParseError, Damaged):
        return error
    if isinstance(found, SolverState) and not found.learned_net and not found.history:
        return error  # it is not the other kind either
    return ParseError(fact, error.where)


def read_blob(path: str | Path) -> Array:
    """Read a ``.binaryproto``, such as a mean image of 1 x channels x height x width.

    Raises:
        ParseError: the file is missing, damaged, truncated, or holds something else.
    """

    def parse(walker: Walker) -> Array:
        return read_blob_message(walker, 0, len(walker.data), "the blob")[0]

    return _parsed(path, "a blob (.binaryproto)", whole_file(path), parse)


def _parsed(
    path: str | Path, what: str, data: bytearray, parse: Callable[[Walker], Result]
) -> Result:
    try:
        return parse(Walker(data))
    except Damaged as damage:
        found = looks_like(data)
        problem = (
            f"is not {what} but {found}" if found else f"is not {what}, or is damaged: {damage}"
        )
        raise ParseError(problem, str(path)) from None


def _weights(walker: Walker) -> list[LayerWeights]:
    layers = []
    for field in walker.fields(0, len(walker.data), _NET):
        if field.number == _NET_LAYER:
            layers.append(_layer(walker, field, _LAYER))
        elif field.number == _NET_V1_LAYER:
            layers.append(_v1_layer(walker, field))
    if not layers:
        raise Damaged("it holds no layers")
    return layers


def _v1_layer(walker: Walker, message: Field) -> LayerWeights:
    """Read a V1 layer, or the V0 layer that it may wrap."""
    for field in walker.fields(message.start, message.end, {_V1_V0_LAYER: (LEN,)}):
        return _layer(walker, field, _V0_LAYER)
    layer = _layer(walker, message, _V1_LAYER)
    types = schema.messages()["V1LayerParameter"].DESCRIPTOR.enum_types_by_name["LayerType"]
    known = types.values_by_number.get(int(layer.type or 0))
    layer.type = known.name if known else layer.type  # a fork's own types have numbers only
    return layer


def _layer(walker: Walker, message: Field, numbers: _LayerFields) -> LayerWeights:
    name = type_name = ""
    quantization = b""
    blobs = []
    for field in walker.fields(message.start, message.end, numbers.kinds):
        if field.number == numbers.blobs:
            blobs.append(field)
        elif field.number == numbers.quantization:
            quantization = bytes(walker.bytes(field))
        elif field.number == numbers.name:
            name = walker.bytes(field).decode("utf-8", "replace")
        elif field.kind == VARINT:
            type_name = str(field.value)
        else:
            type_name = walker.bytes(field).decode("utf-8", "replace")
    layer = LayerWeights(name, type_name, [], [], quantization=quantization)
    for i, blob in enumerate(blobs):
        values, legacy = read_blob_message(
            walker, blob.start, blob.end, f"layer '{name[:200]}': blob {i}"
        )
        layer.blobs.append(values)
        layer.legacy.append(legacy)
    plain = pruned_layers.TYPES.get(layer.type)
    if plain is not None:
        layer.type = plain.type
        layer.blobs, layer.legacy = pruned_layers.without_masks(layer.blobs, layer.legacy)
    return layer


def _solver_state(walker: Walker) -> SolverState:
    state = SolverState(0, "", [], 0)
    begun = False
    for field in walker.fields(0, len(walker.data), _STATE):
        if field.number == _STATE_ITER:
            state.iter = signed(field.value, 32)
            begun = True
        elif field.number == _STATE_LEARNED_NET:
            state.learned_net = os.fsdecode(walker.bytes(field))
        elif field.number == _STATE_CURRENT_STEP:
            state.current_step = signed(field.value, 32)
        else:
            name = f"history {len(state.history)}"
            state.history.append(read_blob_message(walker, field.start, field.end, name)[0])
    if not begun or state.iter < 0 or state.current_step < 0:
        raise Damaged("its iter is missing, or iter or current_step is negative")
    return state


def write_weights(
    path: str | Path,
    net: Any,
    weights: Mapping[str, Sequence[NDArray[Any] | None]],
    diffs: Mapping[str, Sequence[NDArray[Any] | None]] | None = None,
) -> None:
    """Write a ``.caffemodel``: the layers of ``net``, each with its blobs, atomically.

    The bytes equal protobuf's for the same message. Only one layer at a time is held in memory
    beside the arrays.

    Args:
        path: the file to write.
        net: a NetParameter of the current format; its own blobs are left out.
        weights: the blobs by layer name. Layers not named here have none; names
            that are not in the net are skipped.
        diffs: the gradients likewise, for ``snapshot_diff``.

    Raises:
        WeightsError: a blob is missing, or a gradient's shape is not its blob's.
        CaffeKDError: the file cannot be written.
    """
    rest = type(net)()
    rest.CopyFrom(net)
    del rest.layer[:]
    clear_source_lines(rest)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(rest.SerializePartialToString())
        for layer in net.layer:
            blobs = weights.get(layer.name, ())
            gradients = None if diffs is None else diffs.get(layer.name, ())
            file.writelines(block(_NET_LAYER, _layer_parts(layer, blobs, gradients)))


def write_weights_hdf5(
    path: str | Path,
    net: Any,
    weights: Mapping[str, Sequence[NDArray[Any] | None]],
    diffs: Mapping[str, Sequence[NDArray[Any] | None]] | None = None,
) -> None:
    """Write a ``.caffemodel.h5``: ``/data/<layer>/<i>``, and ``/diff/<layer>/<i>`` of gradients.

    Every layer of ``net`` has a group. A blob that is None, since another layer owns it, is left
    out; those that follow keep their numbers.

    Raises:
        WeightsError: a layer's name cannot be one in HDF5.
        CaffeKDError: the file cannot be written.
    """
    from . import hdf5

    hdf5.write_weights(path, [layer.name for layer in net.layer], weights, diffs)


def write_solver_state(path: str | Path, state: SolverState) -> None:
    """Write a solver state, atomically; as HDF5 if the name ends in ``.h5``.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    if str(path).endswith(".h5"):
        from . import hdf5

        hdf5.write_solver_state(
            path, state.iter, state.learned_net, state.history, state.current_step
        )
        return
    learned_net = os.fsencode(state.learned_net)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(number_field(_STATE_ITER, state.iter))
        file.write(header(_STATE_LEARNED_NET, len(learned_net)) + learned_net)
        for array in state.history:
            file.writelines(block(_STATE_HISTORY, blob_parts(array, None)))
        file.write(number_field(_STATE_CURRENT_STEP, state.current_step))


def write_blob(path: str | Path, array: NDArray[Any]) -> None:
    """Write a ``.binaryproto``, atomically.

    Four axes are written as num, channels, height and width, as Caffe writes mean images, which
    every reader understands. Other numbers of axes are written as a shape.

    Raises:
        CaffeKDError: the file cannot be written.
    """
    parts = blob_parts(array, None)
    if array.ndim == 4:
        sizes = [number_field(i, size) for i, size in enumerate(array.shape, 1)]
        parts = [*sizes, *parts[:-1]]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def _layer_parts(
    layer: Any,
    blobs: Sequence[NDArray[Any] | None],
    gradients: Sequence[NDArray[Any] | None] | None,
) -> list[bytes | memoryview]:
    """Serialise a layer in pieces: fields before the blobs, the blobs, fields after them."""
    message = type(layer)()
    message.CopyFrom(layer)
    del message.blobs[:]
    clear_source_lines(message)
    serialized = message.SerializePartialToString()
    split = _first_field_behind(serialized, _LAYER.blobs)
    parts: list[bytes | memoryview] = [serialized[:split]]
    for i, blob in enumerate(blobs):
        if blob is None:
            raise WeightsError(f"layer '{layer.name}': blob {i} is missing")
        gradient = None
        if gradients is not None:
            gradient = gradients[i] if i < len(gradients) else None
            if gradient is None or gradient.shape != blob.shape:
                received = "none" if gradient is None else f"one of shape {gradient.shape}"
                raise WeightsError(
                    f"layer '{layer.name}': blob {i} needs a diff of its shape {blob.shape}. "
                    f"Received: {received}"
                )
        parts.extend(block(_LAYER.blobs, blob_parts(blob, gradient)))
    parts.append(serialized[split:])
    return parts


def _first_field_behind(serialized: bytes, number: int) -> int:
    """Return where the first field with a greater number begins; fields are in order."""
    every = {n: (VARINT, I64, LEN, I32) for n in range(1, number + 1)}
    ends = [field.end for field in Walker(serialized).fields(0, len(serialized), every)]
    return ends[-1] if ends else 0
