"""Layers whose ``quantization_param`` rounds their values to few bits."""

from __future__ import annotations

from ..base import Layer


def apply(layer: Layer) -> None:
    """Let a layer compute as its ``quantization_param`` says, if it has one.

    Raises:
        NetError: it cannot.
    """
    if layer.proto.HasField("quantization_param"):
        layer.fail(
            "its quantization_param rounds values to few bits, and layers compute in float32 "
            "here. Remove it for the float32 net"
        )
