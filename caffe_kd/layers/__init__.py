"""The layer types: importing this folder imports every file below it, and so registers them all.

Types of installed packages follow, by their entry points of the group ``caffe_kd.layers``: each
names a module that registers types.

As ``L`` of a net that is written in Python it also has a function for each type, with the type's
name: ``from caffe_kd import layers as L; L.Convolution(...)``. See ``pycaffe/net_spec.py``.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Any

from .base import Context, Layer, Shape, Tops, create, layer_types, register

__all__ = ["Context", "Layer", "Shape", "Tops", "create", "layer_types", "register"]

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

for _entry in entry_points(group="caffe_kd.layers"):
    try:
        _entry.load()
    except Exception as error:  # the other types work without it
        warnings.warn(
            f"the layer types of entry point '{_entry.name}' ({_entry.value}) are missing: "
            f"{type(error).__name__}: {error}",
            stacklevel=1,
        )

if not TYPE_CHECKING:  # else a misspelt import would pass for a layer type

    def __getattr__(name: str) -> Any:
        if not name[:1].isupper():
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return import_module("caffe_kd.pycaffe.net_spec").layer_function(name)
