"""Checks of what a net computes: where its numbers differ from those of other frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..analysis.view import Node, View
from ..proto import caffe_pb2 as pb
from .findings import Occurrence, Occurrences, net_check

_FEW_VALUES = 16  # per channel and batch: with fewer the variance is wrong by a third and more
_MANY_POSITIONS = 100
_FAST = 0.001  # a base_lr that is large for inputs of 0 to 255
_LARGE_STD = 0.05  # of weights; ImageNet nets have 0.01 in the first layer
_FILLED_BY = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}


@net_check(
    "numbers",
    why="Caffe rounds the output size up. PyTorch, TensorFlow and most converters round down: "
    "there the output is smaller, and a fully connected layer after it does not fit.",
    do="Nothing here and in our ONNX export; elsewhere use ceil_mode=True. For a new net "
    "round_mode: FLOOR gives their size.",
)
def ceil_pooling(view: View) -> Occurrences:
    """A Pooling whose size depends on the rounding."""
    for node in view.nodes:
        if node.type != "Pooling" or node.built is None:
            continue
        kernel = getattr(node.built.layer, "kernel", None)
        if kernel is None or len(node.built.bottom_shapes[0]) != 4:
            continue
        layer: Any = node.built.layer
        plane = node.built.bottom_shapes[0][2:]
        numbers = zip(plane, kernel, layer.stride, layer.pad, strict=True)
        floor = tuple((e + 2 * p - k) // s + 1 for e, k, s, p in numbers)
        real = node.built.top_shapes[0][2:]
        if real != floor:
            fact = f"{node.called}: {_by(plane)} becomes {_by(real)}; rounding down gives "
            yield Occurrence("note", node.location, f"{fact}{_by(floor)}")
            if not layer.is_max:
                what = "windows at the far edge are divided by their size within the padded input"
                yield Occurrence("note", node.location, f"{node.called}: pool: AVE; {what}")


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


@net_check(
    "numbers",
    why="Ties decide the result: ArgMax takes the highest index (most programs the lowest), "
    "Eltwise MAX gives the gradient to only one bottom, and Accuracy counts a tie as wrong "
    "(before 2017 as right).",
    do="Nothing, if ties are rare. After a ReLU many values are 0: use the scores before it.",
)
def ties(view: View) -> Occurrences:
    """A layer whose output depends on how ties are decided."""
    for node in view.nodes:
        if node.type == "ArgMax":
            yield Occurrence(
                "note", node.location, f"{node.called}: among equal values the highest index wins"
            )
        elif node.type == "Accuracy":
            before = node.source(0)
            if before is not None and before.type == "ReLU":
                fact = f"{node.called}: its scores come from {before.called}, where many are equal"
                yield Occurrence("warning", node.location, fact)
        elif node.type == "Eltwise" and view.learns:
            if node.proto.eltwise_param.operation == pb.EltwiseParameter.MAX:
                fact = "among equal values one bottom gets the gradient"
                yield Occurrence("note", node.location, f"{node.called}: {fact}")


@net_check(
    "numbers",
    why="mirror flips at random in TEST too: two tests of the same weights give different results.",
    do="Leave mirror out of the data layer of TEST.",
)
def mirror_in_test(view: View) -> Occurrences:
    """Random mirroring in TEST."""
    for node in view.data:
        if not view.is_training and view.is_meant and node.proto.transform_param.mirror:
            yield Occurrence("warning", node.location, f"{node.called}: mirror: true in TEST")


@net_check(
    "numbers",
    why="Since 2015 Caffe reads the field and ignores it in Data layers: training starts at the "
    "first sample.",
    do="Leave it out.",
)
def rand_skip(view: View) -> Occurrences:
    """rand_skip of a Data layer."""
    for node in view.data:
        if node.type == "Data" and node.proto.data_param.rand_skip:
            skip = node.proto.data_param.rand_skip
            yield Occurrence(
                "note", node.location, f"{node.called}: rand_skip: {skip} has no effect"
            )


@net_check(
    "numbers",
    why="Pixels of 0 to 255 enter the net unscaled. With fillers designed for values around 1 the "
    "first losses are large and training may diverge.",
    do="transform_param { scale: 0.00390625 }, or a mean_file or mean_value.",
)
def raw_pixels(view: View) -> Occurrences:
    """Images without scale and mean."""
    for node in view.data if view.learns else ():
        transform = node.proto.transform_param
        if node.type not in ("Data", "ImageData", "WindowData"):
            continue
        if transform.scale == 1 and not transform.mean_file and not transform.mean_value:
            if any(_starts_by_scaling(child) for child in node.children):
                continue
            risky = next((child for child in node.children if _is_too_fast(view, child)), None)
            if risky is None:
                yield Occurrence("note", node.location, f"{node.called}: neither scale nor mean")
                continue
            yield Occurrence(
                "warning",
                node.location,
                f"{node.called}: neither scale nor mean, and {risky.called} has large weights for "
                f"such values; with base_lr {view.solver.base_lr:g} training is likely to diverge "
                "or to stay at chance",
            )


def _is_too_fast(view: View, node: Node) -> bool:
    """Return whether a layer on raw pixels gets updates that are likely to make it diverge.

    The xavier and msra fillers keep the scale of the input, about 100, while a gaussian of small
    std, as in ImageNet nets, reduces it; BatchNorm or LRN after the layer normalizes it.
    """
    solver = view.solver
    if solver is None or solver.type not in ("SGD", "Nesterov") or solver.base_lr < _FAST:
        return False
    if node.type not in ("Convolution", "InnerProduct"):
        return False
    filler = getattr(node.proto, _FILLED_BY[node.type]).weight_filler
    large = filler.type in ("xavier", "msra") or (
        filler.type == "gaussian" and filler.std >= _LARGE_STD
    )
    learns = not any(param.lr_mult == 0 for param in node.proto.param[:1])
    return large and learns and not any(_normalises(child) for child in _behind(node))


def _normalises(node: Node) -> bool:
    return node.type in ("BatchNorm", "BN", "MVN", "LRN", "LayerNorm", "Normalize")


def _behind(node: Node) -> Iterator[Node]:
    """Yield the consumers of a layer's top, through activations and pooling."""
    for child in node.children:
        yield child
        if child.type in ("ReLU", "PReLU", "Pooling", "Dropout"):
            yield from _behind(child)


