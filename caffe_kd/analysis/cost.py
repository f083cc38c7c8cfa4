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
from ..net import LayerNode, Net
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
        multiply_adds: for one sample.
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
        batch: samples in a batch, which is axis 0 of the first input.
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
        """Multiply-adds of one sample."""
        return sum(row.multiply_adds for row in self.rows)


def cost_of(net: Net, is_trained: bool = False) -> Cost:
    """Count what a net costs; its parameters need have no values."""
    shapes = [s for x in net.nodes if source_of_layer(x.layer.proto) in DATA for s in x.top_shapes]
    first = shapes[0] if shapes else ()
    batch = max(1, first[0] if first else 1)
    owned = {(id(p.layer), p.index) for p in net.params}
    rows = []
    for node in net.nodes:
        sizes = [math.prod(shape) for shape in node.layer.blob_shapes]
        parameters = sum(n for i, n in enumerate(sizes) if (id(node.layer), i) in owned)
        count = _COUNTS.get(node.layer.type, _nothing)
        rows.append(
            Row(
                name=node.layer.name,
                type=node.layer.type,
                tops=list(node.top_shapes),
                parameters=parameters,
                multiply_adds=round(count(node) / batch),
            )
        )
    return Cost(
        rows=rows,
        batch=batch,
        learned=sum(p.blob.numel() for p in net.params if p.lr_mult) if is_trained else None,
        layers=len(net.param.layer),
        blob_bytes=_FLOAT * sum(math.prod(shape) for shape in net.shapes.values()),
        receptive=_receptive(net.nodes),
    )


# ---- multiply-adds of a batch, by type


def _nothing(_step: LayerNode) -> int:
    return 0


def _each_value(node: LayerNode) -> int:
    return math.prod(node.top_shapes[0])


def _convolution(node: LayerNode) -> int:
    filter_size = math.prod(node.layer.blob_shapes[0][1:])
    return sum(math.prod(top) for top in node.top_shapes) * filter_size


def _deconvolution(node: LayerNode) -> int:
    filter_size = math.prod(node.layer.blob_shapes[0][1:])
    return sum(math.prod(bottom) for bottom in node.bottom_shapes) * filter_size


def _inner_product(node: LayerNode) -> int:
    outputs = node.layer.param.num_output
    return math.prod(node.top_shapes[0]) // outputs * math.prod(node.layer.blob_shapes[0])


def _recurrent(node: LayerNode) -> int:
    """Every matrix works once a step of each stream; a static input's once a stream."""
    nodes, streams = node.bottom_shapes[0][:2]
    matrices = [math.prod(s) for s in node.layer.blob_shapes if len(s) > 1]
    if len(node.bottoms) > 2:
        static = matrices.pop(1)
        return streams * static + nodes * streams * sum(matrices)
    return nodes * streams * sum(matrices)


def _pooling(node: LayerNode) -> int:
    plane = node.bottom_shapes[0][2:]
    kernel = getattr(node.layer, "kernel", None) or plane
    return math.prod(node.top_shapes[0]) * math.prod(kernel)


def _lrn(node: LayerNode) -> int:
    param = node.layer.param
    across = param.norm_region == pb.LRNParameter.ACROSS_CHANNELS
    window = param.local_size if across else param.local_size**2
    return math.prod(node.top_shapes[0]) * int(window)


def _eltwise(node: LayerNode) -> int:
    return math.prod(node.top_shapes[0]) * (len(node.bottoms) - 1)


_COUNTS: dict[str, Callable[[LayerNode], int]] = {
    "BN": _each_value,
    "BatchNorm": _each_value,
    "Bias": _each_value,
    "Convolution": _convolution,
    "ConvolutionDepthwise": _convolution,
    "ConvolutionRistretto": _convolution,
    "Deconvolution": _deconvolution,
    "DeconvolutionRistretto": _deconvolution,
    "DepthwiseConvolution": _convolution,
    "Eltwise": _eltwise,
    "FcRistretto": _inner_product,
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


def _receptive(nodes: Iterable[LayerNode]) -> tuple[str, int, int] | None:
    """Return the receptive field of the deepest blob that still has planes."""
    views: dict[str, _View] = {}
    deepest: tuple[str, int, int] | None = None
    for node in nodes:
        tops = [(name, s) for name, s in zip(node.tops, node.top_shapes, strict=True)]
        if not node.bottoms:
            views.update((name, (1, 1, 1, 1)) for name, shape in tops if len(shape) == 4)
            continue
        before = [views[name] for name in node.bottoms if name in views]
        if len(before) < len(node.bottoms):
            for name in node.tops:
                views.pop(name, None)
            continue
        view = _through(node, before)
        for name, shape in tops:
            views.pop(name, None)
            if view is not None and len(shape) == 4:
                views[name] = view
                if view != (1, 1, 1, 1) and node.layer.type in _WINDOWED:
                    deepest = (name, view[0], view[1])
    return deepest


_WINDOWED = {
    "Convolution",
    "ConvolutionDepthwise",
    "ConvolutionRistretto",
    "DepthwiseConvolution",
    "Pooling",
}
_SIZED = {"InnerProduct", "Deconvolution", "Reshape", "Flatten", "Crop", "Interp", "Upsample"}


def _through(node: LayerNode, before: list[_View]) -> _View | None:
    """Return the receptive field of a layer's values; None where it is everything or no window."""
    if node.layer.type in _SIZED or len({view[2:] for view in before}) > 1:
        return None
    rows, columns = max(v[0] for v in before), max(v[1] for v in before)
    _, _, down, right = before[0]
    window = _window(node)
    if window is None:
        return None if node.layer.type in _WINDOWED else (rows, columns, down, right)
    (high, wide), (step_down, step_right) = window
    return (
        rows + (high - 1) * down,
        columns + (wide - 1) * right,
        down * step_down,
        right * step_right,
    )


def _window(node: LayerNode) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return size and stride of a layer's window, or None if it has none or covers everything."""
    layer = node.layer
    if layer.type == "Pooling":
        kernel, stride = getattr(layer, "kernel", None), getattr(layer, "stride", None)
        return None if kernel is None or stride is None else (kernel, stride)
    window = getattr(layer, "window", None)
    if layer.type not in _WINDOWED or window is None or len(window.kernel) != 2:
        return None
    lengths = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    return tuple(lengths), tuple(window.stride)
