"""The pycaffe interface: ``import caffe_kd as caffe`` for scripts written for Caffe.

The names below are loaded when they are first used, so that the import itself is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

# Each public name, and the module in this folder that defines it.
NAMES = {
    "Layer": ".python_layers.user_layer",
    "Net": "net",
    "get_solver": "solver",
    "SGDSolver": "solver",
    "NesterovSolver": "solver",
    "AdaGradSolver": "solver",
    "RMSPropSolver": "solver",
    "AdaDeltaSolver": "solver",
    "AdamSolver": "solver",
    "Timer": "timer",
    "init_log": "glog",
    "log": "glog",
    "set_mode_cpu": "mode",
    "set_mode_gpu": "mode",
    "set_device": "mode",
    "set_exact_sums": "mode",
    "set_random_seed": "mode",
    "layer_type_list": "mode",
    "solver_count": "mode",
    "set_solver_count": "mode",
    "solver_rank": "mode",
    "set_solver_rank": "mode",
    "set_multiprocess": "mode",
    "has_nccl": "mode",
    "NCCL": "mode",
    "NetSpec": "net_spec",
    "to_proto": "net_spec",
    "params": "net_spec",
    "Classifier": "classifier",
    "Detector": "detector",
}
# Modules that scripts reach as attributes, and their full names.
OWN_MODULES = ("_caffe", "classifier", "coord_map", "detector", "draw", "io", "net_spec")
MODULES = {name: f"caffe_kd.pycaffe.{name}" for name in OWN_MODULES}
MODULES |= {name: f"caffe_kd.{name}" for name in ("layers", "proto", "pycaffe")}

TRAIN, TEST = 0, 1  # the phases, as in caffe.proto

__all__ = ["TEST", "TRAIN", *sorted({*NAMES, *MODULES} - {"_caffe"})]


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(importlib.import_module(f".{NAMES[name]}", __name__), name)
    if name == "proto":  # scripts write caffe.proto.caffe_pb2 without importing it
        importlib.import_module("caffe_kd.proto.caffe_pb2")
    if name in MODULES:
        return importlib.import_module(MODULES[name])
    raise AttributeError(f"module 'caffe_kd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
