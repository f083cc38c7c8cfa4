"""What all emitters share: their registry, their result, and how values are written.

An emitter takes a layer of a built net and returns a ``Code``: the expression that makes a
module, the expression that computes the tops, and the module's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ...net import LayerNode


@dataclass
class Code:
    """A layer as PyTorch source.

    Attributes:
        value: the expression of the top, or of a tuple of all tops; ``{self}`` is the module.
        module: the expression that makes the module; empty where none is needed.
        weights: the module's tensors by the names they have in it, the layer's blobs first and in
            their order; the name is empty where the module itself is the parameter.
        as_stored: whether the weights are the blobs as they are, so that blobs which layers share
            are one parameter.
        helpers: the classes and functions whose source the expressions need; a class comes after
            its base classes.
    """

    value: str
    module: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict)
    as_stored: bool = True
    helpers: tuple[Any, ...] = ()


class NoCodeError(Exception):
    """A layer cannot be written; says why, and what to do about it."""


# Called with a layer in its net and the Python names of its bottoms.
Emitter = Callable[[LayerNode, list[str]], Code]

EMITTERS: dict[str, Emitter] = {}


def emits(*types: str) -> Callable[[Emitter], Emitter]:
    """Register a function as the emitter of layer types."""

    def decorate(emitter: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(types, emitter))
        return emitter

    return decorate


def layer_of(node: LayerNode) -> Any:
    """Return the layer, untyped, to access its type's attributes."""
    return node.layer


# ---- how values are written


def number(value: float) -> str:
    """Write a float32 field in its shortest form."""
    text = str(np.float32(value))
    return text if text.lstrip("-")[0].isdigit() else f'float("{text}")'


def size_of(values: Sequence[int]) -> str:
    """Write ``3`` for 3 along all axes, else ``(3, 5)``."""
    same = len(set(values)) == 1
    return str(int(values[0])) if same else f"({', '.join(str(int(v)) for v in values)})"


def tuple_of(values: Sequence[int]) -> str:
    """Write a tuple of whole numbers."""
    inner = listed([int(v) for v in values])
    return f"({inner},)" if len(values) == 1 else f"({inner})"


def listed(values: Sequence[object]) -> str:
    """Write values with commas between them."""
    return ", ".join(map(str, values))


def call(name: str, *arguments: object, **options: tuple[object, object]) -> str:
    """Write a call; an option is its value and the default at which it is left out."""
    words = [str(a) for a in arguments]
    words += [f"{key}={value}" for key, (value, default) in options.items() if value != default]
    return f"{name}({', '.join(words)})"


def trailing(name: str, count: int) -> str:
    """Write an operand with trailing axes of size 1."""
    return f"{name}[...{', None' * count}]" if count > 0 else name


# ---- weights


def values_of(blob: Tensor) -> Tensor:
    """Return a copy of a blob, as it is stored."""
    return blob.detach().cpu().contiguous().clone()


def named(node: LayerNode, *names: str) -> dict[str, Tensor]:
    """Return a layer's blobs under the names they have in a module; there may be fewer blobs."""
    return dict(zip(names, map(values_of, layer_of(node).blobs), strict=False))
