"""The guides of prototxt/migrate, by their own commands, on two old nets.

One is made here: the LeNet of prototxt/migrate, trained on scikit-learn's small digits, its weights
written as Caffe wrote them in 2014. The other is of 2014, with weights that Caffe itself trained.
"""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from caffe_kd.cli.main import main
from caffe_kd.data.backends.idx import IMAGES, LABELS, read_idx
from caffe_kd.data.backends.lmdb import LmdbSamples
from caffe_kd.data.mnist import get_mnist
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from caffe_kd.proto.message import read_net
from tests.documents import GUIDES, commands

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
REAL_MODEL = SHARED / "models" / "lenet-v1-everpeace-2014"
REAL_MNIST = SHARED / "data" / "mnist"

TEACHER = Path("output/migrate/lenet_iter_10000.caffemodel")
TEACHER_TRAINS = "caffe_kd train -solver prototxt/migrate/lenet_2014_solver.prototxt"
ITERATIONS = {"lenet_2014_solver": 300, "kd_solver": 300, "own_kd_solver": 300}
# A few hundred iterations of one batch do not bring all there is; chance is 0.1.
LEARNT = 0.85
RTOL = 1e-4  # float32 sums in another order


def run(command: str) -> str:
    """Run a command of a guide in this process; return what it prints."""
    words = shlex.split(command)
    if words[1] == "get_mnist":
        words.append("-no_download")
    assert words[0] == "caffe_kd"
    expanded = [p for w in words[1:] for p in (sorted(glob.glob(w)) if "*" in w else [w])]
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = main(expanded)
    assert status == 0, f"{command}\n{said.getvalue()}"
    return said.getvalue()


def write_as_in_2014(path: Path, trained: Path) -> None:
    """Write weights in V1 format, with four dims for each blob."""
    old = pb.NetParameter()
    text.read("prototxt/migrate/lenet_2014.prototxt", old)
    blobs = {layer.name: layer.blobs for layer in read_weights(trained)}
    for layer in old.layers:
        layer.source_line = ""
        for values in blobs.get(layer.name, []):
            blob = layer.blobs.add()
            shape = (1,) * (4 - values.ndim) + values.shape
            blob.num, blob.channels, blob.height, blob.width = shape
            blob.data.extend(values.ravel().tolist())
    path.write_bytes(old.SerializeToString())


class Story:
    """The commands run in a folder, with fewer iterations, and what each said."""

    def __init__(self, is_real: bool) -> None:
        self.is_real = is_real
        self.said: dict[str, str] = {}
        self._prepare_nets()
        self._prepare_digits()
        for command in (c for guide in GUIDES for c in commands(guide)):
            if is_real and command == TEACHER_TRAINS:
                continue
            self.said[command] = run(command)
            if command == TEACHER_TRAINS:
                trained = TEACHER.with_name("lenet_iter_300.caffemodel")
                write_as_in_2014(TEACHER, trained)
                trained.unlink()

    def _prepare_nets(self) -> None:
        shutil.copytree(ROOT / "prototxt", "prototxt")
        for stem, count in ITERATIONS.items():
            solver = Path(f"prototxt/migrate/{stem}.prototxt")
            content, found = re.subn(r"max_iter: \d+", f"max_iter: {count}", solver.read_text())
            assert found == 1
            content = re.sub(r"test_iter: \d+", "test_iter: 10", content)
            solver.write_text(re.sub(r"test_interval: \d+", "test_interval: 300", content))
        if self.is_real:
            TEACHER.parent.mkdir(parents=True)
            shutil.copy(REAL_MODEL / TEACHER.name, TEACHER)
            net = (REAL_MODEL / "lenet_train_test.prototxt").read_text()
            here = net.replace("examples/mnist/", "output/migrate/")
            Path("prototxt/migrate/lenet_2014.prototxt").write_text(here)

    def _prepare_digits(self) -> None:
        folder = Path("data/mnist")
        if self.is_real:
            shutil.copytree(REAL_MNIST, folder, copy_function=shutil.copyfile)
        else:
            get_mnist(folder, search_dirs=[], allow_download=False)
        names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
        suffix = "-ubyte.gz" if self.is_real else "-ubyte"
        kinds = [IMAGES, LABELS] * 2
        train, train_labels, self.digits, self.labels = (
            read_idx(folder / (n + suffix), kind) for n, kind in zip(names, kinds, strict=True)
        )
        for part, images, labels in (
            ("train", train[:640], train_labels),
            ("test", self.digits[:100], self.labels),
        ):
            for index, image in enumerate(images):
                path = Path(f"images/{part}/{labels[index]}/{index}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).resize((56, 56)).save(path)
        seven = self.digits[self.labels.tolist().index(7)]
        drawn = Image.fromarray(255 - seven).resize((300, 300), Image.Resampling.BICUBIC)
        drawn.convert("RGB").save("images/seven.png")

    def output_of(self, part: str) -> str:
        (command,) = (c for c in self.said if part in c)
        return self.said[command]


@pytest.fixture(scope="module", params=["made here", "of 2014"])
def story(request, tmp_path_factory):
    is_real = request.param == "of 2014"
    if is_real and not (REAL_MODEL.is_dir() and REAL_MNIST.is_dir()):
        pytest.skip("../shared/models/lenet-v1-everpeace-2014 or ../shared/data/mnist is absent")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("story"))
        yield Story(is_real)


