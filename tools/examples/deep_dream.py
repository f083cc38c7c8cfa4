"""Changes a picture until a layer inside the net answers more strongly to it.

    python tools/examples/deep_dream.py [FOLDER]

Each step runs forward to the layer, writes the gradient there, and runs back from it to the
picture. Writes FOLDER/dream.png: a digit, and what the net made of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from digits import folder_asked_for, read_digits, trained
from digits import net as digits_net
from PIL import Image

import caffe_kd as caffe


def main(folder: Path, layer: str = "pool1", steps: int = 40) -> tuple[float, float]:
    trained(folder)
    proto = digits_net(loss=False, batch=1).to_proto()
    proto.force_backward = True  # a gradient for the picture too, which nothing learns from
    path = folder / "dream.prototxt"
    path.write_text(str(proto))
    net = caffe.Net(str(path), caffe.TEST, weights=str(folder / "digits.caffemodel"))
    pictures, _ = read_digits()
    picture = net.blobs["data"]
    picture.data[...] = pictures[:1]
    strengths = []
    for _ in range(steps):
        net.forward(end=layer)
        answer = net.blobs[layer]
        strengths.append(float((answer.data**2).sum() / 2))
        answer.diff[...] = answer.data  # the gradient of half the sum of squares
        net.backward(start=layer)
        picture.data[...] += 0.05 * picture.diff / np.abs(picture.diff).mean()
        picture.data[...] = picture.data.clip(0, 1)
    both = np.concatenate([pictures[0, 0], picture.data[0, 0]], axis=1)
    Image.fromarray((255 * both).astype(np.uint8)).resize((512, 256), 0).save(folder / "dream.png")
    print(f"{layer} answered {strengths[0]:.1f} at first, {strengths[-1]:.1f} at last")
    return strengths[0], strengths[-1]


if __name__ == "__main__":
    main(folder_asked_for(__doc__))
