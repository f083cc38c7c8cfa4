"""Caffe's python/classify.py, compared with pycaffe's Classifier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import caffe_kd as caffe
from caffe_kd.cli.pycaffe_classify import main
from caffe_kd.proto.binary import write_blob
from tests.cli.images import DEPLOY, write_images, write_mean, write_net

ROOT = Path(__file__).parents[2]
FLAGS = ["--model_def", "deploy.prototxt", "--pretrained_model", "deploy.caffemodel"]
SIZE = ["--images_dim", "16,14"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAFFE_ROOT", raising=False)
    write_net(tmp_path)
    write_images(tmp_path)
    write_mean(tmp_path)


def expected(names: list[str], oversample: bool = True) -> np.ndarray:
    classifier = caffe.Classifier(
        "deploy.prototxt", "deploy.caffemodel", image_dims=(16, 14), mean=np.load("mean.npy"),
        raw_scale=255, channel_swap=(2, 1, 0),
    )  # fmt: skip
    return classifier.predict([caffe.io.load_image(name) for name in names], oversample)


def test_folder_is_classified_in_the_order_of_its_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("inner").mkdir()
    for index in range(5):
        Image.open("a.jpg").rotate(70 * index).save(f"inner/{4 - index}.jpg", quality=95)
    names = [f"inner/{index}.jpg" for index in range(5)]
    Path("inner/note.txt").touch()
    assert main(["inner", "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.npy"]) == 0
    result = np.load("out.npy")
    np.testing.assert_array_equal(result, expected(names))  # batch by batch as all at once
    assert result.shape == (5, 5) and len(np.unique(result[:, 0])) == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["CPU mode", "Loading folder: inner", "Classifying 5 inputs."]
    assert lines[3].startswith("Done in ") and lines[4] == "Saving results into out.npy"


def test_image_is_classified_by_its_centre_with_caffes_command_line() -> None:
    words = ["a.jpg", "centre", *FLAGS, *SIZE, "--mean_file=mean.npy", "--center_only"]
    script = ROOT / "tools" / "python" / "classify.py"
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # As np.save, it adds the ending.
    np.testing.assert_array_equal(np.load("centre.npy"), expected(["a.jpg"], oversample=False))


def test_array_and_other_endings_are_read() -> None:
    images = np.stack([caffe.io.load_image("a.jpg")] * 3)
    images[1] = images[0, ::-1]
    np.save("in.npy", images)
    assert main(["in.npy", "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.npy"]) == 0
    result = np.load("out.npy")
    np.testing.assert_array_equal(result[:1], expected(["a.jpg"]))
    assert not np.array_equal(result[0], result[1])
    assert main([".", "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.npy", "--ext", "png"]) == 0
    np.testing.assert_array_equal(np.load("out.npy"), expected(["b.png"]))


def test_scales_swap_and_mean_reach_the_net() -> None:
    words = ["--mean_file", "", "--channel_swap", "", "--raw_scale", "2", "--input_scale", "0.5"]
    assert main(["a.jpg", "out.npy", *FLAGS, *SIZE, *words]) == 0
    plain = caffe.Classifier("deploy.prototxt", "deploy.caffemodel", image_dims=(16, 14))
    result = plain.predict([caffe.io.load_image("a.jpg")])
    np.testing.assert_allclose(np.load("out.npy"), result, rtol=1e-6)  # 2 * 0.5
    write_blob("mean.binaryproto", np.load("mean.npy")[None].astype(np.float32))
    assert main(["a.jpg", "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.binaryproto"]) == 0
    np.testing.assert_allclose(np.load("out.npy"), expected(["a.jpg"]), rtol=1e-5)


def test_defaults_are_the_reference_net_s_under_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["a.jpg", "out.npy"]) == 2
    assert capsys.readouterr().err == (
        "error: --model_def is not given, and its default "
        f"{Path('models/bvlc_reference_caffenet/deploy.prototxt')} does not exist\n"
    )
    assert main(["a.jpg", "out.npy", *FLAGS]) == 2
    assert "--mean_file '' subtracts none" in capsys.readouterr().err
    root = tmp_path / "caffe"
    model = root / "models" / "bvlc_reference_caffenet"
    mean = root / "python" / "caffe" / "imagenet"
    model.mkdir(parents=True)
    mean.mkdir(parents=True)
    Path("deploy.prototxt").rename(model / "deploy.prototxt")
    Path("deploy.caffemodel").rename(model / "bvlc_reference_caffenet.caffemodel")
    Path("mean.npy").rename(mean / "ilsvrc_2012_mean.npy")
    monkeypatch.setenv("CAFFE_ROOT", str(root))
    assert main(["a.jpg", "out.npy"]) == 0
    assert np.load("out.npy").shape == (1, 5)


def test_net_for_grey_gets_grey(tmp_path: Path) -> None:
    files = write_net(tmp_path, DEPLOY.replace("dim: 3", "dim: 1"))
    assert main(["a.jpg", "out.npy", *FLAGS, *SIZE, "--mean_file", "", "--channel_swap", ""]) == 0
    classifier = caffe.Classifier(*files, image_dims=(16, 14), raw_scale=255)
    grey = classifier.predict([caffe.io.load_image("a.jpg", color=False)])
    np.testing.assert_array_equal(np.load("out.npy"), grey)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["gone.jpg"], 1, "gone.jpg: no such file"),
        (["gone.npy"], 1, "gone.npy: no such file"),
        ([".", "--ext", "gif"], 1, ".: there is no image *.gif; --ext gives another suffix"),
        (["deploy.prototxt"], 1, "deploy.prototxt: the image cannot be read"),
        (["text.npy"], 1, "text.npy: is not an array (.npy), or is damaged"),
        (["objects.npy"], 1, "objects.npy: is not an array (.npy), or is damaged"),
        (["mean.npy"], 1, "mean.npy: must hold images [N, height, width, 3]. Received: (3, 16"),
        (["a.jpg", "--channel_swap", "2,1"], 1, "same number of dimensions as the input channels"),
        (
            ["a.jpg", "--channel_swap", "1,2,3"],
            2,
            "--channel_swap takes the channels' numbers, 0 to 2",
        ),
        (["a.jpg", "--channel_swap", "bgr"], 2, "--channel_swap takes whole numbers"),
        (["a.jpg", "--images_dim", "256"], 2, "--images_dim takes height and width"),
        (["a.jpg", "--images_dim", "8,8"], 1, "image_dims must be at least the input's (12, 12)"),
        (["a.jpg", "--mean_file", "two.npy"], 1, "two.npy: Mean channels incompatible with input"),
        (["a.jpg", "--mean_file", "gone.npy"], 1, "gone.npy: no such file"),
        (["a.jpg", "--model_def", "gone.prototxt"], 1, "gone.prototxt: no such file"),
    ],
)
def test_mistakes_are_reported(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.npy").write_text("no array")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("two.npy", np.zeros(2))
    first, *more = words
    assert main([first, "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.npy", *more]) == status
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert not Path("out.npy").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_that_is_not_here_is_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_kd.pycaffe import mode

    monkeypatch.setitem(mode._state, "fell_back", False)
    assert main(["a.jpg", "out.npy", *FLAGS, "--mean_file", "", "--gpu"]) == 0
    captured = capsys.readouterr()
    assert "CPU mode" in captured.out and "but there is no CUDA device" in captured.err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_gpu_classifies_as_the_cpu_does() -> None:
    words = ["a.jpg", "out.npy", *FLAGS, *SIZE, "--mean_file", "mean.npy"]
    try:
        assert main([*words, "--gpu"]) == 0
    finally:
        caffe.set_mode_cpu()
    # float32 sums in another order.
    np.testing.assert_allclose(np.load("out.npy"), expected(["a.jpg"]), rtol=1e-3, atol=1e-5)
