"""What a net costs: parameters, multiply-adds, memory of the blobs, and what each value sees.

A multiply-add is one product that is added up. Of layers without weights, the steps of their sums,
comparisons and products are counted in its place: a window's values in pooling, the channels that
LRN sums, each value of Scale, BatchNorm, PReLU and each further bottom of Eltwise. Activations,
copies, softmax and losses count as nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..layers import Shape
from ..net import Net, Step
from ..proto import caffe_pb2 as pb
from ..proto.sources import DATA, source_of_layer

_FLOAT = 4  # bytes


@dataclass
class Row:
    """What one layer costs.

    Attributes:
        name: the layer.
        type: its type.
        tops: the shapes of its tops, for a batch.
        parameters: how many values its blobs have; 0 of a blob that another layer owns.
        multiply_adds: for one record.
    """

    name: str
    type: str
    tops: list[Shape]
    parameters: int
    multiply_adds: int


@dataclass
class Cost:
    """What a net costs.

    Attributes:
        rows: the layers in their order.
        batch: records in a batch, which is axis 0 of the first input.
        learned: how many of the parameters learn; None of a net that is not trained.
        layers: how many layers the net has, those that could not be built included.
        blob_bytes: what the values of all blobs of a batch take.
        receptive: what a value of the deepest planes sees of the input: the blob, height and width;
            None where the net has no planes or sees all.
    """

    rows: list[Row] = field(default_factory=list)
    batch: int = 1
    learned: int | None = None
    layers: int = 0
    blob_bytes: int = 0
    receptive: tuple[str, int, int] | None = None

    @property
    def parameters(self) -> int:
        """How many values all parameters have."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one record."""
        return sum(row.multiply_adds for row in self.rows)


def cost_of(net: Net, is_trained: bool = False) -> Cost:
    """Count what a net costs; its parameters need have no values."""
    shapes = [s for x in net.steps if source_of_layer(x.layer.proto) in DATA for s in x.top_shapes]
    first = shapes[0] if shapes else ()
    batch = max(1, first[0] if first else 1)
    owned = {(id(p.layer), p.index) for p in net.params}
    rows = []
    for step in net.steps:
        sizes = [math.prod(shape) for shape in step.layer.blob_shapes]
        parameters = sum(n for i, n in enumerate(sizes) if (id(step.layer), i) in owned)
        count = _COUNTS.get(step.layer.type, _nothing)
        rows.append(
            Row(
                name=step.layer.name,
                type=step.layer.type,
                tops=list(step.top_shapes),
                parameters=parameters,
                multiply_adds=round(count(step) / batch),
            )
        )
    return Cost(
        rows=rows,
        batch=batch,
        learned=sum(p.blob.numel() for p in net.params if p.lr_mult) if is_trained else None,
        layers=len(net.param.layer),
        blob_bytes=_FLOAT * sum(math.prod(shape) for shape in net.shapes.values()),
        receptive=_receptive(net.steps),
    )


# ---- multiply-adds of a batch, by type


def _nothing(_step: Step) -> int:
    return 0


def _each_value(step: Step) -> int:
    return math.prod(step.top_shapes[0])


def _convolution(step: Step) -> int:
    filter_size = math.prod(step.layer.blob_shapes[0][1:])
    return sum(math.prod(top) for top in step.top_shapes) * filter_size


def _deconvolution(step: Step) -> int:
    filter_size = math.prod(step.layer.blob_shapes[0][1:])
    return sum(math.prod(bottom) for bottom in step.bottom_shapes) * filter_size


def _inner_product(step: Step) -> int:
    outputs = step.layer.param.num_output
    return math.prod(step.top_shapes[0]) // outputs * math.prod(step.layer.blob_shapes[0])


def _recurrent(step: Step) -> int:
    """Every matrix works once a step of each stream; a static input's once a stream."""
    steps, streams = step.bottom_shapes[0][:2]
    matrices = [math.prod(s) for s in step.layer.blob_shapes if len(s) > 1]
    if len(step.bottoms) > 2:
        static = matrices.pop(1)
        return streams * static + steps * streams * sum(matrices)
    return steps * streams * sum(matrices)


def _pooling(step: Step) -> int:
    plane = step.bottom_shapes[0][2:]
    kernel = getattr(step.layer, "kernel", None) or plane
    return math.prod(step.top_shapes[0]) * math.prod(kernel)


def _lrn(step: Step) -> int:
    param = step.layer.param
    across = param.norm_region == pb.LRNParameter.ACROSS_CHANNELS
    window = param.local_size if across else param.local_size**2
    return math.prod(step.top_shapes[0]) * int(window)


def _eltwise(step: Step) -> int:
    return math.prod(step.top_shapes[0]) * (len(step.bottoms) - 1)


_COUNTS: dict[str, Callable[[Step], int]] = {
    "BN": _each_value,
    "BatchNorm": _each_value,
    "Bias": _each_value,
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "Deconvolution": _deconvolution,
    "DepthwiseConvolution": _convolution,
    "Eltwise": _eltwise,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "LSTM": _recurrent,
    "PReLU": _each_value,
    "Pooling": _pooling,
    "RNN": _recurrent,
    "Scale": _each_value,
}


# ---- what a value sees

_View = tuple[int, int, int, int]  # rows and columns seen, and the steps between neighbours


def _receptive(steps: Iterable[Step]) -> tuple[str, int, int] | None:
    """Follow windows from the inputs on; the deepest blob that is still planes is told."""
    views: dict[str, _View] = {}
    deepest: tuple[str, int, int] | None = None
    for step in steps:
        tops = [(name, s) for name, s in zip(step.tops, step.top_shapes, strict=True)]
        if not step.bottoms:
            views.update((name, (1, 1, 1, 1)) for name, shape in tops if len(shape) == 4)
            continue
        before = [views[name] for name in step.bottoms if name in views]
        if len(before) < len(step.bottoms):
            for name in step.tops:
                views.pop(name, None)
            continue
        view = _through(step, before)
        for name, shape in tops:
            views.pop(name, None)
            if view is not None and len(shape) == 4:
                views[name] = view
                if view != (1, 1, 1, 1) and step.layer.type in _WINDOWED:
                    deepest = (name, view[0], view[1])
    return deepest


_WINDOWED = {"Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Pooling"}
_SIZED = {"InnerProduct", "Deconvolution", "Reshape", "Flatten", "Crop", "Interp", "Upsample"}


def _through(step: Step, before: list[_View]) -> _View | None:
    """Return what a layer's values see; None where that is all, or is no window."""
    if step.layer.type in _SIZED or len({view[2:] for view in before}) > 1:
        return None
    rows, columns = max(v[0] for v in before), max(v[1] for v in before)
    _, _, down, right = before[0]
    window = _window(step)
    if window is None:
        return None if step.layer.type in _WINDOWED else (rows, columns, down, right)
    (high, wide), (step_down, step_right) = window
    return (
        rows + (high - 1) * down,
        columns + (wide - 1) * right,
        down * step_down,
        right * step_right,
    )


def _window(step: Step) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return extents and strides of a layer's window, or None if it has none, or sees all."""
    layer = step.layer
    if layer.type == "Pooling":
        kernel, stride = getattr(layer, "kernel", None), getattr(layer, "stride", None)
        return None if kernel is None or stride is None else (kernel, stride)
    window = getattr(layer, "window", None)
    if layer.type not in _WINDOWED or window is None or len(window.kernel) != 2:
        return None
    extents = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    return tuple(extents), tuple(window.stride)
