"""Caffe's training workflow with knowledge distillation, on PyTorch.

Networks are prototxt, a run is a solver prototxt, weights are ``.caffemodel``. See README.md.

Scripts written for pycaffe find its names here: ``import caffe_kd as caffe``. They are loaded when
they are first used.
"""

from __future__ import annotations

from typing import Any

from . import pycaffe
from .core.version import VERSION as __version__

__all__ = ["__version__", *pycaffe.__all__]


def __getattr__(name: str) -> Any:
    return getattr(pycaffe, name)


def __dir__() -> list[str]:
    return sorted(__all__)
