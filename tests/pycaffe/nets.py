"""Small nets for the tests of pycaffe, written to files as scripts use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# float32 sums of some hundred terms, added in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}

SMALL = """
name: "small" force_backward: true
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {
    shape { dim: 5 dim: 2 dim: 3 dim: 4 } shape { dim: 5 dim: 1 dim: 1 dim: 1 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 11 kernel_size: 2 pad: 3
    weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 2 } }
  param { decay_mult: 1 } param { decay_mult: 0 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip_blob"
  inner_product_param { num_output: 13 weight_filler { type: "gaussian" std: 2.5 }
    bias_filler { type: "constant" value: -3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip_blob" bottom: "label" top: "loss" }
"""

# Branches, copies, shared memory, layers in place, and a layer whose top aliases its bottom.
BRANCHES = """
name: "branches"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 4 dim: 6 dim: 6 } } }
layer { name: "target" type: "Input" top: "t" input_param { shape { dim: 4 dim: 5 } } }
layer { name: "conv1" type: "Convolution" bottom: "x" top: "conv1" convolution_param {
  num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" }
  bias_filler { type: "constant" value: 0.1 } } }
layer { name: "sig" type: "Sigmoid" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2" convolution_param {
  num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "scale2" type: "Scale" bottom: "conv2" top: "conv2" scale_param { bias_term: true } }
layer { name: "tanh2" type: "TanH" bottom: "conv2" top: "conv2" }
layer { name: "slice" type: "Slice" bottom: "conv1" top: "a" top: "b" }
layer { name: "cat" type: "Concat" bottom: "b" bottom: "a" top: "cat" }
layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" bottom: "cat" top: "sum" }
layer { name: "drop" type: "Dropout" bottom: "sum" top: "drop" phase: TEST }
layer { name: "pool" type: "Pooling" bottom: "drop" top: "pool"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "t" top: "loss" loss_weight: 0.5 }
layer { name: "more" type: "Reduction" bottom: "ip" top: "more" loss_weight: 0.25
  reduction_param { operation: SUMSQ } }
"""

SOLVER = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "inv" gamma: 0.0001 power: 0.75
test_iter: 10 test_interval: 10 display: 100 max_iter: 100 snapshot_after_train: false
snapshot_prefix: "model"
"""


def write(folder: Path, text: str, name: str = "net.prototxt") -> str:
    """Write a prototxt and return its path."""
    path = folder / name
    path.write_text(text)
    return str(path)


def fill(net: Any) -> None:
    """Fill the inputs with random values, the same ones each time."""
    random = np.random.default_rng(0)
    for name in net.inputs:
        net.blobs[name].data[...] = random.normal(size=net.blobs[name].shape)
