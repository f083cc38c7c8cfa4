"""Small steps of several converters: layers that reshape, reorder, cut, pad, scale and combine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..layers import Shape
from .draft import CannotBeMeant, Draft

_MOST_PIECES = 256  # layers that cut a blob into this many parts are too many to be of use


def reshape(draft: Draft, x: str, shapes: Sequence[Shape]) -> str:
    """Give a blob another shape, that of each run; its dim 0 is kept free where it is the same."""
    before = draft.shapes[x]
    shapes = [tuple(shape) for shape in shapes]
    if before == shapes:
        return x
    dims = [_dim(axis, before, shapes) for axis in range(len(shapes[0]))]
    if dims.count(-1) > 1:
        raise CannotBeMeant(f"it changes a shape {before[0]} to {shapes[0]} whatever the batch is")
    if len(dims) == 2 and dims[0] == 0 and len(before[0]) > 2:
        return draft.layer("Flatten", x)
    if not dims:
        raise CannotBeMeant("it makes a number of a blob")
    return draft.layer("Reshape", x, reshape_param={"shape": {"dim": dims}})


def _dim(axis: int, before: Sequence[Shape], after: Sequence[Shape]) -> int:
    sizes = [shape[axis] for shape in after]
    old = [shape[axis] if axis < len(shape) else None for shape in before]
    if sizes == old and (axis == 0 or len(set(sizes)) > 1):
        return 0
    return sizes[0] if len(set(sizes)) == 1 else -1


def permute(draft: Draft, x: str, order: Sequence[int]) -> str:
    """Reorder a blob's axes."""
    order = list(order)
    shape = draft.shape(x)
    shapes = draft.each(x, lambda s: tuple(s[axis] for axis in order))
    moved = [axis for axis in order if shape[axis] != 1 or draft.shapes[x][-1][axis] != 1]
    if moved == sorted(moved):
        return reshape(draft, x, shapes)
    if not draft.for_caffe:
        return draft.layer("Permute", x, permute_param={"order": order})
    return _permute_in_pieces(draft, x, order)


def _permute_in_pieces(draft: Draft, x: str, order: list[int]) -> str:
    """Reorder axes by cutting and joining alone: BVLC Caffe has no Permute."""
    now = list(range(len(order)))
    for place, axis in enumerate(order):
        if now[place] == axis:
            continue
        source = now.index(axis)
        size = draft.shape(x)[source]
        if len({shape[source] for shape in draft.shapes[x]}) > 1 or size > _MOST_PIECES:
            raise CannotBeMeant(
                f"BVLC Caffe has no Permute, and an axis of {size} is too long to be cut apart"
            )

        def moved(shape: Shape, source: int = source, place: int = place) -> Shape:
            rest = list(shape)
            rest.insert(place, rest.pop(source))
            return tuple(rest)

        pieces = cut(draft, x, source, [1] * size)
        turned = [reshape(draft, p, draft.each(p, moved)) for p in pieces]
        x = concat(draft, turned, place)
        now.insert(place, now.pop(source))
    return x


def concat(draft: Draft, parts: Sequence[str], axis: int) -> str:
    """Join blobs along an axis."""
    if len(parts) == 1:
        return parts[0]
    return draft.layer("Concat", parts, concat_param={"axis": axis})


def cut(draft: Draft, x: str, axis: int, sizes: Sequence[int]) -> list[str]:
    """Cut a blob into pieces of these sizes."""
    sizes = list(sizes)
    if len(sizes) == 1:
        return [x]
    if len({shape[axis] for shape in draft.shapes[x]}) > 1:
        raise CannotBeMeant("it cuts the batch, whose size varies")
    points = np.cumsum(sizes)[:-1].tolist()
    return draft.layer_of_tops(
        "Slice", x, len(sizes), slice_param={"axis": axis, "slice_point": points}
    )


def part(draft: Draft, x: str, axis: int, start: int, stop: int) -> str:
    """Return positions ``start`` to ``stop`` of an axis."""
    length = draft.shape(x)[axis]
    sizes = [start, stop - start, length - stop]
    if stop <= start:
        raise CannotBeMeant("it keeps nothing of an axis")
    if start == 0 and stop == length and len({s[axis] for s in draft.shapes[x]}) == 1:
        return x
    pieces = cut(draft, x, axis, [size for size in sizes if size])
    kept = 1 if start else 0
    others = [piece for index, piece in enumerate(pieces) if index != kept]
    if others:
        silence(draft, others)
    return pieces[kept]


