"""A net built as far as it can be: without memory for its parameters, and without its data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.errors import CaffeKDError, MissingFile, NetError
from ..layers import Layer, Shape, create, layer_types
from ..net import Net
from ..net.queries import batch_size, beside, data_param, is_data, source
from ..net.sample_shapes import guessed_shape, with_batch
from ..proto import caffe_pb2 as pb
from ..python_layers import user_code


@dataclass
class Absent:
    """A data layer whose data cannot be read.

    Attributes:
        proto: the layer.
        error: why not.
        taken: the shape assumed for its samples, if any.
        reason: where that shape comes from, in words.
    """

    proto: Any
    error: CaffeKDError
    taken: Shape | None = None
    reason: str = ""


@dataclass
class ShapeInference:
    """What is known of a net in one phase.

    Attributes:
        net: the net, with the layers that could be built; its parameters have no values.
        problems: the layers that could not, each with its error.
        absent: the data layers without their data.
        unrun: the Python layers, whose code is not run.
        counts: how many samples the data layers have, by layer name.
        supposed: blobs beside the images, such as labels, whose shape is only assumed.
    """

    net: Net | None = None
    problems: list[tuple[Any, CaffeKDError]] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    unrun: list[Any] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    supposed: set[str] = field(default_factory=set)


def infer_shapes(
    param: Any,
    phase: int,
    file: Path | None,
    given: Mapping[str, Shape] | None = None,
    unfiltered: Any = None,
) -> ShapeInference:
    """Build a net layer by layer; what cannot be built is noted, and what depends on it left out.

    Args:
        param: the net, filtered for one state.
        phase: TRAIN or TEST.
        file: where it was read, for relative paths.
        given: shapes by the name of the blob, as ``-input_shape`` gives them; under "" for the
            first top of any data layer.
        unfiltered: the net with the layers of all states, for messages.
    """
    found = ShapeInference()
    try:
        found.net = _InferringNet(found, given or {}, param, phase, file, unfiltered)
    except CaffeKDError as error:
        found.problems.append((param, error))
    return found


class _InferringNet(Net):
    """A net that continues where a layer fails."""

    def __init__(
        self,
        found: ShapeInference,
        given: Mapping[str, Shape],
        param: Any,
        phase: int,
        file: Path | None,
        unfiltered: Any,
    ) -> None:
        self._found = found  # the parent's constructor adds the layers
        self._given = given
        self._unknown: set[str] = set()  # blobs of layers that could not be built
        super().__init__(param, phase, file, unfiltered)

    def _add(self, proto: Any) -> None:
        if any(b in self._unknown and b not in self.shapes for b in proto.bottom):
            self._unknown.update(proto.top)
            return
        if proto.type == "Python" and not user_code.is_allowed():
            self._found.unrun.append(proto)
            self._forget(proto)
            return
        try:
            if is_data(proto) or (proto.type == "Input" and self._given):
                proto = self._stand_in(proto)
            self._build(proto)
        except CaffeKDError as error:
            self._found.problems.append((proto, error))
            self._forget(proto)
        except _Unreadable:
            self._forget(proto)

    def _build(self, proto: Any) -> None:
        try:
            with torch.device("meta"):  # parameters of a shape, without values
                super()._add(proto)
        except Exception as error:
            if isinstance(error, CaffeKDError) and not isinstance(error, user_code.UserCodeError):
                raise
            self._forget(proto)  # the layer may need values
            super()._add(proto)

    def _forget(self, proto: Any) -> None:
        """Remove what a layer that failed has left behind."""
        for top in proto.top:
            if top not in proto.bottom:
                self.shapes.pop(top, None)
                self._unused.discard(top)
        self._unknown.update(top for top in proto.top if top not in proto.bottom)

    def _stand_in(self, proto: Any) -> Any:
        """Return an Input layer with the shapes of a data layer's tops."""
        shapes = self._shapes_of(proto)
        result = pb.LayerParameter(name=proto.name, type="Input", source_line=proto.source_line)
        result.top.extend(proto.top)
        result.input_param.shape.extend(pb.BlobShape(dim=shape) for shape in shapes)
        return result

    def _shapes_of(self, proto: Any) -> list[Shape]:
        wanted = self._given.get(proto.top[0] if proto.top else "", self._given.get(""))
        if proto.type not in layer_types() and data_param(proto) is not None:
            error = NetError(f"there is no layer type '{proto.type}' here", proto.source_line)
            return self._supposed(proto, error, wanted)
        try:
            layer = create(proto, self.phase, self.context)
            with layer.naming("setup"):
                layer.setup([])
            with layer.naming("forward"):
                shapes = list(layer.top_shapes([]))
        except CaffeKDError as error:
            unnamed = wanted is not None and data_param(proto) is not None and not source(proto)
            if not (unnamed or self._lacks_data(proto, error)):
                raise
            return self._supposed(proto, error, wanted)
        self._found.counts[proto.name] = _sample_count(layer)
        if proto.type == "Input" and proto.top[0] in self._given:
            shapes[0] = with_batch(self._given[proto.top[0]], *shapes[0][:1])
        return shapes

    def _lacks_data(self, proto: Any, error: CaffeKDError) -> bool:
        """Return whether a data layer fails only because its data or a listed file is absent."""
        if isinstance(error, NetError) or data_param(proto) is None:
            return False
        there = os.path.exists(beside(proto, source(proto), self.context.file))
        return not there or isinstance(error, MissingFile)

    def _supposed(self, proto: Any, error: CaffeKDError, wanted: Shape | None) -> list[Shape]:
        absent = Absent(proto, error)
        self._found.absent.append(absent)
        if wanted is not None:
            absent.taken, absent.reason = wanted, "as -input_shape says"
        else:
            absent.taken, absent.reason = guessed_shape(proto, self.context.file)
        if absent.taken is None:
            raise _Unreadable
        self._found.supposed.update(proto.top[1:])
        batch = batch_size(proto) or 1
        data = with_batch(absent.taken, batch)
        return [data, *[data[:1]] * (len(proto.top) - 1)]


def _sample_count(layer: Layer) -> int:
    """Return how many samples a layer has; 0 where it gets them later, or makes its own."""
    try:
        return int(getattr(layer, "sample_count", 0))
    except CaffeKDError:  # MemoryData, whose samples a program sets
        return 0


class _Unreadable(Exception):
    """The shape of a data layer's samples can neither be read nor guessed."""
