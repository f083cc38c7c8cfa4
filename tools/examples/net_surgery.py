"""Net surgery: turns a trained classifier's InnerProducts into Convolutions.

    python tools/examples/net_surgery.py [FOLDER]

The new net takes images of any size, and predicts the class at each position.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from digits import folder_asked_for, read_digits, trained

import caffe_kd as caffe
from caffe_kd import layers as L
from caffe_kd import params as P


def convolutional(height: int, width: int) -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, height, width]})
    n.conv1 = L.Convolution(n.data, num_output=16, kernel_size=3, pad=1)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.conv2 = L.Convolution(n.pool1, num_output=32, kernel_size=4)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.conv3 = L.Convolution(n.relu2, num_output=10, kernel_size=1)
    n.prob = L.Softmax(n.conv3)
    return n


def main(folder: Path) -> np.ndarray:
    old = trained(folder)
    images, classes = read_digits()
    row = np.concatenate([p[0] for p in images[:5]], axis=1)  # five digits side by side
    path = folder / "convolutional.prototxt"
    path.write_text(str(convolutional(*row.shape).to_proto()))
    new = caffe.Net(str(path), caffe.TEST)
    for name, source in (("conv1", "conv1"), ("conv2", "ip1"), ("conv3", "score")):
        for blob, trained_blob in zip(new.params[name], old.params[source], strict=True):
            blob.data.flat = trained_blob.data.flat  # the same values in another shape
    new.save(str(folder / "convolutional.caffemodel"))
    seen = new.forward(data=row[None, None])["prob"][0, :, 0].argmax(0)
    print("the digits are          ", *classes[:5].astype(int))
    print("seen from left to right:", *seen[::4])  # one position for each 2 pixels; a digit has 8
    return seen[::4]


if __name__ == "__main__":
    main(folder_asked_for(__doc__))
