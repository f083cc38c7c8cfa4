"""Which function converts nodes of which type."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .draft import Draft, Node

Converter = Callable[[Draft, Node], "str | Sequence[str]"]
CONVERTERS: dict[str, Converter] = {}


def converts(*ops: str) -> Callable[[Converter], Converter]:
    """Register a function for types of nodes.

    It adds layers to the draft and returns the blob of the node's output, or of each of its outputs
    in order.
    """

    def decorate(function: Converter) -> Converter:
        for op in ops:
            CONVERTERS[op] = function
        return function

    return decorate
