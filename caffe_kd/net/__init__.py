"""The net: a NetParameter as a torch graph, and the copying of weights into it."""

from __future__ import annotations

from .loading import load_net, read_net
from .net import AUTOMATIC_TOP, LayerNode, Net, Param

__all__ = [
    "AUTOMATIC_TOP",
    "Net",
    "Param",
    "LayerNode",
    "load_net",
    "read_net",
]
