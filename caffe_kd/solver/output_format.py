"""The log's lines for a net's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..net import Net


def output_lines(what: str, net: Net, values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Yield a line for each value of a net's outputs, numbered through, in Caffe's words."""
    index = 0
    for name, several in values.items():
        weight = net.loss_weights.get(name, 0.0)
        for value in several:
            note = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            yield f"    {what} net output #{index}: {name} = {value:g}{note}"
            index += 1