def _starts_by_scaling(node: Node) -> bool:
    return node.type in ("Power", "Scale", "BatchNorm", "BN", "MVN", "Bias")


@net_check(
    "numbers",
    why="A sample's output depends on the others in its batch, and each test changes the stored "
    "statistics.",
    do="Leave use_global_stats out: it is then true in TEST and false in TRAIN.",
)
def batch_statistics_in_test(view: View) -> Occurrences:
    """A BatchNorm that uses the batch's statistics in TEST."""
    if view.is_training:
        return
    for node in view.nodes:
        param = node.proto.batch_norm_param
        if node.type != "BatchNorm":
            continue
        if param.HasField("use_global_stats") and not param.use_global_stats:
            yield Occurrence(
                "warning", node.location, f"{node.called}: use_global_stats: false in TEST"
            )
        elif node.proto.HasField("phase") and node.proto.phase == pb.TRAIN:
            yield Occurrence(
                "warning", node.location, f"{node.called}: phase: TRAIN in the net of TEST"
            )


@net_check(
    "numbers",
    why="The stored statistics are initially 0, and with use_global_stats they stay 0: the layer "
    "divides by the root of eps, that is, multiplies by 316.",
    do="Start from weights that have statistics, or leave use_global_stats out of TRAIN.",
)
def stored_statistics_in_train(view: View) -> Occurrences:
    """A BatchNorm that uses stored statistics in TRAIN, although no weights provide them."""
    if not view.learns:
        return
    for node in view.nodes:
        param = node.proto.batch_norm_param
        frozen = param.use_global_stats if param.HasField("use_global_stats") else None
        if node.type != "BatchNorm" or frozen is not True or view.of_teacher(node):
            continue
        if not view.has_weights(node):
            severity = "warning" if view.solver is not None or view.weights else "note"
            yield Occurrence(
                severity, node.location, f"{node.called}: use_global_stats: true in TRAIN"
            )


@net_check(
    "numbers",
    why="Mean and variance of so few values are mostly noise; for a single value the output is 0.",
    do="Raise batch_size. iter_size does not help: each of its batches is normalized separately.",
)
def few_values_for_statistics(view: View) -> Occurrences:
    """A BatchNorm in TRAIN over few values per channel."""
    if not view.learns:
        return
    for node in view.nodes:
        if node.built is None or node.type not in ("BatchNorm", "BN"):
            continue
        if getattr(node.built.layer, "use_global_stats", False):
            continue
        shape = node.built.bottom_shapes[0]
        values = math.prod(shape) // (shape[1] if len(shape) > 1 else 1)
        if values < _FEW_VALUES:
            fact = f"{node.called}: {values} value(s) per channel in a batch"
            yield Occurrence("warning", node.location, fact)


@net_check(
    "numbers",
    why="These losses are divided only by the number of samples. With many values or positions "
    "loss and gradient are as many times larger, and need a smaller learning rate.",
    do="Give the layer a small loss_weight; SigmoidCrossEntropyLoss takes "
    "loss_param { normalization: FULL }.",
)
def loss_over_many_values(view: View) -> Occurrences:
    """A loss that sums over many values of a sample."""
    if not view.learns:
        return
    for node in view.nodes:
        if node.type not in ("EuclideanLoss", "SigmoidCrossEntropyLoss") or node.built is None:
            continue
        if node.proto.loss_param.HasField("normalization") or node.proto.loss_weight:
            continue
        shape = node.built.bottom_shapes[0]
        values = math.prod(shape[1:])
        if values > _MANY_POSITIONS:
            fact = f"{node.called}: sums over {values} values of a sample, with loss_weight 1"
            yield Occurrence("note", node.location, fact)
