"""The layer types: importing this folder imports every file in it, and so registers them all.

As ``L`` of a net that is written in Python it also has a function for each type, with the type's
name: ``from caffe_kd import layers as L; L.Convolution(...)``. See ``pycaffe/net_spec.py``.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from .base import Context, Layer, Shape, Tops, create, layer_types, register

__all__ = ["Context", "Layer", "Shape", "Tops", "create", "layer_types", "register"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

if not TYPE_CHECKING:  # which would take a misspelt import for a layer type

    def __getattr__(name: str) -> Any:
        if not name[:1].isupper():
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return import_module("caffe_kd.pycaffe.net_spec").layer_function(name)