def silence(draft: Draft, blobs: Sequence[str]) -> None:
    """Consume blobs that nothing reads, so that they are no outputs of the net."""
    draft.layer_of_tops("Silence", blobs, 0)


def take(draft: Draft, x: str, axis: int, indices: Sequence[int]) -> str:
    """Return the positions of an axis that indices name, in their order, repeated or not."""
    length = draft.shape(x)[axis]
    indices = [i + length if i < 0 else i for i in indices]
    if indices == list(range(length)):
        return x
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    if len(runs) > _MOST_PIECES:
        raise CannotBeMeant(f"it takes {len(runs)} separate parts of an axis, which is too many")
    if len(runs) > 8 and len(runs) == len(indices) and sorted(indices) == list(range(length)):
        pieces = cut(draft, x, axis, [1] * length)
        return concat(draft, [pieces[index] for index in indices], axis)
    return concat(draft, [part(draft, x, axis, r[0], r[-1] + 1) for r in runs], axis)


def pad(draft: Draft, x: str, axis: int, before: int, after: int, value: float) -> str:
    """Put positions of one value before and after those of an axis."""
    if before < 0 or after < 0:
        length = draft.shape(x)[axis]
        x = part(draft, x, axis, max(-before, 0), length - max(-after, 0))
        before, after = max(before, 0), max(after, 0)
    length = draft.shape(x)[axis]

    def filled(count: int) -> list[str]:
        blobs = []
        while count:
            some = min(count, length)
            blobs.append(constant_like(draft, part(draft, x, axis, 0, some), value))
            count -= some
        return blobs

    return concat(draft, [*filled(before), x, *filled(after)], axis)


def constant_like(draft: Draft, x: str, value: float) -> str:
    """Return a blob of a shape like another's, all of one value."""
    return draft.layer("Power", x, power_param={"scale": 0, "shift": value})


def power(draft: Draft, x: str, power: float = 1, scale: float = 1, shift: float = 0) -> str:
    """Return ``(shift + scale x) ^ power``."""
    given = {"power": power, "scale": scale, "shift": shift}
    usual = {"power": 1, "scale": 1, "shift": 0}
    settings = {name: value for name, value in given.items() if value != usual[name]}
    return draft.layer("Power", x, power_param=settings) if settings else x


def clip(draft: Draft, x: str, low: float | None, high: float | None) -> str:
    """Limit a blob's values; None: not on this side."""
    greatest = float(np.finfo(np.float32).max)
    low = None if low is None or low <= -greatest else low
    high = None if high is None or high >= greatest else high
    if low == 0 and high is None:
        return draft.layer("ReLU", x)
    if low == 0 and high == 6 and not draft.for_caffe:
        return draft.layer("ReLU6", x)
    if low is None and high is None:
        return x
    bounds = {"min": -greatest if low is None else low, "max": greatest if high is None else high}
    return draft.layer("Clip", x, clip_param=bounds)


def eltwise(draft: Draft, blobs: Sequence[str], op: str, coeff: Sequence[float] = ()) -> str:
    """Combine blobs of one shape value by value."""
    settings = {"operation": op, "coeff": list(coeff)}
    return draft.layer("Eltwise", blobs, eltwise_param=settings)


def combine(draft: Draft, x: str, y: str, op: str) -> str:
    """Return the sum (SUM), product (PROD) or larger (MAX) of two blobs, repeated as in numpy."""
    xs, ys = draft.shapes[x], draft.shapes[y]
    if xs == ys:
        return eltwise(draft, [x, y], op)
    results = [np.broadcast_shapes(a, b) for a, b in zip(xs, ys, strict=True)]
    if op != "MAX":
        for large, small in ((x, y), (y, x)):
            if draft.shapes[large] == results and (found := _block(draft, large, small)):
                axis, shapes = found
                operands = [large, reshape(draft, small, shapes)]
                if op == "PROD":
                    return draft.layer("Scale", operands, scale_param={"axis": axis})
                return draft.layer("Bias", operands, bias_param={"axis": axis})
    return eltwise(draft, [expand(draft, blob, results) for blob in (x, y)], op)


