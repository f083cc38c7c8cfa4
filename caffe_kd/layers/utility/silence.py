"""Silence: consumes blobs that no other layer uses."""

from __future__ import annotations

from torch import Tensor

from ..base import Layer, Shape, register


@register("Silence", bottoms=(1, None), tops=0)
class Silence(Layer):
    """Consume the bottoms, so that they are not outputs of the net; their gradient is 0.

    Bottoms: any shapes. Tops: none.

    Source: Caffe's SilenceLayer.

    Sample::

        layer {
          name: "silence"
          type: "Silence"
          bottom: "label"  # (2)
        }
    """

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return []

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()
