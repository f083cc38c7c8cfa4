"""Layers that rearrange, join, pick and sum along axes."""

from __future__ import annotations

from torch import Tensor, nn

from ...net import LayerNode
from ...proto import caffe_pb2 as pb
from .base import Code, emits, layer_of, listed, number, trailing, tuple_of


class ArgMax(nn.Module):
    """Find the ``top_k`` greatest values along an axis, best first: their indices and the values.

    Of equal values the one with the highest index comes first.
    """

    def __init__(self, dim: int, top_k: int) -> None:
        super().__init__()
        self.dim, self.top_k = dim, top_k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, index = x.flip(self.dim).sort(dim=self.dim, descending=True, stable=True)
        index = (x.shape[self.dim] - 1 - index).to(x.dtype)
        return index.narrow(self.dim, 0, self.top_k), values.narrow(self.dim, 0, self.top_k)


@emits("ArgMax")
def _arg_max(node: LayerNode, bottoms: list[str]) -> Code:
    layer, rank, x = layer_of(node), len(node.bottom_shapes[0]), bottoms[0]
    param = layer.param
    module = f"ArgMax({layer.max_axis}, top_k={param.top_k})"
    if layer.has_axis:
        value = f"{{self}}({x})[{int(param.out_max_val)}]"
        return Code(value, module, helpers=(ArgMax,))
    flat = x if rank == 2 else f"{x}.reshape({x}.shape[0], -1)"
    found = f"{{self}}({flat})"
    value = f"torch.stack({found}, dim=1)" if param.out_max_val else f"{found}[0][:, None]"
    return Code(trailing(value, rank - 3), module, helpers=(ArgMax,))


@emits("Flatten")
def _flatten(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    end = -1 if layer.end == len(node.bottom_shapes[0]) - 1 else layer.end
    return Code(f"{{self}}({bottoms[0]})", f"nn.Flatten({layer.start}, {end})")


@emits("Concat")
def _concat(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"torch.cat([{listed(bottoms)}], dim={layer_of(node).concat_axis})")


@emits("Slice")
def _slice(node: LayerNode, bottoms: list[str]) -> Code:
    layer, (x,), tops = layer_of(node), bottoms, len(node.tops)
    if tops == 1:
        return Code(x)
    if layer.param.slice_point:
        points = list(layer.param.slice_point)
        return Code(f"torch.tensor_split({x}, {points}, dim={layer.slice_axis})")
    return Code(f"torch.chunk({x}, {tops}, dim={layer.slice_axis})")


@emits("Split")
def _split(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(listed(bottoms * len(node.tops)))


@emits("Reshape")
def _reshape(node: LayerNode, bottoms: list[str]) -> Code:
    (shape,), (top,) = node.bottom_shapes, node.top_shapes
    keeps_batch = shape[:1] == top[:1] and -1 not in list(layer_of(node).param.shape.dim[:1])
    if keeps_batch or layer_of(node).param.axis > 0:
        return Code(f"{bottoms[0]}.reshape({bottoms[0]}.shape[0], {listed(top[1:])})")
    return Code(f"{bottoms[0]}.reshape(-1, {listed(top[1:])})")


@emits("Permute")
def _permute(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{bottoms[0]}.permute({listed(layer_of(node).order)})")


@emits("ShuffleChannel")
def _shuffle_channel(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"F.channel_shuffle({bottoms[0]}, {layer_of(node).group})")


@emits("Tile")
def _tile(node: LayerNode, bottoms: list[str]) -> Code:
    axis, tiles = layer_of(node).tile_axis, layer_of(node).param.tiles
    return Code(f"torch.cat([{bottoms[0]}] * {tiles}, dim={axis})")


@emits("Reduction")
def _reduction(node: LayerNode, bottoms: list[str]) -> Code:
    layer, x, ops = layer_of(node), bottoms[0], pb.ReductionParameter
    axes = tuple_of(range(layer.first_axis, len(node.bottom_shapes[0])))
    value = {
        ops.SUM: f"{x}.sum({axes})",
        ops.ASUM: f"{x}.abs().sum({axes})",
        ops.SUMSQ: f"{x}.square().sum({axes})",
        ops.MEAN: f"{x}.mean({axes})",
    }[layer.param.operation]
    coeff = layer.param.coeff
    return Code(value if coeff == 1 else f"{number(coeff)} * {value}")


@emits("Axpy")
def _axpy(node: LayerNode, bottoms: list[str]) -> Code:
    (factor, x, y), (given, shape, _) = bottoms, node.bottom_shapes
    if len(given) > len(shape):
        factor = f"{factor}.flatten(1)"
        given = given[:2]
    return Code(f"{trailing(factor, len(shape) - len(given))} * {x} + {y}")


@emits("BatchReindex")
def _batch_reindex(node: LayerNode, bottoms: list[str]) -> Code:
    return Code(f"{bottoms[0]}[{bottoms[1]}.long()]")


@emits("Filter")
def _filter(node: LayerNode, bottoms: list[str]) -> Code:
    *blobs, selector = bottoms
    return Code(listed([f"{blob}[{selector}.flatten() != 0]" for blob in blobs]))
