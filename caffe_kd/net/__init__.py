"""The net: a NetParameter as a torch graph, and the copying of weights into it."""

from __future__ import annotations

from .net import AUTOMATIC_TOP, LayerNode, Net, Param, load_net, read_net

__all__ = [
    "AUTOMATIC_TOP",
    "Net",
    "Param",
    "LayerNode",
    "load_net",
    "read_net",
]
