"""A layer's formula with its numbers, to show what is computed."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..losses.normalization import BATCH_SIZE, FULL, NONE, VALID, normalizer, split_at_axis

if TYPE_CHECKING:
    from .base import Layer, Shape

_MODES = {
    VALID: "VALID: the positions that count",
    FULL: "FULL: all positions",
    BATCH_SIZE: "BATCH_SIZE: the samples",
    NONE: "NONE",
}
_END_OF_FORMULA = re.compile(r"(Bottoms?|Tops?|Fields of|Raises|Source|Blobs|Sample)\b")
_CODE = re.compile(r"``(.+?)``", re.DOTALL)
_NOT_IN_A_FORMULA = {"axis", "engine"}


def of_docstring(docstring: str | None) -> list[str]:
    """Return the formula in a class' docstring, by lines; its first sentence if it has none.

    That is the indented block with ``loss =`` in it, or the equations in the text down to that of
    the loss.
    """
    lines = inspect.cleandoc(docstring or "").splitlines()
    end = next((i for i, x in enumerate(lines) if _END_OF_FORMULA.match(x)), len(lines))
    block = [x for x in lines[:end] if x.startswith("    ")]
    if any("loss =" in line for line in block):
        return [line[4:].rstrip() for line in block]
    found = []
    for code in _CODE.findall("\n".join(lines[:end])):
        if " = " in code:
            found.append(" ".join(code.split()))
            if code.startswith("loss ="):
                break
    return found or lines[:1]


def settings(param: Any) -> str:
    """Return the numbers of a layer's own settings, as ``margin = 1, ...``; often none."""
    if param is None:
        return ""
    fields = [f for f in param.DESCRIPTOR.fields if f.message_type is None]
    numbers = [
        f"{f.name} = {_shown(f, getattr(param, f.name))}"
        for f in fields
        if isinstance(getattr(param, f.name), int | float) and f.name not in _NOT_IN_A_FORMULA
    ]
    return ", ".join(numbers)


def _shown(field: Any, value: float) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[int(value)].name)
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def number(layer: Layer, field: str) -> str:
    """Return a setting's value, or its name if it has a schedule."""
    scheduled = f"{field}_schedule" in layer.param.DESCRIPTOR.fields_by_name
    if scheduled and layer.param.HasField(f"{field}_schedule"):
        return field
    return f"{getattr(layer.param, field):g}"


def names(layer: Layer) -> list[str]:
    """Return the names of a layer's bottoms."""
    return [name for name in layer.proto.bottom if name]


def divisor(layer: Any, shape: Shape) -> str:
    """Return the divisor of a loss with a ``normalization``, at most."""
    outer, _, inner = _split_at_axis(layer, shape)
    return f"{normalizer(layer.normalization, outer, inner):g}"


def _split_at_axis(layer: Any, shape: Shape) -> tuple[int, int, int]:
    if hasattr(layer, "class_axis"):
        return split_at_axis(shape, layer.class_axis)
    return shape[0], 1, math.prod(shape[1:])  # every value is a position


def reduction(layer: Any, bottom_shapes: Sequence[Shape]) -> str:
    """Return a description of what a loss sums over and divides by."""
    if not hasattr(layer, "normalization"):
        samples = bottom_shapes[0][0] if bottom_shapes and bottom_shapes[0] else 1
        return f"as the formula says, for N = {samples} samples"
    outer, classes, inner = _split_at_axis(layer, bottom_shapes[0])
    over = f"{outer * inner} positions ({outer} samples of {inner})"
    if classes > 1:
        over = f"{classes} classes and {over}"
    mode = _MODES[layer.normalization]
    ignored = getattr(layer, "ignore_label", None)
    if ignored is not None and layer.normalization == VALID:
        mode += f", those whose label is not {ignored}: {divisor(layer, bottom_shapes[0])} at most"
    return f"sum over {over}, divided by {divisor(layer, bottom_shapes[0])} ({mode})"
