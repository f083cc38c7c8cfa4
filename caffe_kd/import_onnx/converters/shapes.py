"""Nodes that move values: to other shapes, orders and places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .. import steps
from ..draft import CannotBeMeant, Draft, Node
from ..registry import converts
from .pools import whole


@converts("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(draft: Draft, node: Node) -> str:
    return steps.reshape(draft, node.blob(), node.made())


@converts("Transpose")
def _transpose(draft: Draft, node: Node) -> str:
    order = node.get("perm") or list(range(len(node.shape())))[::-1]
    return steps.permute(draft, node.blob(), order)


@converts("Concat")
def _concat(draft: Draft, node: Node) -> str:
    return steps.concat(draft, [node.blob(i) for i in range(len(node.inputs))], node.axis(1))


@converts("Split")
def _split(draft: Draft, node: Node) -> Sequence[str]:
    axis = node.axis(0)
    sizes = [node.made(i)[0][axis] for i in range(len(node.outputs))]
    return steps.cut(draft, node.blob(), axis, sizes)


@converts("Slice")
def _slice(draft: Draft, node: Node) -> str:
    starts, ends = node.numbers("starts", 1) or [], node.numbers("ends", 2) or []
    axes = node.numbers("axes", 3) or list(range(len(starts)))
    paces = node.numbers("steps", 4) or [1] * len(starts)
    x, rank = node.blob(), len(node.shape())
    for start, end, axis, pace in zip(starts, ends, axes, paces, strict=True):
        axis = axis + rank if axis < 0 else axis
        kept = [range(s[axis])[start:end:pace] for s in draft.shapes[x]]
        if all(k == range(s[axis]) for k, s in zip(kept, draft.shapes[x], strict=True)):
            continue
        node.need(len(set(kept)) == 1, "it cuts the batch, whose size varies")
        x = _strided(draft, x, axis, kept[0])
    return x


def _strided(draft: Draft, x: str, axis: int, kept: range) -> str:
    """Keep the positions of a range, by a pooling of single values where its step is above 1."""
    if kept.step < 2 or axis < 2 or len(draft.shape(x)) != 4 or len(kept) < 2:
        return steps.take(draft, x, axis, list(kept))
    x = steps.part(draft, x, axis, kept.start, kept[-1] + 1)
    height, width = (kept.step, 1) if axis == 2 else (1, kept.step)
    settings = {"kernel_size": 1, "stride_h": height, "stride_w": width, "round_mode": "FLOOR"}
    return draft.layer("Pooling", x, pooling_param=settings)


@converts("Expand")
def _expand(draft: Draft, node: Node) -> str:
    return steps.expand(draft, node.blob(), node.made())


@converts("Tile")
def _tile(draft: Draft, node: Node) -> str:
    x, repeats = node.blob(), node.numbers("repeats", 1) or []
    for axis, tiles in enumerate(repeats):
        if tiles != 1:
            node.need(axis > 0 or draft.runs == 1, "it repeats the batch")
            x = draft.layer("Tile", x, tile_param={"axis": axis, "tiles": tiles})
    return x


@converts("Pad")
def _pad(draft: Draft, node: Node) -> str | Sequence[str]:
    rank, mode = len(node.shape()), node.get("mode", "constant")
    pads = _pads(node, rank)
    begin, end = pads[:rank], pads[rank:]
    value = node.number("value", 2, 0.0) or 0.0
    x = node.blob()
    readers = draft.readers(node.outputs[0])
    only_planes = not any(begin[:2] + end[:2]) and min(pads) >= 0
    # A convolution pads its bottom itself.
    if mode == "constant" and value == 0 and only_planes:
        if all(_pads_itself(reader, node.outputs[0]) for reader in readers):
            draft.put_off[node.outputs[0]] = (x, pads)
            return []
    for axis in range(rank):
        before, after = begin[axis], end[axis]
        if not before and not after:
            continue
        if mode == "constant":
            x = steps.pad(draft, x, axis, before, after, value)
        else:
            count = draft.shape(x)[axis]
            places = np.pad(np.arange(count), (before, after), mode=mode).tolist()
            x = steps.take(draft, x, axis, places)
    return x


def _pads_itself(reader: Node | None, value: str) -> bool:
    return reader is not None and reader.op == "Conv" and reader.inputs[0] == value


def _pads(node: Node, rank: int) -> list[int]:
    given = node.numbers("pads", 1)
    if given is None:
        given = [int(p) for p in node.get("paddings") or [0] * 2 * rank]
    axes = node.numbers("axes", 3)
    if axes is None:
        return given
    pads = [0] * 2 * rank
    for index, axis in enumerate(axes):
        pads[axis % rank], pads[rank + axis % rank] = given[index], given[len(axes) + index]
    return pads


@converts("DepthToSpace")
def _depth_to_space(draft: Draft, node: Node) -> str:
    x, b = node.blob(), node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        parts = draft.each(x, lambda s: (s[0], b, b, s[1] // b**2, s[2], s[3]))
        order = [0, 3, 4, 1, 5, 2]
    else:
        parts = draft.each(x, lambda s: (s[0], s[1] // b**2, b, b, s[2], s[3]))
        order = [0, 1, 4, 2, 5, 3]
    turned = steps.permute(draft, steps.reshape(draft, x, parts), order)
    return steps.reshape(draft, turned, node.made())


@converts("SpaceToDepth")
def _space_to_depth(draft: Draft, node: Node) -> str:
    x, b = node.blob(), node.get("blocksize")
    parts = draft.each(x, lambda s: (s[0], s[1], s[2] // b, b, s[3] // b, b))
    turned = steps.permute(draft, steps.reshape(draft, x, parts), [0, 3, 5, 1, 2, 4])
    return steps.reshape(draft, turned, node.made())


# ---- reductions

_REDUCED = {
    "ReduceMean": "MEAN",
    "ReduceSum": "SUM",
    "ReduceL1": "ASUM",
    "ReduceSumSquare": "SUMSQ",
    "ReduceL2": "SUMSQ",
    "ReduceLogSum": "SUM",
}


@converts(*_REDUCED, "ReduceMax", "ReduceMin")
def _reduce(draft: Draft, node: Node) -> str:
    rank, x = len(node.shape()), node.blob()
    axes = node.numbers("axes", 1)
    if not axes:
        if node.get("noop_with_empty_axes", 0):
            return x
        axes = list(range(rank))
    axes = sorted(axis % rank for axis in axes)
    node.need(axes[0] > 0 or draft.runs == 1, "it reduces the batch to one value")
    is_largest = node.op in ("ReduceMax", "ReduceMin")
    if rank == 4 and axes == [2, 3] and (is_largest or node.op == "ReduceMean"):
        if node.op != "ReduceMin":
            return whole(draft, x, "MAX" if is_largest else "AVE", node)
    rest = [axis for axis in range(rank) if axis not in axes]
    x = steps.permute(draft, x, rest + axes)
    if is_largest:
        return _largest(draft, node, x, len(rest))
    y = steps.reduce(draft, x, _REDUCED[node.op], len(rest))
    if node.op == "ReduceL2":
        y = steps.power(draft, y, power=0.5)
    if node.op == "ReduceLogSum":
        y = draft.layer("Log", y)
    return steps.reshape(draft, y, node.made())


def _largest(draft: Draft, node: Node, x: str, kept: int) -> str:
    """Return the largest or least value of the axes from one on."""
    node.need(kept > 0, "it reduces the batch to one value")
    sign = -1 if node.op == "ReduceMin" else 1
    x = steps.power(draft, x, scale=sign)
    plane = draft.each(x, lambda s: (s[0], math.prod(s[1:kept]), 1, math.prod(s[kept:])))
    x = steps.reshape(draft, x, plane)
    y = draft.layer("Pooling", x, pooling_param={"pool": "MAX", "global_pooling": True})
    return steps.reshape(draft, steps.power(draft, y, scale=sign), node.made())


@converts("ArgMax", "ArgMin")
def _arg_max(draft: Draft, node: Node) -> str:
    node.need(not node.get("select_last_index", 0), "of equal values it takes the last")
    x = steps.power(draft, node.blob(), scale=1 if node.op == "ArgMax" else -1)
    y = draft.layer("ArgMax", x, argmax_param={"axis": node.axis(0)})
    return steps.reshape(draft, y, node.made())


# ---- resizing


@converts("Resize", "Upsample")
def _resize(draft: Draft, node: Node) -> str:
    x, before, after = node.blob(), node.shape(), node.made()[0]
    node.need(before[:2] == after[:2] and len(before) > 2, "it resizes other axes than a plane's")
    linear = node.get("mode", "nearest") == "linear"
    corners = node.get("coordinate_transformation_mode") == "align_corners"
    if linear and corners and len(before) == 4 and not draft.for_caffe:
        height, width = after[2:]
        return draft.layer("Interp", x, interp_param={"height": height, "width": width})
    for axis in range(2, len(before)):
        if before[axis] != after[axis] or node.get("mode", "nearest") == "cubic":
            x = _resized(draft, node, x, axis, after[axis])
    return x


def _resized(draft: Draft, node: Node, x: str, axis: int, size: int) -> str:
    """Resize one axis: repeat values, take some of them, or multiply by a matrix."""
    matrix = _matrix(draft, node, axis)
    length = matrix.shape[1]
    if np.isin(matrix, (0, 1)).all() and (matrix.sum(1) == 1).all():
        places = matrix.argmax(1).tolist()
        times = size // length
        if times > 1 and places == np.repeat(np.arange(length), times).tolist():
            with_one = draft.each(x, lambda s: (*s[: axis + 1], 1, *s[axis + 1 :]))
            repeated = draft.each(x, lambda s: (*s[:axis], s[axis] * times, *s[axis + 1 :]))
            y = steps.reshape(draft, x, with_one)
            y = draft.layer("Tile", y, tile_param={"axis": axis + 1, "tiles": times})
            return steps.reshape(draft, y, repeated)
        return steps.take(draft, x, axis, places)
    rank = len(draft.shape(x))
    order = [a for a in range(rank) if a != axis] + [axis]
    x = steps.permute(draft, x, order)
    settings = {"num_output": size, "bias_term": False, "axis": rank - 1}
    y = draft.layer("InnerProduct", x, blobs=[matrix], frozen=True, inner_product_param=settings)
    return steps.permute(draft, y, np.argsort(order).tolist())


def _matrix(draft: Draft, node: Node, axis: int) -> np.ndarray:
    """Return the matrix (new size, old size) that resizes an axis, as ONNX Runtime does it."""
    import onnx

    length, size = node.shape()[axis], node.made()[0][axis]
    made = onnx.NodeProto()
    made.CopyFrom(next(p for p in draft.model.proto.graph.node if list(p.output) == node.outputs))
    for attribute in [a for a in made.attribute if a.name in ("scales", "axes")]:
        made.attribute.remove(attribute)
    scales = _scales(node)
    by_size = scales is None
    opset = draft.opset
    if opset < 11:
        made.input[:] = ["x", "scales"]
    else:
        made.input[:] = ["x", "", "", "sizes"] if by_size else ["x", "", "scales"]
    values = [1.0, 1.0, 1.0, scales[axis] if scales is not None else 1.0]
    constants = [
        onnx.numpy_helper.from_array(np.array(values, np.float32), "scales"),
        onnx.numpy_helper.from_array(np.array([1, 1, length, size]), "sizes"),
    ]
    made.output[:] = ["y"]
    if node.op == "Upsample" and opset < 9:
        made.input[:] = ["x"]
        made.attribute.append(onnx.helper.make_attribute("scales", values))
    x = onnx.helper.make_tensor_value_info("x", 1, [1, 1, length, length])
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    constants = [c for c in constants if c.name in made.input]
    graph = onnx.helper.make_graph([made], "axis", [x], [y], constants)
    model = onnx.helper.make_model(graph, opset_imports=draft.model.proto.opset_import)
    model.ir_version = draft.model.proto.ir_version
    (result,) = draft.model.run_other(
        model, {"x": np.eye(length, dtype=np.float32)[None, None]}, ["y"]
    )
    return np.asarray(result[0, 0].T)


def _scales(node: Node) -> list[float] | None:
    """Return a node's factors for all axes, or None if it gives sizes."""
    given = node.get("scales")
    place = 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2
    if given is None and node.has(place):
        constant = node.constant(place)
        if constant is None:
            raise CannotBeMeant("its scales are computed from the data")
        given = constant.tolist()
    if not given:
        return None
    factors = [1.0] * len(node.shape())
    axes = node.get("axes") or range(len(factors))
    for axis, factor in zip(axes, given, strict=True):
        factors[axis] = float(factor)
    return factors
