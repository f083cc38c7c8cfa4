"""Changes an image so that a layer inside the net is activated more strongly.

    python tools/examples/deep_dream.py [FOLDER]

Each step runs forward to the layer, writes the gradient there, and runs backward from it to the
image. Writes FOLDER/dream.png: a digit, and what the net made of it.
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
    proto.force_backward = True  # a gradient for the image too, which nothing learns from
    path = folder / "dream.prototxt"
    path.write_text(str(proto))
    net = caffe.Net(str(path), caffe.TEST, weights=str(folder / "digits.caffemodel"))
    images, _ = read_digits()
    image = net.blobs["data"]
    image.data[...] = images[:1]
    strengths = []
    for _ in range(steps):
        net.forward(end=layer)
        activation = net.blobs[layer]
        strengths.append(float((activation.data**2).sum() / 2))
        activation.diff[...] = activation.data  # the gradient of half the sum of squares
        net.backward(start=layer)
        image.data[...] += 0.05 * image.diff / np.abs(image.diff).mean()
        image.data[...] = image.data.clip(0, 1)
    both = np.concatenate([images[0, 0], image.data[0, 0]], axis=1)
    Image.fromarray((255 * both).astype(np.uint8)).resize((512, 256), 0).save(folder / "dream.png")
    print(f"activation of {layer}: {strengths[0]:.1f} at first, {strengths[-1]:.1f} at last")
    return strengths[0], strengths[-1]


if __name__ == "__main__":
    main(folder_asked_for(__doc__))
