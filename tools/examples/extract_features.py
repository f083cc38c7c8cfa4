"""Extracts the features that a layer inside a trained net computes for each image.

    python tools/examples/extract_features.py [FOLDER]

Writes FOLDER/features.npy, and prints the accuracy of nearest neighbours among the features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from digits import folder_asked_for, read_digits, trained
from sklearn.neighbors import KNeighborsClassifier

import caffe_kd as caffe


def main(folder: Path) -> float:
    net = trained(folder)
    images, classes = read_digits()
    net.blobs["data"].reshape(100, 1, 8, 8)  # the batch
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    inputs = np.stack([transformer.preprocess("data", p[0][:, :, None]) for p in images])
    features = net.forward_all(blobs=["ip1"], data=inputs)["ip1"]
    np.save(folder / "features.npy", features)
    neighbours = KNeighborsClassifier(3).fit(features[:900], classes[:900])
    right = float(neighbours.score(features[900:], classes[900:]))
    print(f"{features.shape[0]} features of {features.shape[1]} numbers; accuracy {right:.4f}")
    return right


if __name__ == "__main__":
    main(folder_asked_for(__doc__))
