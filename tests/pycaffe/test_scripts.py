"""Scripts as they were written for pycaffe, run as they are by ``caffe_kd run``; see scripts/."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import caffe_kd as caffe
from caffe_kd import layers as L
from caffe_kd import params as P
from caffe_kd.cli.run import main
from caffe_kd.pycaffe.glog import LOG
from tests.layers.python_nets import without_caffe
from tests.pycaffe.nets import CLOSE

pytestmark = without_caffe

SCRIPTS = Path(__file__).parent / "scripts"
MODULES = ("seg_layers", "roi_layers")  # which the scripts' nets name


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a net, its weights, a mean, images and samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "3")
    monkeypatch.setattr(LOG, "level", None)  # a script sets it
    monkeypatch.syspath_prepend(SCRIPTS)
    caffe.set_random_seed(1)
    n = caffe.NetSpec()
    n.data = L.Input(shape={"dim": [10, 1, 8, 8]})
    filler = {"type": "xavier"}
    n.conv1 = L.Convolution(n.data, num_output=6, kernel_size=3, weight_filler=filler)
    n.tanh1 = L.TanH(n.conv1, in_place=True)
    n.conv2 = L.Convolution(n.conv1, num_output=8, kernel_size=3, weight_filler=filler)
    n.pool2 = L.Pooling(n.conv2, pool=P.Pooling.AVE, global_pooling=True)
    n.score = L.InnerProduct(n.pool2, num_output=10, weight_filler=filler)
    n.prob = L.Softmax(n.score)
    Path("deploy.prototxt").write_text(str(n.to_proto()))
    caffe.Net("deploy.prototxt", caffe.TEST).save("net.caffemodel")
    return tmp_path


@pytest.fixture
def digits(folder: Path) -> np.ndarray:
    """Write the digits as LMDBs and their mean; return those for training."""
    found = load_digits()
    images = found.images.astype(np.uint8)[:, None]
    for name, chosen in (("train_lmdb", slice(0, 1500)), ("test_lmdb", slice(1500, 1700))):
        samples = zip(images[chosen], found.target[chosen], strict=True)
        with lmdb.open(name, map_size=2**24) as env, env.begin(write=True) as txn:
            for number, (image, label) in enumerate(samples):
                datum = caffe.io.array_to_datum(image, label)
                txn.put(f"{number:08}".encode(), datum.SerializeToString())
    mean = caffe.io.array_to_blobproto(images[:1500].mean(0, keepdims=True))
    (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())
    return images[:1500]


@pytest.fixture
def images(folder: Path) -> list[str]:
    """Write a mean and three grey images; return the images' files."""
    draw = np.random.default_rng(0)
    np.save("mean.npy", draw.uniform(100, 150, size=(1, 12, 12)))
    (folder / "images").mkdir()
    files = [f"images/{i}.png" for i in range(3)]
    for file in files:
        pixels = draw.integers(256, size=(20, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(file)
    return files


def run(capsys: pytest.CaptureFixture, name: str, *words: str) -> list[list[str]]:
    """Run a script; return the words of the lines it printed."""
    capsys.readouterr()
    try:
        status = main([str(SCRIPTS / name), *words])
    finally:
        for module in MODULES:
            sys.modules.pop(module, None)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return [line.split() for line in captured.out.splitlines()]


# ---- Caffe's own scripts, in short


@pytest.mark.parametrize("how", [[], ["center"]])
def test_classify_writes_the_predictions_for_images(
    images: list[str], capsys: pytest.CaptureFixture, how: list[str]
) -> None:
    (captured, best) = run(capsys, "classify.py", "images", "out.npy", *how)
    assert captured == ["Classifying", "3", "inputs."]
    found = np.load("out.npy")
    assert found.shape == (3, 10)
    classifier = caffe.Classifier(
        "deploy.prototxt", "net.caffemodel", (12, 12), np.load("mean.npy"), raw_scale=255
    )
    given = [caffe.io.load_image(file, color=False) for file in images]
    np.testing.assert_allclose(found, classifier.predict(given, not how), **CLOSE)
    assert best[3] == f"#{found[0].argmax()}."


def test_detect_writes_the_predictions_for_windows(
    images: list[str], capsys: pytest.CaptureFixture
) -> None:
    windows = [(images[0], 0, 0, 12, 12), (images[0], 4, 2, 19, 15), (images[2], 3, 3, 9, 9)]
    lines = [",".join(map(str, window)) for window in windows]
    Path("windows.csv").write_text("\n".join(["filename,ymin,xmin,ymax,xmax", *lines]))
    run(capsys, "detect.py", "windows.csv", "out.csv")
    rows = [line.split(",") for line in Path("out.csv").read_text().splitlines()]
    assert [(row[0], *map(int, row[1:5])) for row in rows] == windows
    predictions = np.array([row[5:] for row in rows], np.float64)
    assert predictions.shape == (3, 10)
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-4)  # of six written digits
    assert not np.allclose(predictions[0], predictions[1])


def test_draw_net_writes_an_image(folder: Path, capsys: pytest.CaptureFixture) -> None:
    run(capsys, "draw_net.py", "deploy.prototxt", "net.png")
    with Image.open("net.png") as image:
        assert min(image.size) > 50


def test_train_steps_and_logs_how_long_each_layer_takes(
    digits: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    run(capsys, "lenet.py")
    solver = Path("lenet_solver.prototxt")
    solver.write_text(solver.read_text().replace("display: 1000", "display: 2"))
    lines = run(capsys, "train.py", "lenet_solver.prototxt", "3")
    layers = ["data", "conv1", "pool1", "fc1", "relu1", "score", "loss"]
    once = [("forw", name) for name in layers] + [("back", name) for name in layers[::-1]]
    assert [(line[0], line[2].rstrip(":")) for line in lines] == once * 2  # iterations 0 and 2
    took = {(line[0], line[2].rstrip(":")): float(line[-1]) for line in lines}
    assert took["forw", "conv1"] > 0
    assert took["back", "conv1"] > 0


# ---- what people wrote


def test_lenet_is_written_stepped_and_tested_by_hand(
    digits: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    captured = run(capsys, "lenet.py")
    assert " ".join(captured[0]).startswith("Iteration 81, loss 0.")
    found = np.load("run.npz")
    assert found["loss"][-10:].mean() < 0.2 * found["first"][0]
    assert found["acc"][-1] > 0.8
    assert found["tiles"].any()
    # The batch that was tested first is looked at again each time, with newer weights.
    assert not np.allclose(found["output"][0], found["output"][-1])


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_dream_strengthens_a_layer_at_every_size(
    folder: Path, capsys: pytest.CaptureFixture, layer: str
) -> None:
    for line, size in zip(run(capsys, "dream.py", layer), (8, 16), strict=True):
        side = size - (2 if layer == "conv1" else 4)
        assert " ".join(line[:-1]).endswith(f"{side}, {side})")
        assert float(line[-1]) > 1.05


def test_saliency_is_the_gradient_of_a_class(
    images: list[str], capsys: pytest.CaptureFixture
) -> None:
    (captured,) = run(capsys, "saliency.py", "3")
    assert captured[:2] == ["(8,", "8)"]
    assert float(captured[2]) < 0.02  # differences of float32 over 0.04


def test_batch_norm_is_merged_into_convolutions(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("bn.prototxt").write_text(str(normed(True)))
    Path("plain.prototxt").write_text(str(normed(False)))
    draw = np.random.default_rng(0)
    net = caffe.Net("bn.prototxt", caffe.TRAIN)
    for _ in range(4):
        net.forward(data=draw.normal(size=(2, 3, 9, 9)))
    for name, blobs in net.params.items():
        if name.endswith("/scale"):
            for blob in blobs:
                blob.data[...] = draw.uniform(0.5, 1.5, size=blob.shape)
    net.save("bn.caffemodel")
    ((difference,),) = run(capsys, "merge_bn.py", "bn.prototxt", "bn.caffemodel", "plain.prototxt")
    assert float(difference) < 1e-5


def normed(with_norm: bool) -> caffe.NetSpec:
    n = caffe.NetSpec()
    n.data = bottom = L.Input(shape={"dim": [2, 3, 9, 9]})
    filler = {"type": "msra"}
    for name in ("conv1", "conv2"):
        n[name] = bottom = L.Convolution(
            bottom, num_output=8, kernel_size=3, bias_term=not with_norm, weight_filler=filler
        )
        if with_norm:
            n[f"{name}/bn"] = bottom = L.BatchNorm(bottom, in_place=True)
            n[f"{name}/scale"] = bottom = L.Scale(bottom, bias_term=True, in_place=True)
        n[f"{name}/relu"] = bottom = L.ReLU(bottom, in_place=True)
    n.fc = L.InnerProduct(bottom, num_output=4, weight_filler=filler)
    n.prob = L.Softmax(n.fc)
    return n.to_proto()


def test_fully_convolutional_net_is_trained_and_scored(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    *scores, same = run(capsys, "solve_fcn.py")
    losses = [float(loss) for _, loss in scores]
    assert losses[2] < losses[1] < losses[0]
    assert scores[3] == scores[2]  # of the net that the weights were transplanted to
    assert same == ["True"]


def test_loop_of_its_own_finetunes_on_a_python_layer(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("rcnn", "rcnn_solver"):
        shutil.copy(SCRIPTS / f"{name}.prototxt", folder)
    first, same, *shapes = run(capsys, "rcnn.py")
    assert float(first[1]) < 0.1 * float(first[0])
    assert first[2] == "5"
    assert same == ["True"]
    assert [re.sub(r"\D", "", " ".join(line)) for line in shapes] == ["210", "510"]


def test_records_mean_and_weights_are_converted(
    digits: np.ndarray, capsys: pytest.CaptureFixture
) -> None:
    first, second = run(capsys, "convert.py")
    assert first == ["True", "1500"]
    assert second == ["True"]
    np.testing.assert_allclose(np.load("mean_again.npy"), digits.mean(0), rtol=1e-5)


# ---- loops of other kinds: recurrent, masked, fed by a process


def test_sequence_is_learned_and_written_sign_by_sign(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    *losses, small, written, at_once = run(capsys, "sequence.py")
    assert [float(line[3]) for line in losses] == sorted(
        (float(x[3]) for x in losses), reverse=True
    )
    assert small == ["last", "loss", "small:", "True"]
    assert written == ["abcdefghabcdefghabcde"]
    assert at_once == ["True"]  # the state that is carried over is that of a longer sequence


def test_net_is_split_by_rank_and_pruned_with_masks(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (error, *names), (first, last, *zeros) = run(capsys, "compress.py")
    assert 0 < float(error) < 0.5  # six of eight ranks
    assert names == ["score_v", "score_u", "prob"]
    assert float(last) < 0.8 * float(first)
    assert [round(float(share), 1) for share in zeros] == [0.6] * 3
    assert caffe.Net("low_rank.prototxt", "low_rank.caffemodel", caffe.TEST).params["score_v"]


def test_batches_come_from_a_process_of_a_python_layer(folder: Path) -> None:
    command = [sys.executable, "-m", "caffe_kd", "run", str(SCRIPTS / "fetch.py"), "spawn"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "accuracy 1.0 True\n", done.stderr
