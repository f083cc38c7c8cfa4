"""The layer types: importing this folder imports every file in it, and so registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from .base import Context, Layer, Shape, Tops, create, layer_types, register

__all__ = ["Context", "Layer", "Shape", "Tops", "create", "layer_types", "register"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
