"""A small net for colour images, its weights, and images, as classify.py and detect.py take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import caffe_kd as caffe

# LeNet's kind, for BGR from 0 to 255; two images at once, so that batches have to be cut.
DEPLOY = """
name: "deploy"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3
    weight_filler { type: "gaussian" std: 0.02 } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.05 } } }
layer { name: "prob" type: "Softmax" bottom: "ip1" top: "prob" }
"""
NAMES = ("c.jpg", "a.jpg", "b.png")


def write_net(folder: Path, text: str = DEPLOY) -> tuple[str, str]:
    """Write the net and weights for it; return their paths."""
    caffe.set_random_seed(1)
    model, weights = str(folder / "deploy.prototxt"), str(folder / "deploy.caffemodel")
    Path(model).write_text(text)
    caffe.Net(model, caffe.TEST).save(weights)
    return model, weights


def write_images(folder: Path) -> None:
    """Write coloured images of several sizes."""
    draw = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        pixels = draw.integers(256, size=(20 + 3 * index, 26, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=95)


def write_mean(folder: Path) -> np.ndarray:
    """Write mean.npy, an image of another size than the net's input; return it."""
    mean = np.random.default_rng(1).uniform(90, 130, size=(3, 16, 16))
    np.save(folder / "mean.npy", mean)
    return mean
