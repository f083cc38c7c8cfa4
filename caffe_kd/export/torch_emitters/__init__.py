"""Each layer type as the line of PyTorch that an engineer would write for it.

Importing this folder imports every file in it, and so registers the emitters. Where torch.nn
has no equivalent, the file has a class for it, whose source is copied into the written file; it
may use only ``torch``, ``nn``, ``F`` and ``Tensor``.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .base import EMITTERS, Code, Emitter, NoCodeError, emits

__all__ = ["EMITTERS", "Code", "Emitter", "NoCodeError", "emits"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
