"""The classes under the names of pycaffe's compiled module: ``caffe._caffe.BlobVec``.

Scripts that merge BatchNorm into convolutions use them to check the types in ``net.params``.
"""

from __future__ import annotations

from ..python_layers.user_layer import Layer
from .blob import Blob, BlobVec
from .mode import NCCL
from .net import Net
from .solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from .timer import Timer

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BlobVec",
    "Layer",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "get_solver",
]
