"""Nets that know their data by heart, so that what is found in them is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_kd.data.backends.idx import write_idx
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights

CLASSES = 3
DATA = """layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }}
  data_param {{ source: "images" backend: IDX batch_size: {batch} }} }}
"""
BODY = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
# Rows of pixels (3, 1): class c has a light pixel c. Sample 3 looks like a 1 but is a 2.
PIXELS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0]], np.uint8)
LABELS = np.array([0, 1, 2, 2, 0], np.uint8)


def write_nets(folder: Path, transform: str = "", batch: int = 2) -> None:
    """Write images, labels, net.prototxt, teacher.caffemodel and student.caffemodel.

    The teacher's logits of class c are row c of TEACHER, the student's of STUDENT.
    """
    write_idx(folder / "images-idx3-ubyte", PIXELS.reshape(-1, 3, 1))
    write_idx(folder / "labels-idx1-ubyte", LABELS)
    data = DATA.format(transform=transform, batch=batch).replace("images", "images-idx3-ubyte")
    (folder / "net.prototxt").write_text(f'name: "n"\n{data}{BODY}')
    param = text.parse(BODY, pb.NetParameter())
    for name, logits in (("teacher", TEACHER), ("student", STUDENT)):
        weights = (logits.T / 255).astype(np.float32)
        bias = np.zeros(CLASSES, np.float32)
        write_weights(folder / f"{name}.caffemodel", param, {"ip": [weights, bias]})


TEACHER = np.array([[8.0, 4, 0], [0, 8, 4], [2, 0, 8]])
STUDENT = np.array([[8.0, 4, 0], [4, 1, 0], [2, 0, 8]])
