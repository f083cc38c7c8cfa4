"""What the tests of users' Python layers share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent  # user_layers.py is here

original = importlib.util.find_spec("caffe")
without_caffe = pytest.mark.skipif(
    original is not None and original.origin is not None,
    reason="Caffe is installed here, and `import caffe` gives it",
)


def user_layers_found(monkeypatch):
    """Let ``user_layers`` be found, and give each test users' modules of its own."""
    monkeypatch.syspath_prepend(HERE)
    yield
    for name in ("user_layers", "helping", "mine"):
        sys.modules.pop(name, None)


def body(cls, param_str="", module="user_layers", more=""):
    return (
        f'type: "Python" {more} python_param {{ module: "{module}" layer: "{cls}" '
        f"param_str: '{param_str}' }}"
    )


SOLVED = """
layer {{ name: "d" top: "data" top: "label" {data} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "own" bottom: "ip" top: "own" {scaled} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "own" bottom: "label" top: "accuracy"
  include {{ phase: TEST }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "own" bottom: "label" top: "loss" }}
"""


def users_folder(tmp_path, monkeypatch):
    """Go to a folder that has ``user_layers``."""
    (tmp_path / "user_layers.py").write_text((HERE / "user_layers.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_solver(scaled, more=""):
    data = body("Counting", '{"batch": 6, "width": 4}')
    Path("net.prototxt").write_text(SOLVED.format(data=data, scaled=scaled))
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" test_iter: 2 test_interval: 4 base_lr: 0.5 lr_policy: "fixed" '
        f'max_iter: 8 snapshot: 4 snapshot_prefix: "run" random_seed: 1 momentum: 0.9 {more}'
    )