def accuracy(log: str) -> float:
    """The last accuracy that a training's tests or ``caffe_kd test`` logged."""
    return float(re.findall(r"accuracy = ([\d.]+)", log)[-1])


def test_old_net_scores_as_it_did(story):
    assert read_net(TEACHER).layers and not read_net(TEACHER).layer
    log = story.output_of("caffe_kd test")
    assert "using deprecated V1LayerParameter: prototxt/migrate/lenet_2014.prototxt" in log
    if story.is_real:
        recorded = np.load(REAL_MODEL / "lenet_iter_10000.npz")["accuracy"]
        assert accuracy(log) == pytest.approx(float(recorded), abs=5e-6)  # logged with 6 digits
    else:
        assert accuracy(log) > LEARNT


def test_student_learns_from_the_old_net(story):
    log = story.output_of("migrate/kd_solver")
    assert "distilling_loss" in log
    assert accuracy(log) > LEARNT
    assert Path("output/migrate/student.onnx").stat().st_size < TEACHER.stat().st_size / 10


def test_deploy_net_has_the_outputs_of_the_old_one(story):
    deployed = load_net("output/migrate/lenet_deploy.prototxt")
    assert deployed.inputs == ["data"] and deployed.shapes["data"] == (1, 1, 28, 28)
    deployed.load_weights(TEACHER)
    old = load_net("prototxt/migrate/lenet_2014.prototxt")
    old.load_weights(TEACHER)
    old()
    deployed({"data": old.blobs["data"]})
    assert deployed.blobs["ip2"].shape == (100, 10)
    assert bool((deployed.blobs["ip2"] == old.blobs["ip2"]).all())


def test_old_net_as_onnx_takes_pixels_and_has_equal_outputs(story):
    pixels = story.digits[:100, None]
    session = ort.InferenceSession("output/migrate/lenet.onnx")
    (logits,) = session.run(None, {"data": pixels})
    old = load_net("prototxt/migrate/lenet_2014.prototxt")
    old.load_weights(TEACHER)
    old()
    np.testing.assert_allclose(logits, old.blobs["ip2"].detach(), rtol=RTOL, atol=RTOL)


def test_image_is_classified(story):
    said = story.output_of("seven.png -model output/migrate/student.onnx").splitlines()
    assert said[0] == (
        "'data' = pixel * 0.00390625, grey, 28 x 28; probabilities = softmax('ip2'), pixel inverted"
    )
    assert said[1] == "images/seven.png:"
    assert re.fullmatch(r"  [01]\.\d{4}  7", said[2])
    assert len(said) == 5


def test_own_images_become_samples(story):
    samples = LmdbSamples(Path("output/migrate/own_train_lmdb"))
    assert len(samples) == 640
    image, label = samples.read(0)
    assert image.shape == (1, 28, 28)
    assert f"_{label}/" in samples.key(0).decode()
    assert Path("output/migrate/labels.txt").read_text().split() == list("0123456789")
    test = LmdbSamples(Path("output/migrate/own_test_lmdb")).batch(slice(None))[1]
    np.testing.assert_array_equal(test, np.sort(story.labels[:100]))


def test_student_learns_on_own_images(story):
    assert accuracy(story.output_of("own_kd_solver")) > LEARNT
    said = story.output_of("test/7/*.png")
    guesses = re.findall(r"^  [01]\.\d{4}  (\d)$", said, re.MULTILINE)
    assert len(guesses) == int((story.labels[:100] == 7).sum())
    assert guesses.count("7") > LEARNT * len(guesses)
