from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from caffe_kd.core.errors import NetError
from tests.pycaffe.nets import CLOSE, write

DEPLOY = """
name: "deploy"
layer { name: "data" type: "Input" top: "data"
  input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    caffe.set_random_seed(1)
    model, weights = write(tmp_path, DEPLOY), str(tmp_path / "w.caffemodel")
    caffe.Net(model, caffe.TEST).save(weights)
    return model, weights


def by_hand(files: tuple[str, str], inputs: np.ndarray) -> np.ndarray:
    net = caffe.Net(files[0], caffe.TEST, weights=files[1])
    net.blobs["data"].reshape(*inputs.shape)
    return net.forward(data=inputs)["prob"].copy()


def test_centre_is_what_the_net_says_of_it(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(
        *files, image_dims=(12, 10), mean=np.array([1.0, 2, 3]), raw_scale=255,
        channel_swap=(2, 1, 0), input_scale=0.01,
    )  # fmt: skip
    images = np.random.default_rng(0).uniform(size=(3, 12, 10, 3)).astype(np.float32)
    centre = images[:, 2:10, 1:9].transpose(0, 3, 1, 2)[:, ::-1] * 255
    expected = by_hand(files, (centre - np.array([1, 2, 3])[:, None, None]) * 0.01)
    np.testing.assert_allclose(classifier.predict(images, oversample=False), expected, **CLOSE)


def test_oversampled_is_the_mean_over_ten_crops(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(*files, image_dims=[12, 10])
    images = np.random.default_rng(0).uniform(size=(3, 12, 10, 3)).astype(np.float32)
    crops = caffe.io.oversample(images, (8, 8)).transpose(0, 3, 1, 2)
    expected = by_hand(files, crops).reshape(3, 10, 5).mean(1)
    predictions = classifier.predict(list(images))
    assert predictions.shape == (3, 5)
    np.testing.assert_allclose(predictions, expected, **CLOSE)
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-5)


def test_images_of_any_size_are_resized(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(*files)
    images = [np.random.default_rng(0).uniform(size=(h, 20, 3)) for h in (5, 30)]
    resized = [caffe.io.resize_image(p, (8, 8)).transpose(2, 0, 1) for p in images]
    found = classifier.predict(images, oversample=False)
    np.testing.assert_allclose(found, by_hand(files, np.stack(resized)), **CLOSE)


def test_classifier_is_a_net(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(*files)
    assert isinstance(classifier, caffe.Net)
    assert classifier.params["ip"][0].shape == (5, 192)


def test_what_cannot_be_classified_is_reported(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r"image_dims must be at least the input's \(8, 8\)"):
        caffe.Classifier(*files, image_dims=(7, 9))
    with pytest.raises(NetError, match="no image to classify"):
        caffe.Classifier(*files).predict([])
    flat = DEPLOY.replace("dim: 3 dim: 8 dim: 8", "dim: 192")
    model = write(tmp_path, flat, "flat.prototxt")
    with pytest.raises(NetError, match=r"an input of shape \(4, 192\)"):
        caffe.Classifier(model, files[1])
