"""What a layer is, and the registry of layer types.

A layer type is one class in one file of this folder::

    @register("Power", param="power_param", bottoms=1, tops=1)
    class Power(Layer):
        def setup(self, bottom_shapes): ...   # check parameters, add blobs in Caffe's order
        def forward(self, x): ...             # plain torch; autograd is the backward

The net checks counts and names, the layer only states them. ``setup`` must not store anything that
depends on the batch size, since blobs may be reshaped later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import CaffeKDError, ExportError, NetError, did_you_mean
from ..core.files import find
from ..core.memory import machine_bytes
from ..proto import caffe_pb2 as pb
from ..proto import foreign, sources, user_blocks
from ..python_layers import user_code
from . import formula
from .fillers import fill

if TYPE_CHECKING:
    from ..export.graph import Graph

Shape = tuple[int, ...]
Tops = Tensor | tuple[Tensor, ...]

# Too large a shape is refused before memory is allocated: 2^31 - 1 is Caffe's own limit.
MAX_COUNT = 2**31 - 1


@dataclass
class Context:
    """The state of the net and the run that layers may use.

    Attributes:
        file: the prototxt the net was read from, beside which relative paths are looked up.
        device: the device of the net's blobs.
        rate: the current learning rate, which the solver sets.
        iteration: the solver's current iteration, for schedules; see Net.set_iteration.
        notify: writes a line of a layer to the log while the net runs.
        parameter_bytes: the size of the parameter blobs so far.
        exact_sums: whether sums of products in the forward pass are computed in float64.
        writes_files: whether layers that write files do so; false if a net is only timed.
        in_memory: for some data layers' blobs, functions that return all values in memory.
    """

    file: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rate: float = 0.0
    iteration: int = 0
    notify: Callable[[str], None] = lambda line: None
    parameter_bytes: int = 0
    exact_sums: bool = False
    writes_files: bool = True
    in_memory: dict[str, Callable[[], Tensor]] = field(default_factory=dict)


def tops_of(result: Tops) -> tuple[Tensor, ...]:
    """Return the result of a layer's ``forward`` as a tuple."""
    return (result,) if isinstance(result, Tensor) else result


