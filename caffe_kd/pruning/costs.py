"""What a net costs before and after, and the table of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..analysis.cost import cost_of
from ..core.tables import text_table
from ..net import Net
from .speed import Latency


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs.

    Attributes:
        parameters: how many values its blobs have.
        macs: multiply-adds of its weights for one sample.
    """

    parameters: int
    macs: int


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        layer: its name.
        kept: how many channels it makes after and before; None of one that makes none.
        before: what it cost.
        after: what it costs.
    """

    layer: str
    kept: tuple[int, int] | None
    before: LayerCost
    after: LayerCost


def costs_of(net: Net) -> dict[str, LayerCost]:
    """Return what each layer with parameters costs.

    Multiply-adds are those of weights with inputs, so of convolutions, inner products and recurrent
    layers: what pooling compares and BatchNorm scales, which ``summarize`` counts too, is left out.
    """
    matrices = {
        node.layer.name: max(map(len, node.layer.blob_shapes), default=0) > 1 for node in net.nodes
    }
    return {
        row.name: LayerCost(row.parameters, row.multiply_adds if matrices[row.name] else 0)
        for row in cost_of(net).rows
        if row.parameters or matrices[row.name]
    }


def total(costs: Mapping[str, LayerCost]) -> LayerCost:
    """Return what all layers cost together."""
    values = costs.values()
    return LayerCost(sum(c.parameters for c in values), sum(c.macs for c in values))


@dataclass(frozen=True)
class Table:
    """What was pruned, layer by layer.

    Attributes:
        rows: the layers with parameters, in the net's order.
        latency: in ONNX Runtime, before and after; None: not measured.
    """

    rows: list[Row]
    latency: tuple[Latency, Latency] | None = None

    @property
    def before(self) -> LayerCost:
        """What the net cost."""
        return total({row.layer: row.before for row in self.rows})

    @property
    def after(self) -> LayerCost:
        """What it costs now."""
        return total({row.layer: row.after for row in self.rows})

    def __str__(self) -> str:
        """Return it as lines of text, without the likes of BatchNorm, which the sums include."""
        cells = [["layer", "kept", "parameters", "MACs"]]
        for row in self.rows:
            if row.kept or row.before.macs:
                kept = f"{row.kept[0]} of {row.kept[1]}" if row.kept else ""
                changes = _changes(row.before, row.after)
                cells.append([row.layer, kept, *changes, *self._times(row.layer)])
        cells.append(["all", "", *_changes(self.before, self.after)])
        if self.latency is not None:
            cells[0].append("microseconds")
            before, after = (latency.total for latency in self.latency)
            cells[-1].append(f"{before:.1f} -> {after:.1f}")
        return "\n".join(text_table(cells))

    def _times(self, layer: str) -> list[str]:
        if self.latency is None:
            return []
        before, after = (latency.layers.get(layer) for latency in self.latency)
        return ["" if before is None or after is None else f"{before:.1f} -> {after:.1f}"]


def _changes(before: LayerCost, after: LayerCost) -> list[str]:
    pairs = ((before.parameters, after.parameters), (before.macs, after.macs))
    return [f"{a:,}" if a == b else f"{a:,} -> {b:,}" for a, b in pairs]
