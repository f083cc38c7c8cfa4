from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import caffe_kd as caffe
from caffe_kd.core.errors import NetError, UsageError
from tests.pycaffe.nets import CLOSE
from tests.pycaffe.test_classifier import by_hand, files

__all__ = ["files"]


@pytest.fixture
def image_file(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(256, size=(20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_windows_are_cropped_resized_and_classified(files, image_file: str) -> None:
    windows = [(0, 0, 20, 30), (4, 6, 12, 14), (10, 0, 20, 8)]
    found = caffe.Detector(*files).detect_windows(
        [(image_file, windows[:2]), (image_file, windows[2:])]
    )
    assert [d["window"] for d in found] == windows
    assert {d["filename"] for d in found} == {image_file}
    image = caffe.io.load_image(image_file)
    crops = [caffe.io.resize_image(image[a:c, b:d], (8, 8)) for a, b, c, d in windows]
    expected = by_hand(files, np.stack(crops).transpose(0, 3, 1, 2))
    np.testing.assert_allclose([d["prediction"] for d in found], expected, **CLOSE)
    assert caffe.Detector(*files).detect_windows([(image_file, [])]) == []


def test_context_lies_around_the_window(files) -> None:
    detector = caffe.Detector(*files, context_pad=2)
    image = np.random.default_rng(0).uniform(size=(40, 40, 3)).astype(np.float32)
    # With 2 of 8 pixels around each side, twice the window's size (and one pixel) is shown.
    crop = detector.crop(image, (12, 12, 27, 27))
    assert crop.shape == (8, 8, 3)
    half = 8.0
    edges = np.round([20 - 2 * half, 20 + 2 * half]).astype(int)
    shown = image[edges[0] : edges[1], edges[0] : edges[1]]
    np.testing.assert_allclose(crop, caffe.io.resize_image(shown, (8, 8)), **CLOSE)


def test_what_lies_outside_the_image_is_the_mean(files) -> None:
    mean = np.array([10.0, 20, 30])
    detector = caffe.Detector(
        *files, mean=mean, raw_scale=255, channel_swap=(2, 1, 0), context_pad=2
    )
    image = np.ones((40, 40, 3), np.float32)
    crop = detector.crop(image, np.array([0, 0, 15, 15]))
    # Of 33 rows and columns shown, 8 are outside: 2 of the input's 8.
    np.testing.assert_allclose(crop[:2], np.broadcast_to(mean[::-1] / 255, (2, 8, 3)), **CLOSE)
    np.testing.assert_allclose(crop[:, :2], np.broadcast_to(mean[::-1] / 255, (8, 2, 3)), **CLOSE)
    np.testing.assert_array_equal(crop[2:, 2:], 1)
    ready = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(ready[:, :2], 0, atol=1e-5)


def test_context_can_be_changed_later(files) -> None:
    detector = caffe.Detector(*files)
    image = np.random.default_rng(0).uniform(size=(40, 40, 3)).astype(np.float32)
    np.testing.assert_array_equal(detector.crop(image, (1, 2, 5, 7)), image[1:5, 2:7])
    detector.configure_crop(1)
    assert detector.crop(image, (1, 2, 5, 7)).shape == (8, 8, 3)


def test_selective_search_that_is_not_there_is_reported(files, image_file: str) -> None:
    with pytest.raises(UsageError, match="Selective Search is not installed.*detect_windows"):
        caffe.Detector(*files).detect_selective_search([image_file])


def test_windows_of_selective_search_are_classified(
    files, image_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The program's Python side, which asks MATLAB; its windows are taken as they come.
    (tmp_path / "selective_search_ijcv_with_python.py").write_text(
        "def get_windows(names, cmd):\n"
        "    assert cmd == 'selective_search_rcnn'\n"
        "    return [[(0, 0, 20, 30), (4, 6, 12, 14)] for name in names]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    detector = caffe.Detector(*files)
    found = detector.detect_selective_search(["image.png"])
    wanted = detector.detect_windows([(image_file, [(0, 0, 20, 30), (4, 6, 12, 14)])])
    assert [d["window"] for d in found] == [d["window"] for d in wanted]
    assert {d["filename"] for d in found} == {image_file}
    predictions = [[d["prediction"] for d in several] for several in (found, wanted)]
    np.testing.assert_array_equal(*predictions)
    monkeypatch.delitem(sys.modules, "selective_search_ijcv_with_python")


def test_window_outside_its_image_is_reported(files, image_file: str) -> None:
    for detector in (caffe.Detector(*files), caffe.Detector(*files, context_pad=1)):
        with pytest.raises(NetError, match=r"must lie in its image of \(20, 30\) pixels"):
            detector.detect_windows([(image_file, [(50, 50, 60, 60)])])
    with pytest.raises(NetError, match="context_pad must leave some of the input's 8 pixels"):
        caffe.Detector(*files, context_pad=4)
