from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from caffe_kd.core.errors import CaffeKDError, ParseError, SolverError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.logs.log import Log
from caffe_kd.solver import resume
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.resume import sealed
from caffe_kd.solver.solver import Solver

ROOT = Path(__file__).parents[2]

# All that is random or has a place to go on from: mirrored and cropped images, shuffled rows,
# dropout, random dummy data, batch statistics.
NET = """
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { scale: 0.01 mirror: true crop_size: 7 }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 6 } }
layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.01 mirror: true crop_size: 7 }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 4 } }
layer { name: "h" type: "HDF5Data" top: "more" include { phase: TRAIN }
  hdf5_data_param { source: "rows.txt" batch_size: 6 shuffle: true } }
layer { name: "noise" type: "DummyData" top: "noise" include { phase: TRAIN }
  dummy_data_param { shape { dim: 6 dim: 5 } data_filler { type: "gaussian" std: 0.1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "more" bottom: "noise" top: "sum"
  include { phase: TRAIN } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss"
  include { phase: TRAIN } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""
SOLVER = """
net: "net.prototxt" test_iter: 2 test_interval: 7 base_lr: 0.05 momentum: 0.9 weight_decay: 0.001
lr_policy: "step" gamma: 0.5 stepsize: 9 display: 1 average_loss: 5 max_iter: {max_iter}
snapshot: {snapshot} snapshot_prefix: "run" random_seed: 3 type: "{type}"
"""


def digits() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (25, 8, 8), np.uint8)
    return images, draw.integers(0, 5, 25).astype(np.uint8)


def write_all(folder: Path, max_iter: int = 20, snapshot: int = 8) -> None:
    images, labels = digits()
    write_idx(folder / "images-idx3-ubyte", images)
    write_idx(folder / "labels-idx1-ubyte", labels)
    draw = np.random.default_rng(1)
    for name in ("a", "b"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["more"] = draw.normal(size=(9, 5)).astype(np.float32)
    (folder / "rows.txt").write_text("a.h5 b.h5")
    (folder / "net.prototxt").write_text(NET)
    write_solver(folder, max_iter, snapshot)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_solver(folder: Path, max_iter: int = 20, snapshot: int = 8, type: str = "SGD") -> None:
    content = SOLVER.format(max_iter=max_iter, snapshot=snapshot, type=type)
    (folder / "solver.prototxt").write_text(content)


def make() -> tuple[Solver, io.StringIO]:
    lines = io.StringIO()
    return Solver(read_plan("solver.prototxt"), Log(stream=lines)), lines


def logged_from(lines: io.StringIO, iteration: int) -> list[str]:
    """Return the figures logged from an iteration on, without times and speeds."""
    texts = [line.split("] ", 1)[1] for line in lines.getvalue().splitlines()]
    start = next(i for i, t in enumerate(texts) if t.startswith(f"Iteration {iteration} ("))
    return [t.split(", loss")[-1] for t in texts[start:] if " = " in t]


@pytest.mark.parametrize("type", ["SGD", "Adam", "Nesterov"])
def test_resumed_run_gives_the_same_bits_and_figures(folder: Path, type: str) -> None:
    write_solver(folder, type=type)
    whole, lines = make()
    whole.solve()
    before = Path("run_iter_20.caffemodel").read_bytes()
    state = Path("run_iter_20.solverstate").read_bytes()
    resumed, again = make()
    resumed.solve("run_iter_16.solverstate")
    assert Path("run_iter_20.caffemodel").read_bytes() == before
    assert Path("run_iter_20.solverstate").read_bytes() == state
    assert logged_from(again, 16) == logged_from(lines, 16)


def test_resumed_run_with_batches_made_ahead_gives_the_same_bits(folder: Path) -> None:
    draw = np.random.default_rng(1)
    lines = ""
    for index in range(25):
        Image.fromarray(draw.integers(0, 256, (9, 8 + index % 2), np.uint8)).save(f"{index}.png")
        lines += f"{index}.png {index % 5}\n"
    Path("list.txt").write_text(lines)
    images = NET.replace('type: "Data"', 'type: "ImageData"')
    for batch in (6, 4):
        images = images.replace(
            f'data_param {{ source: "images-idx3-ubyte" backend: IDX batch_size: {batch} }}',
            f'image_data_param {{ source: "list.txt" batch_size: {batch} is_color: false '
            "shuffle: true rand_skip: 9 }",
        )
    assert "backend" not in images
    Path("net.prototxt").write_text(images)
    whole, lines_of_whole = make()
    whole.solve()
    assert whole.net.nodes[0].layer.depth > 0
    before = Path("run_iter_20.caffemodel").read_bytes()
    resumed, again = make()
    resumed.solve("run_iter_8.solverstate")
    assert Path("run_iter_20.caffemodel").read_bytes() == before
    assert logged_from(again, 8) == logged_from(lines_of_whole, 8)


def test_without_resume_file_the_data_starts_over_and_it_is_said(folder: Path) -> None:
    make()[0].solve()
    Path("run_iter_16.resume").unlink()
    resumed, lines = make()
    resumed.restore("run_iter_16.solverstate")
    assert "The data starts from the beginning, as in Caffe: there is no" in lines.getvalue()
    assert resumed.net.nodes[0].layer.position == 0


def test_resume_file_of_other_weights_is_not_used(folder: Path) -> None:
    make()[0].solve()
    os.replace("run_iter_8.resume", "run_iter_16.resume")
    resumed, lines = make()
    resumed.restore("run_iter_16.solverstate")
    assert "run_iter_16.resume belongs to another snapshot" in lines.getvalue()
    assert resumed.net.nodes[0].layer.position == 0


@pytest.mark.parametrize("size", [0, 10, 500, -1])
def test_truncated_resume_file_is_one_clear_error(folder: Path, size: int) -> None:
    make()[0].solve()
    content = Path("run_iter_16.resume").read_bytes()
    Path("run_iter_16.resume").write_bytes(content[:size])
    with pytest.raises(ParseError, match=r"run_iter_16\.resume: is damaged"):
        make()[0].restore("run_iter_16.solverstate")


def rewritten(content: bytes) -> None:
    """Put another archive in the place of the state, with the checksum that it wants."""
    Path("run_iter_16.resume").write_bytes(sealed(content))


def archive(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def arrays_of_state() -> dict[str, np.ndarray]:
    return dict(np.load("run_iter_16.resume"))


def test_resume_file_cannot_run_code(folder: Path) -> None:
    make()[0].solve()
    rewritten(archive(random=np.array([print], dtype=object)))
    with pytest.raises(ParseError, match="is damaged"):
        make()[0].restore("run_iter_16.solverstate")


def test_resume_file_that_unpacks_to_more_than_it_has_is_refused(folder: Path) -> None:
    make()[0].solve()
    content = io.BytesIO()
    np.savez_compressed(content, random=np.zeros(10**7))
    rewritten(content.getvalue())
    with pytest.raises(ParseError, match="unpacks to 80000128 bytes, more than its own size"):
        make()[0].restore("run_iter_16.solverstate")


def test_resume_file_of_another_net_is_refused(folder: Path) -> None:
    make()[0].solve()
    arrays = arrays_of_state()
    del arrays["0/1/order"]
    rewritten(archive(**arrays))
    with pytest.raises(ParseError, match="belongs to another net"):
        make()[0].restore("run_iter_16.solverstate")


def test_any_damage_to_a_resume_file_is_one_clear_error(folder: Path) -> None:
    """With a checksum that is right for it, as a hand or a program could write it, too."""
    make()[0].solve()
    draw = random.Random(1)
    whole = Path("run_iter_16.resume").read_bytes()
    solver, _ = make()
    for trial in range(200):
        content = bytearray(whole[:-4])
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        if trial % 2:
            rewritten(bytes(content))
        else:
            Path("run_iter_16.resume").write_bytes(bytes(content) + whole[-4:])
        try:
            solver.restore("run_iter_16.solverstate")
        except CaffeKDError as error:
            assert "run_iter_16.resume: " in str(error) and "\n" not in str(error)
        else:
            assert trial % 2  # what a right checksum stands behind may be taken


@pytest.mark.parametrize("value", [np.array("a"), np.zeros((1, 1)), np.array(1j), np.array(True)])
def test_resume_file_with_other_types_is_one_clear_error(folder: Path, value: np.ndarray) -> None:
    make()[0].solve()
    arrays = arrays_of_state()
    solver, _ = make()
    for name in arrays:
        rewritten(archive(**{**arrays, name: value}))
        with pytest.raises(ParseError, match=r"run_iter_16\.resume: "):
            solver.restore("run_iter_16.solverstate")


@pytest.mark.parametrize("ending", ["caffemodel", "solverstate"])
def test_snapshot_with_a_flipped_bit_is_refused(folder: Path, ending: str) -> None:
    make()[0].solve()
    path = Path(f"run_iter_16.{ending}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # within the numbers, where it reads as well as before
    path.write_bytes(content)
    with pytest.raises(SolverError, match=f"the {ending} of this snapshot is not what was written"):
        make()[0].restore("run_iter_16.solverstate")
    Path("run_iter_16.resume").unlink()  # as the message proposes
    make()[0].restore("run_iter_16.solverstate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch", "batch_size 4, now 5"),
        ("fewer", "samples 25, now 20, different images, different labels"),
        ("labels", "different labels"),
        ("images", "different images"),
        ("transform", "different settings"),
    ],
)
def test_other_data_than_the_snapshot_s_starts_over_with_a_warning(
    folder: Path, change: str, message: str
) -> None:
    make()[0].solve()
    net = Path("net.prototxt").read_text()
    images, labels = digits()
    if change == "batch":
        net = net.replace("batch_size: 4", "batch_size: 5")
    if change == "transform":
        net = net.replace("transform_param {", "transform_param { mean_value: 7 ")
    if change == "images":
        images = images[::-1]
    if change == "labels":
        labels = labels[::-1]
    if change == "fewer":
        images, labels = images[:20], labels[:20]
    Path("net.prototxt").write_text(net)
    write_idx(Path("images-idx3-ubyte"), images)
    write_idx(Path("labels-idx1-ubyte"), labels)
    resumed, lines = make()
    resumed.restore("run_iter_16.solverstate")
    net_of_it = resumed.test_nets[0] if change == "batch" else resumed.net
    assert net_of_it.nodes[0].layer.position == 0
    warnings = [x for x in lines.getvalue().splitlines() if "layer 'd' (Data) starts its" in x]
    assert warnings[0].startswith("W") and message in warnings[0]


def test_data_that_was_moved_goes_on(folder: Path) -> None:
    make()[0].solve()
    Path("moved").mkdir()
    for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        Path(name).rename(Path("moved") / name)
    net = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(net.replace("images-idx3", "moved/images-idx3"))
    resumed, lines = make()
    resumed.restore("run_iter_16.solverstate")
    assert resumed.net.nodes[0].layer.position != 0
    assert "starts its data from the beginning" not in lines.getvalue()


def test_failed_snapshot_on_the_way_is_reported_and_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = resume.write

    def full(path: Path, *rest: object) -> None:
        if "iter_16" in path.name:
            raise CaffeKDError("cannot be written: No space left on device", str(path))
        written(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(resume, "write", full)
    solver, lines = make()
    solver.solve()
    assert "No snapshot of iteration 16: run_iter_16.resume: cannot be written: No space" in (
        lines.getvalue()
    )
    assert "Last one: run_iter_8.solverstate" in lines.getvalue()
    assert not Path("run_iter_16.solverstate").exists()
    assert Path("run_iter_8.solverstate").exists()
    assert Path("run_iter_20.solverstate").exists()


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_run_killed_at_random_moments_ends_with_the_same_bits() -> None:
    """In a process of its own, since it forks."""
    command = [sys.executable, str(ROOT / "tests" / "kill_campaign.py"), "-kills", "6"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-terms", "4"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 SIGKILL in a write" in done.stdout and "2 SIGTERM at any moment" in done.stdout