class Layer(nn.Module):
    """The base of every layer type.

    Attributes:
        proto: its LayerParameter.
        settings: the message of the type's own parameters; None for a type that has none. Layers
            read it as ``param``.
        brings: the kind of data that a type without bottoms brings; None for a type with bottoms.
            The default for a user's own type is samples.
        phase: TRAIN or TEST: the layer's own ``phase`` if it has one, else the net's.
        blobs: its parameter blobs in Caffe's order.
    """

    type: str  # type: ignore[assignment]  # Caffe's name; Module.type is unused
    origin: str  # where the type comes from: "Caffe", the name of a fork, or "caffe_kd"
    param_field: str | None = None
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]
    brings: sources.Source | None = None
    as_many_tops_as_bottoms = False
    # The axis of the weight given to ``sum_products`` that counts output channels; None: the type
    # multiplies by no weight.
    output_axis: int | None = None
    no_onnx = ""  # why the type has no ONNX form, and what to do; empty if it has one
    no_torch = ""  # likewise for PyTorch code
    # Whether the type itself does what quantization_param says.
    rounds_itself = False
    no_backward = False  # whether Caffe's class ends a backward pass with "Not Implemented Yet"
    is_loss = False  # the first top has loss_weight 1 unless another is given, and may be left out
    # Bottoms that get no gradient unless propagate_down asks: labels, the teacher's logits.
    constant_bottoms: tuple[int, ...] = ()

    def __init__(self, proto: Any, phase: int, context: Context) -> None:
        super().__init__()
        self.proto = proto
        self.name: str = proto.name
        self.phase = phase
        self.context = context
        self.settings: Any = self.settings_in(proto)
        self._blobs: list[nn.Parameter] = []
        self._blob_shapes: list[Shape] = []
        self._viewed = False  # whether a shared blob has a different shape at its owner

    @classmethod
    def settings_in(cls, proto: Any) -> Any:
        """Return the settings that a LayerParameter holds for the type; None if it has none."""
        if cls.param_field is None:
            return None
        field = user_blocks.field_of(proto.DESCRIPTOR, cls.param_field)
        assert field is not None  # as register has checked
        return user_blocks.value_of(proto, field)

    @cached_property  # not property: forward passes read it, and a call is felt there
    def param(self) -> Any:
        """The message of the type's own parameters.

        Raises:
            NetError: the type has none.
        """
        if self.settings is None:
            self.fail(
                "its settings are asked for, but the type has none: register it with param= and "
                "the name of a block, or with message= and a block of its own"
            )
        return self.settings

    @property
    def is_training(self) -> bool:
        """Whether the layer is in phase TRAIN."""
        return self.phase == pb.TRAIN

    @property
    def per_sample(self) -> bool:
        """Whether sample i of the tops depends on sample i of the bottoms alone, deterministically.

        With frozen parameters such a layer has the same output for a sample each time, which can
        be cached. Samples are along axis 0.
        """
        return False

    @property
    def digest(self) -> bytes:
        """A digest of inputs other than blobs and fields, such as a model file; often empty."""
        return b""

    @property
    def blobs(self) -> list[Tensor]:
        """The parameter blobs; one that is shared with a different shape is a view."""
        if self._viewed:
            pairs = zip(self._blobs, self._blob_shapes, strict=True)
            return [blob.view(shape) for blob, shape in pairs]
        return self._blobs  # type: ignore[return-value]  # Parameter is a Tensor; lists invariant

    @property
    def parameters_in_order(self) -> list[nn.Parameter]:
        """The parameter blobs as the tensors that learn, in Caffe's order."""
        return self._blobs

    @property
    def blob_shapes(self) -> list[Shape]:
        """The shapes of the parameter blobs in this layer."""
        return self._blob_shapes

    def add_blob(self, shape: Sequence[int], filler: Any = None) -> None:
        """Add a parameter blob, filled as ``filler`` (a FillerParameter) says, else with zeros."""
        shape = tuple(int(s) for s in shape)
        what = f"parameter blob {len(self._blobs)}"
        self.check_shape(shape, what)
        self.context.parameter_bytes += 4 * math.prod(shape)
        self._check_memory(self.context.parameter_bytes, f"with {what} the net", shape)
        blob = torch.zeros(shape)
        if filler is not None:
            try:
                fill(blob, filler)
            except NetError as error:
                self.fail(error.message)
        self._blobs.append(nn.Parameter(blob))
        self._blob_shapes.append(shape)
        self.register_parameter(str(len(self._blobs) - 1), self._blobs[-1])

    def share_blob(self, index: int, owner: nn.Parameter) -> None:
        """Use another layer's blob as this layer's blob ``index``."""
        self._blobs[index] = owner
        self.register_parameter(str(index), owner)
        shapes = zip(self._blobs, self._blob_shapes, strict=True)
        self._viewed = any(tuple(b.shape) != s for b, s in shapes)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        """Check the settings and the bottoms' shapes, and add the blobs."""

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        """Return the tops' shapes; here by running ``forward`` on tensors without storage."""
        blobs = self._blobs
        self._blobs = [nn.Parameter(b.to("meta")) for b in blobs]
        try:
            with torch.no_grad():
                tops = self.forward(*(torch.empty(s, device="meta") for s in bottom_shapes))
        finally:
            self._blobs = blobs
        return [tuple(top.shape) for top in tops_of(tops)]

    forward: Callable[..., Tops]  # computes the tops from the bottoms

    def run(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Return the tops of the bottoms, by ``forward`` and its hooks.

        Raises:
            NetError: the class is a user's, and its code fails.
        """
        try:
            tops = self(*bottoms)
        except Exception as error:
            self.raise_named(error, "forward")
        return tops_of(tops)

    def raise_named(self, error: Exception, method: str) -> NoReturn:
        """Raise an error of a method; for a user's own class, name the layer and the line."""
        failure = _failure(type(self), self.proto, method, error)
        if failure is None:
            raise error
        raise failure from error

    @contextmanager
    def naming(self, method: str) -> Iterator[None]:
        """Make errors of a user's own class name the layer, the method and the line."""
        try:
            yield
        except Exception as error:
            self.raise_named(error, method)

    def check_backward(self) -> None:
        """Refuse a backward pass with force_backward through a type that has none.

        Raises:
            NetError: it has no backward pass.
        """
        if self.no_backward:
            self.fail(
                "Not Implemented Yet: the type has no backward pass, and force_backward: true "
                "requires one. Use the layer only in phase TEST, or leave force_backward out"
            )

    def explain(self, bottom_shapes: list[Shape]) -> list[str]:
        """Return lines with the layer's formula and its numbers.

        By default, the formula of the class' docstring and the values of its own fields.
        """
        lines, values = formula.of_docstring(type(self).__doc__), formula.settings(self.settings)
        return [*lines, f"with {values}"] if values else lines

    def terms(self, *bottoms: Tensor) -> dict[str, Tensor]:
        """Return the terms of a loss that is a sum, by name; {} if it has a single term."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """Return the state besides its blobs that a resumed run needs."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a state that ``state`` returned."""

    def fingerprint(self) -> dict[str, str]:
        """Return what identifies the data of a data layer; empty for other layers.

        The name of each property that may differ, and its number or checksum.
        """
        return {}

    def reset(self) -> None:
        """Clear the state that earlier forward passes left for the next one."""

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        """Add the ONNX nodes that compute ``tops`` from ``bottoms`` (blob names) to ``graph``."""
        if self.no_onnx:
            raise ExportError(
                f"layer '{self.name}' ({self.type}) cannot be exported: {self.no_onnx}",
                self.proto.source_line or None,
            )
        graph.splice_torch(self, bottoms, tops)

    # ---- for use by layers

    def sum_products(self, operator: Callable[..., Tensor], x: Tensor, *blobs: Tensor) -> Tensor:
        """Return ``operator(x, *blobs)``, with its sums computed in float64 if the run asks for it.

        float32 sums of some hundred products differ between libraries in the last digits, which
        can decide which of two nearly equal values a pooling window selects. Caffe's BLAS sums in
        short blocks, which is closer to the exact sum than torch's kernels.
        """
        y = operator(x, *blobs)
        if self.context.exact_sums and y.dtype == torch.float32:
            with torch.no_grad():
                exact = operator(x.double(), *(blob.double() for blob in blobs)).to(y.dtype)
            y = y + (exact - y.detach())  # the exact value, with the gradient of y
        return y

    def fail(self, fact: str, **received: Any) -> NoReturn:
        """Raise a NetError that names the layer, the fact and the values received."""
        values = ", ".join(f"{k}={_shown(v)}" for k, v in received.items())
        if values:
            fact = f"{fact}. Received: {values}"
        raise NetError(f"layer '{self.name}' ({self.type}): {fact}", self.proto.source_line or None)

    def check_num_output(self) -> None:
        """Fail unless the layer's own settings have a num_output of at least 1."""
        if self.param.num_output >= 1:
            return
        if self.param.HasField("num_output"):
            self.fail("num_output must be at least 1", num_output=self.param.num_output)
        self.fail(
            "num_output must be at least 1. Received: none, as in the last layer of nets of "
            "DIGITS, which fills in the number of classes when it trains"
        )

    def check_shape(self, shape: Shape, what: str) -> Shape:
        """Return ``shape``, or fail if a size is not positive or the count too large."""
        count = 1
        for size in shape:
            if size < 1:
                self.fail(f"every dim of {what} must be at least 1", shape=shape)
            count *= size
        if count > MAX_COUNT:
            self.fail(
                f"{what} is too large: blob size exceeds INT_MAX ({MAX_COUNT} values)", shape=shape
            )
        self._check_memory(4 * count, what, shape)
        return shape

    def _check_memory(self, size: int, what: str, shape: Shape) -> None:
        memory = machine_bytes()
        if memory is not None and size > memory:
            self.fail(
                f"{what} is too large: it takes {size / 2**30:.1f} GB, and this machine has "
                f"{memory / 2**30:.1f} GB of memory",
                shape=shape,
            )

    def check_plane(self, shape: Shape) -> None:
        """Fail unless a bottom has the shape of images: (N, C, H, W)."""
        if len(shape) != 4:
            self.fail(
                "Input must have 4 axes, corresponding to (num, channels, height, width)",
                bottom=shape,
            )

    def axis(self, value: int, rank: int, what: str = "axis") -> int:
        """Return an axis as a non-negative index, given one that may be negative."""
        if not -rank <= value < rank:
            self.fail(f"{what} is out of range for a bottom of {rank} axes", **{what: value})
        return value % rank

    def find(self, path: str) -> Path:
        """Resolve a path: from the working directory, then beside the file of the layer.

        The layer may come from another file than the net, such as the solver's, so the net's file
        is tried last.
        """
        file, _, line = self.proto.source_line.rpartition(":")
        found = find(path, file if line.isdecimal() else None)
        return found if found.exists() else find(path, self.context.file)


def _shown(value: Any) -> str:
    """Return a value for a message: 0.9, not the 0.8999999761581421 that a float field holds."""
    if isinstance(value, list):
        return f"[{', '.join(_shown(x) if isinstance(x, float) else repr(x) for x in value)}]"
    return str(np.float32(value) if isinstance(value, float) else value)


_OURS = f"{__name__.partition('.')[0]}."  # the prefix of this package's modules
_REGISTRY: dict[str, type[Layer]] = {}
AnyLayer = TypeVar("AnyLayer", bound=type[Layer])


def register(
    type_name: str,
    *,
    param: str | None = None,
    message: str | None = None,
    bottoms: int | tuple[int, int | None] = 1,
    tops: int | tuple[int, int | None] = 1,
    origin: str = "Caffe",
) -> Callable[[AnyLayer], AnyLayer]:
    """Make a class the layer type ``type_name``.

    Args:
        type_name: the ``type`` string of the prototxt.
        param: the LayerParameter field with the type's parameters.
        message: a new block for them, for a type of your own, as
            ``"message MyLossParameter { optional float factor = 1 [default = 1]; }"``: the block
            is ``my_loss_param``, or what ``param`` says.
        bottoms: the number of bottoms, or the lowest and highest (``None``: no limit).
        tops: how many tops, likewise.
        origin: who defined the type: "Caffe", the name of a fork of it, or "caffe_kd".

    Raises:
        ValueError: the type is registered already, or the block does not exist or cannot be made.
    """

    def decorate(cls: AnyLayer) -> AnyLayer:
        if type_name in _REGISTRY:
            raise ValueError(f"layer type '{type_name}' is registered already")
        block = param if message is None else user_blocks.define(message, param)
        if block and user_blocks.field_of(pb.LayerParameter.DESCRIPTOR, block) is None:
            raise ValueError(
                f"LayerParameter has no field '{block}': describe the block with message="
            )
        cls.type = type_name
        cls.param_field = block
        cls.origin = origin
        cls.bottoms = (bottoms, bottoms) if isinstance(bottoms, int) else bottoms
        cls.tops = (tops, tops) if isinstance(tops, int) else tops
        if cls.bottoms[0] > 0:
            cls.brings = None
        elif cls.brings is None:
            cls.brings = sources.source_of_type(type_name)
        else:
            sources.declare(type_name, cls.brings)
        _REGISTRY[type_name] = cls
        return cls

    return decorate


def layer_types() -> dict[str, type[Layer]]:
    """Return every registered type by name, in alphabetical order."""
    return dict(sorted(_REGISTRY.items()))


def create(proto: Any, phase: int, context: Context) -> Layer:
    """Create the layer a LayerParameter describes; its blobs come with ``setup``.

    Raises:
        NetError: the type is unknown.
    """
    cls = _REGISTRY.get(proto.type)
    if cls is None:
        raise _unknown_type(proto)
    own_phase: int = proto.phase if proto.HasField("phase") else phase
    try:
        return cls(proto, own_phase, context)
    except Exception as error:
        failure = _failure(cls, proto, "__init__", error)
        if failure is None:
            raise
        raise failure from error


def _failure(cls: type[Layer], proto: Any, method: str, error: Exception) -> NetError | None:
    """Return the error to raise if a user's own class failed; None: the error itself."""
    if isinstance(error, CaffeKDError | MemoryError) or cls.__module__.startswith(_OURS):
        return None
    what = f"layer '{proto.name}' ({proto.type}): {method} of {cls.__name__}"
    return user_code.as_net_error(error, what, proto.source_line or None)


def _unknown_type(proto: Any) -> NetError:
    where = proto.source_line or None
    fact = f"layer '{proto.name}': Unknown layer type: '{proto.type}'."
    fork = foreign.of_unknown_type(proto)
    if fork:
        return NetError(f"{fact} It is not Caffe's: {fork}", where)
    # A misspelt 'type' is a field that is not known.
    foreign.check(proto, f"layer '{proto.name}' ({proto.type})", NetError)
    known = f"Known types: {', '.join(sorted(_REGISTRY))}"
    return NetError(f"{fact}{did_you_mean(proto.type, _REGISTRY)} {known}", where)
