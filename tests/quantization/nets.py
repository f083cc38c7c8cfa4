"""Nets for these tests, trained on ten noisy patterns in about a second each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from caffe_kd.data.backends.idx import write_idx
from caffe_kd.net import Net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from caffe_kd.proto.filter import filter_net

SAMPLES = {"train": 1024, "t10k": 500}

DATA = """
layer {{ name: "digits" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.00390625 {transform} }}
  data_param {{ source: "{folder}/{name}-images-idx3-ubyte" backend: IDX batch_size: {batch} }} }}
"""
CONV = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "ip1" type: "InnerProduct" bottom: "conv2" top: "ip1"
  inner_product_param { num_output: 32 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""
MLP = """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 32 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""
NORMALIZED = """
layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 bias_term: false
    weight_filler {{ type: "msra" }} }} }}
layer {{ name: "{name}_bn" type: "BatchNorm" bottom: "{name}" top: "{name}"
  batch_norm_param {{ moving_average_fraction: 0.9 }} }}
layer {{ name: "{name}_scale" type: "Scale" bottom: "{name}" top: "{name}"
  scale_param {{ bias_term: true }} }}
"""
RELU = 'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
RESIDUAL = (
    NORMALIZED.format(name="conv1", bottom="data")
    + RELU.format(name="conv1")
    + NORMALIZED.format(name="conv2", bottom="conv1")
    + RELU.format(name="conv2")
    + NORMALIZED.format(name="conv3", bottom="conv2")
    + 'layer { name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv3" top: "sum" }\n'
    + RELU.format(name="sum")
    + """
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool"
  pooling_param { pool: AVE kernel_size: 4 stride: 4 } }
layer { name: "ip2" type: "InnerProduct" bottom: "pool" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
"""
)
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""
NETS = {"conv": CONV, "mlp": MLP, "residual": RESIDUAL}


def write_patterns(folder: Path) -> None:
    """Write ten noisy patterns of 12 x 12 pixels, black and white among them, with labels."""
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 2, (10, 4, 4)), np.ones((3, 3), int))
    for name, count in SAMPLES.items():
        labels = np.arange(count, dtype=np.uint8) % 10
        images = patterns[labels] * 120 + draw.normal(60, 80, (count, 12, 12))
        write_idx(folder / f"{name}-images-idx3-ubyte", images.clip(0, 255).astype(np.uint8))
        write_idx(folder / f"{name}-labels-idx1-ubyte", labels)


def data_layers(folder: Path, transform: str = "", batch: int = 32) -> str:
    """Return the data layers of both phases; ``transform`` is for TRAIN."""
    names = (("TRAIN", "train", transform), ("TEST", "t10k", ""))
    return "".join(
        DATA.format(phase=phase, folder=folder.as_posix(), name=name, transform=t, batch=batch)
        for phase, name, t in names
    )


def write_net(folder: Path, name: str) -> None:
    """Write ``name``.prototxt and, trained, ``name``.caffemodel."""
    path = folder / f"{name}.prototxt"
    path.write_text(f'name: "{name}"\n{data_layers(folder)}{NETS[name]}{LOSS}')
    torch.manual_seed(1)
    param = read_net(path)
    net = Net(filter_net(param, pb.NetState(phase=pb.TRAIN)), pb.TRAIN, path)
    learned = [p.blob for p in net.params if p.lr_mult]
    optimizer = torch.optim.SGD(learned, lr=0.05, momentum=0.9)
    for _ in range(80):
        optimizer.zero_grad()
        objective = net()
        assert objective is not None
        objective.backward()
        optimizer.step()
    write_weights(folder / f"{name}.caffemodel", net.param, net.weights())
