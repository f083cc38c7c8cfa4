"""Bias, and the alignment of a smaller operand with a bottom, which Scale uses too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Layer, Shape, register

if TYPE_CHECKING:
    from ...export.graph import Graph


def first_axis(layer: Layer, bottom: Shape) -> int:
    """Return the axis of the bottom that the operand's first axis is aligned with."""
    return layer.axis(layer.param.axis, len(bottom)) if bottom else 0


def learned_shape(layer: Layer, bottom: Shape) -> Shape:
    """Return the shape of a learned operand: ``num_axes`` of the bottom's from ``axis`` on."""
    start, count = first_axis(layer, bottom), layer.param.num_axes
    if count < -1:
        layer.fail(
            "num_axes must be non-negative, or -1 to extend to the end of bottom[0]", num_axes=count
        )
    end = len(bottom) if count == -1 else start + count
    if end > len(bottom):
        layer.fail(
            f"{layer.type.lower()} blob's shape extends past bottom[0]'s shape when applied "
            f"starting with bottom[0] axis = {start}",
            bottom=bottom,
            num_axes=count,
        )
    return bottom[start:end]


def check_operand(layer: Layer, bottom: Shape, operand: Shape) -> None:
    """Fail unless the operand's sizes equal the bottom's from ``axis`` on."""
    start = first_axis(layer, bottom)
    if bottom[start : start + len(operand)] != operand:
        layer.fail(
            f"dimension mismatch between bottom[0]'s shape from axis {start} on and the "
            f"{layer.type.lower()}'s shape",
            bottom=bottom,
            **{layer.type.lower(): operand},
        )


def aligned(operand: Tensor, axis: int, rank: int) -> Tensor:
    """Return the operand with the trailing axes of size 1 that broadcasting needs."""
    trailing = rank - axis - operand.dim()
    return operand.reshape(*operand.shape, *(1,) * trailing) if trailing else operand


def aligned_onnx(graph: Graph, operand: str, operand_rank: int, axis: int, rank: int) -> str:
    """Do the same in an ONNX graph, for an operand of the given number of axes."""
    new_axes = list(range(operand_rank, rank - axis))
    if not new_axes:
        return operand
    result = graph.temporary("aligned")
    graph.node("Unsqueeze", [operand, graph.constant(new_axes, "new_axes")], [result])
    return result


@register("Bias", param="bias_param", bottoms=(1, 2))
class Bias(Layer):
    """Add a smaller operand to the bottom, repeated over the axes it lacks: ``y = x + b``.

    Bottom, top: any shape. Second bottom b: the sizes of the first from ``axis`` on. Without it
    b is learned.
    Blobs: b, of num_axes axes of the bottom from ``axis`` on, zeros unless filled otherwise.

    Raises:
        NetError: axis or num_axes reach past the bottom, or the second bottom's sizes differ.

    Source: Caffe's BiasLayer.

    Sample::

        layer {
          name: "bias1"
          type: "Bias"
          bottom: "conv1"  # (2, 4, 8, 8)
          top: "conv1"  # (2, 4, 8, 8)
          bias_param { axis: 1 filler { value: 0.1 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.start = first_axis(self, bottom_shapes[0])
        if len(bottom_shapes) == 1:
            self.add_blob(learned_shape(self, bottom_shapes[0]), self.param.filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_operand(self, bottom_shapes[0], (bottom_shapes[1:] or self.blob_shapes)[0])
        return bottom_shapes[:1]

    @property
    def per_sample(self) -> bool:
        return len(self.proto.bottom) == 1 and self.start > 0

    def forward(self, x: Tensor, *given: Tensor) -> Tensor:
        (bias,) = given or self.blobs
        return x + aligned(bias, self.start, x.dim())

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        bias = bottoms[1] if len(bottoms) == 2 else graph.blob(self, 0)
        shape = graph.shape(bias) if len(bottoms) == 2 else self.blob_shapes[0]
        rank = len(graph.shape(bottoms[0]))
        aligned_bias = aligned_onnx(graph, bias, len(shape), self.start, rank)
        graph.node("Add", [bottoms[0], aligned_bias], tops)