def _block(draft: Draft, large: str, small: str) -> tuple[int, list[Shape]] | None:
    """Return where the axes of a smaller blob line up with a larger one's, without its ones."""
    rank = len(draft.shape(large))
    padded = draft.each(small, lambda s: (1,) * (rank - len(s)) + tuple(s))
    own = [a for a in range(rank) if any(s[a] != 1 for s in padded)]
    if not own:
        return None
    first, last = own[0], own[-1] + 1
    shapes = [s[first:last] for s in padded]
    if shapes != draft.each(large, lambda s: s[first:last]):
        return None
    return first, shapes


def expand(draft: Draft, x: str, shapes: Sequence[Shape]) -> str:
    """Repeat a blob along its axes of size 1 to a shape."""
    rank = len(shapes[0])
    x = reshape(draft, x, draft.each(x, lambda s: (1,) * (rank - len(s)) + tuple(s)))
    for axis in range(rank):
        sizes = {shape[axis] for shape in shapes}
        if [s[axis] for s in draft.shapes[x]] == [s[axis] for s in shapes]:
            continue
        if len(sizes) > 1:
            raise CannotBeMeant("it repeats a value for each sample of the batch")
        x = draft.layer("Tile", x, tile_param={"axis": axis, "tiles": sizes.pop()})
    return x


def with_constant(draft: Draft, x: str, values: np.ndarray, op: str) -> str:
    """Add a constant to a blob or multiply it by one, repeated as in numpy."""
    values = np.asarray(values, np.float32)
    if values.size == 1 and values.ndim <= len(draft.shape(x)):
        number = float(values.reshape(-1)[0])
        return power(draft, x, **({"scale": number} if op == "PROD" else {"shift": number}))
    rank = max(values.ndim, len(draft.shape(x)))
    values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    full = [
        np.broadcast_shapes(s, tuple(e if i else 1 for i, e in enumerate(values.shape)))
        if values.shape[0] == 1
        else np.broadcast_shapes(s, values.shape)
        for s in draft.shapes[x]
    ]
    x = expand(draft, x, full)
    own = [axis for axis, size in enumerate(values.shape) if size != 1]
    if not own:
        return with_constant(draft, x, values.reshape(-1)[:1], op)
    first, last = own[0], own[-1] + 1
    block = np.broadcast_to(values.reshape(values.shape[first:last]), full[0][first:last])
    settings = {"axis": first, "num_axes": last - first}
    if op == "PROD":
        return draft.layer("Scale", x, blobs=[block], scale_param=settings)
    return draft.layer("Bias", x, blobs=[block], bias_param=settings)


def scale_and_shift(
    draft: Draft, x: str, factor: np.ndarray, offset: np.ndarray | None, axis: int
) -> str:
    """Multiply by constants that line up with the axes from one on, and add others."""
    blobs = [factor] if offset is None else [factor, offset]
    settings = {"axis": axis, "num_axes": factor.ndim, "bias_term": offset is not None}
    return draft.layer("Scale", x, blobs=blobs, scale_param=settings)


def reduce(draft: Draft, x: str, op: str, axis: int, coeff: float = 1) -> str:
    """Reduce the axes from one on to a number by SUM, MEAN, SUMSQ or ASUM, times a factor."""
    settings = {"operation": op, "axis": axis, "coeff": coeff}
    return draft.layer("Reduction", x, reduction_param=settings)


def standardize(draft: Draft, x: str, axis: int, eps: float) -> str:
    """Subtract the mean of the axes from one on and divide by ``sqrt(variance + eps)``.

    Not by MVN, which adds its eps outside the root.
    """
    size = math.prod(draft.shape(x)[axis:])
    if axis == 0:
        raise CannotBeMeant("it takes the mean of the whole batch")
    mean = reduce(draft, x, "MEAN", axis, -1)
    centred = draft.layer("Bias", [x, mean], bias_param={"axis": 0}, suffix="centred")
    variance = reduce(draft, centred, "SUMSQ", axis, 1 / size)
    factor = power(draft, variance, power=-0.5, shift=eps)
    return draft.layer("Scale", [centred, factor], scale_param={"axis": 0}, suffix="standard")
