"""``synthesize``: images of a teacher alone, and what a student learns from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.synthesize import main
from caffe_kd.cli.train import main as train
from caffe_kd.core import examples
from caffe_kd.data.backends.lmdb import LmdbSamples
from caffe_kd.data.mnist import get_mnist
from caffe_kd.net import load_net

ITERATIONS = 150
COUNT = 400
CLASSES = 10
QUICK = {
    "noise": ["-iterations", "30"],
    "generator": ["-iterations", "100", "-batch", "32"],
}
# A student that has learnt nothing is right in one of ten; the teacher is in 94.7 %, and students
# were in 71.7 % (noise) and 89.2 % (generator).
BETTER_THAN_CHANCE = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scikit-learn's digits, the examples for few iterations, and a teacher."""
    folder = tmp_path_factory.mktemp("datafree")
    found = get_mnist(folder, search_dirs=(), allow_download=False, say=lambda _: None).folder
    changes = {
        r'"data/mnist/': f'"{found.as_posix()}/',
        r'"output/distillation/': f'"{folder.as_posix()}/',
        r"_iter_\d+": f"_iter_{ITERATIONS}",
        r"max_iter: \d+": f"max_iter: {ITERATIONS}",
        r"test_iter: \d+": "test_iter: 18",
        r"batch_size: 100": "batch_size: 20",
    }
    for path in examples.folder("distillation").glob("*.prototxt"):
        content = path.read_text(encoding="utf-8")
        for pattern, new in changes.items():
            content = re.sub(pattern, new, content)
        (folder / path.name).write_text(content, encoding="utf-8")
    assert train(["-solver", str(folder / "teacher_solver.prototxt"), "-no_progress"]) == 0
    return folder


def command(folder: Path, output: Path, *more: str) -> list[str]:
    model, weights = folder / "teacher_train_test.prototxt", teacher_weights(folder)
    words = ["-model", str(model), "-weights", str(weights), "-output", str(output)]
    return [*words, "-count", str(COUNT), *more]


def teacher_weights(folder: Path) -> Path:
    return folder / f"teacher_iter_{ITERATIONS}.caffemodel"


def accuracy(net: Path, weights: Path, batches: int) -> float:
    """Return what a net gets right of the samples of its phase TEST."""
    tested = load_net(net)
    tested.load_weights(weights)
    right = 0.0
    for _ in range(batches):
        tested()
        right += float(tested.blobs["accuracy"])
    return right / batches


@pytest.mark.parametrize("method", QUICK)
def test_student_learns_real_digits_it_never_saw(folder: Path, method: str) -> None:
    database = folder / "datafree_lmdb"
    words = ["-method", method, "-overwrite", *QUICK[method]]
    assert main(command(folder, database, *words)) == 0

    samples = LmdbSamples(database)
    assert len(samples) == COUNT
    images, labels = samples.batch(slice(None))
    assert isinstance(images, np.ndarray)
    assert (images.dtype, images.shape) == (np.uint8, (COUNT, 1, 28, 28))
    assert set(labels) == set(range(CLASSES))

    # The teacher itself reads the database like any data, and agrees with the labels.
    net = (folder / "teacher_train_test.prototxt").read_text()
    net = re.sub(
        r'source: "[^"]*t10k[^"]*" backend: IDX', f'source: "{database}" backend: LMDB', net
    )
    read_by_teacher = folder / "teacher_on_synthetic.prototxt"
    read_by_teacher.write_text(net)
    assert accuracy(read_by_teacher, teacher_weights(folder), COUNT // 20) > 0.9

    assert train(["-solver", str(folder / "datafree_solver.prototxt"), "-no_progress"]) == 0
    student = folder / f"datafree_iter_{ITERATIONS}.caffemodel"
    assert accuracy(folder / "datafree_train_test.prototxt", student, 18) > BETTER_THAN_CHANCE


def test_same_seed_makes_the_same_images(folder: Path, tmp_path: Path) -> None:
    def images(name: str, *more: str) -> np.ndarray:
        quick = ["-count", "8", "-iterations", "3", "-batch", "8"]
        assert main(command(folder, tmp_path / name, *quick, *more)) == 0
        made = LmdbSamples(tmp_path / name).batch(slice(None))[0]
        assert isinstance(made, np.ndarray)
        return made

    for method in QUICK:
        first = images(f"{method}_1", "-method", method)
        assert np.array_equal(first, images(f"{method}_2", "-method", method))
        assert not np.array_equal(first, images(f"{method}_3", "-method", method, "-seed", "2"))


def test_a_deployed_net_takes_scale_from_a_flag(folder: Path, tmp_path: Path) -> None:
    deploy = (folder / "teacher_train_test.prototxt").read_text()
    layers = deploy[
        deploy.index('layer {\n  name: "conv1"') : deploy.index('layer {\n  name: "acc')
    ]
    path = tmp_path / "deploy.prototxt"
    path.write_text(
        'layer { name: "data" type: "Input" top: "data" input_param '
        "{ shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }"
        + layers
        + 'layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }'
    )
    quick = ["-count", "8", "-iterations", "3", "-method", "noise", "-scale", "0.00390625"]
    words = command(folder, tmp_path / "a", *quick[:-2])
    assert main(words) == 0
    words = command(folder, tmp_path / "b", *quick)
    words[words.index("-model") + 1] = str(path)
    assert main(words) == 0
    one, other = (LmdbSamples(tmp_path / name).batch(slice(None)) for name in "ab")
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["-count", "0"], 2, "-count must be at least 1"),
        (["-method", "noise", "-balance", "1"], 2, "-balance is for -method generator"),
        (["-iterations", "0"], 2, "-iterations must be at least 1"),
        (["-rate", "-1"], 2, "-rate must be at least 0"),
        (["-blob", "ip3"], 2, "Did you mean 'ip2'?"),
        (["-mean", "1,2"], 2, "the mean has one value or one per channel"),
        (["-shape", "3,28,28"], 1, "shape mismatch"),
    ],
)
def test_wrong_use_is_an_error(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    assert main(command(folder, tmp_path / "db", *words)) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "db").exists()


def test_a_database_is_not_overwritten_unasked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "db").mkdir()
    assert main(command(folder, tmp_path / "db")) == 1
    assert "give -overwrite" in capsys.readouterr().err


def test_missing_data_is_reported_with_the_remedy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = (folder / "teacher_train_test.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(re.sub(r'source: "[^"]*"', 'source: "gone"', net))
    words = command(folder, tmp_path / "db")
    words[words.index("-model") + 1] = str(tmp_path / "net.prototxt")
    assert main(words) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main([*words, "-shape", "1,28,28", "-iterations", "2", "-count", "4"]) == 0


def test_weights_of_another_net_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = (folder / "teacher_train_test.prototxt").read_text()
    (tmp_path / "net.prototxt").write_text(net.replace('name: "ip2"', 'name: "ip3"'))
    words = command(folder, tmp_path / "db")
    words[words.index("-model") + 1] = str(tmp_path / "net.prototxt")
    assert main(words) == 1
    assert "no weights for layer 'ip3'" in capsys.readouterr().err
