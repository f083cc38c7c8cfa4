"""Batches made ahead in a thread, at the layers that do so."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from caffe_kd.core.errors import DataError
from caffe_kd.data.backends.lmdb import write_lmdb
from caffe_kd.layers.shared.sample_layer import SampleLayer
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import make_net

ROOT = Path(__file__).parents[3]
COUNT = 11
PATIENCE = 120.0  # seconds until a thread that should end counts as stuck
RANDOM = "transform_param { crop_size: 5 mirror: true mean_value: 3 scale: 0.5 }"

# All ways to the same eleven images, with batches that run over the end.
LAYERS = {
    "Data": 'type: "Data" %s data_param { source: "db" backend: LMDB batch_size: 4 prefetch: %d }',
    "ImageData": (
        'type: "ImageData" %s image_data_param { source: "list.txt" batch_size: 4 shuffle: true '
        "rand_skip: 5 } data_param { prefetch: %d }"
    ),
    "HDF5Data": (
        'type: "HDF5Data" %.0s hdf5_data_param { source: "rows.txt" batch_size: 4 shuffle: true } '
        "data_param { prefetch: %d }"
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    datums = []
    for index in range(COUNT):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(file, "PNG")
        Path(f"{index}.png").write_bytes(file.getvalue())
        datum = pb.Datum(encoded=True, data=file.getvalue(), label=index)
        datums.append((b"%08d" % index, datum.SerializeToString()))
    write_lmdb(Path("db"), datums)
    Path("list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(COUNT)))
    for name, labels in (("a", range(6)), ("b", range(6, COUNT))):
        with h5py.File(f"{name}.h5", "w") as rows:
            rows["label"] = np.array(labels, np.float32)
            rows["data"] = draw.normal(size=(len(labels), 3)).astype(np.float32)
    Path("rows.txt").write_text("a.h5\nb.h5\n")
    return tmp_path


def net_of(kind: str, depth: int = 4, transform: str = RANDOM, seed: int = 1) -> Net:
    torch.manual_seed(seed)
    layer = LAYERS[kind] % (transform, depth)
    return make_net(f'layer {{ name: "d" top: "data" top: "label" {layer} }}', pb.TRAIN)


def batches_of(net: Net, count: int) -> list[torch.Tensor]:
    batches = []
    for _ in range(count):
        net()
        batches += [net.blobs["data"], net.blobs["label"]]
    return batches


def layer_of(net: Net) -> SampleLayer:
    layer = net.nodes[0].layer
    assert isinstance(layer, SampleLayer)
    return layer


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def prefetch_threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def threads_sink_to(count: int) -> bool:
    end = time.monotonic() + PATIENCE
    while prefetch_threads() > count and time.monotonic() < end:
        time.sleep(0.005)
    return prefetch_threads() <= count


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment,
        timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_batches_made_ahead_are_the_same_in_the_same_order(kind: str) -> None:
    notes: list[list[str]] = []
    runs = []
    for depth in (0, 1, 4):
        net = net_of(kind, depth)
        notes.append([])
        net.context.notify = notes[-1].append
        runs.append(batches_of(net, 9))
        assert (layer_of(net)._prefetch is not None) is (depth > 0)
        assert notes[-1] == notes[0]
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])
    assert not same(runs[0][:8], runs[0][8:16])


@pytest.mark.parametrize("kind", LAYERS)
def test_state_is_that_of_the_batch_given_last(kind: str) -> None:
    whole = batches_of(net_of(kind), 9)
    net = net_of(kind)
    assert same(batches_of(net, 4), whole[:8])
    time.sleep(0.05)  # the thread goes ahead
    state = {key: value.copy() for key, value in layer_of(net).state().items()}
    for depth in (0, 4):
        other = net_of(kind, depth, seed=2)
        batches_of(other, 2)
        layer_of(other).restore(state)
        assert same(batches_of(other, 5), whole[8:])
    assert same(batches_of(net, 5), whole[8:])


@pytest.mark.parametrize("depth", [0, 4])
@pytest.mark.parametrize("kind", ["Data", "ImageData"])
def test_third_top_numbers_the_records_of_its_batch(kind: str, depth: int) -> None:
    layer = LAYERS[kind] % (RANDOM, depth)
    tops = 'top: "data" top: "label" top: "index"'
    net = make_net(f'layer {{ name: "d" {tops} {layer} }}', pb.TRAIN)
    plain = net_of(kind, depth)
    layer_of(plain).restore(layer_of(net).state())
    seen = []
    for _ in range(6):
        net()
        plain()
        assert same([net.blobs["data"]], [plain.blobs["data"]])
        assert torch.equal(net.blobs["index"], net.blobs["label"])  # each label is its number
        seen += net.blobs["index"].tolist()
    assert set(seen) == set(range(COUNT))
    numbered = layer_of(net).read(np.array([7, 2]))
    assert numbered[2].tolist() == [7, 2]


def test_order_of_another_set_is_refused() -> None:
    net = net_of("ImageData")
    state = layer_of(net).state()
    for order in (np.arange(COUNT - 1), np.arange(COUNT) + 1, np.zeros(COUNT, np.int64)):
        with pytest.raises(ValueError, match="'d' has 11 samples, but the state has an order"):
            layer_of(net).restore({**state, "order": order})
    with pytest.raises(ValueError, match="'d' has 11 samples, but the state is at sample 11"):
        layer_of(net).restore({**state, "position": np.array(COUNT)})


def test_raw_records_in_memory_take_no_thread(folder: Path) -> None:
    datum = pb.Datum(channels=3, height=8, width=8, data=bytes(192)).SerializeToString()
    write_lmdb(folder / "db", [(b"0", datum), (b"1", datum)], overwrite=True)
    for transform in ("transform_param { scale: 0.5 }", RANDOM):
        net = net_of("Data", transform=transform)
        batches_of(net, 2)
        assert layer_of(net)._prefetch is None


def test_reading_by_number_does_not_disturb_what_is_made_ahead() -> None:
    plain = "transform_param { scale: 0.5 }"
    whole = batches_of(net_of("ImageData", 0, plain), 6)
    net = net_of("ImageData", 4, plain)
    batches = []
    for _ in range(6):
        batches += batches_of(net, 1)
        labels = layer_of(net).read(np.array([3, 0]))[1]
        assert labels.tolist() == [3.0, 0.0]
    assert same(batches, whole)


def test_error_in_the_thread_comes_with_its_batch_and_stays(folder: Path) -> None:
    (folder / "6.png").write_bytes(b"damaged")
    (folder / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(COUNT)))
    torch.manual_seed(0)
    net = make_net(
        'layer { name: "d" top: "data" top: "label" type: "ImageData" '
        'image_data_param { source: "list.txt" batch_size: 4 } }'
    )
    assert net.nodes[0].layer.depth == 4
    assert batches_of(net, 1)[1].tolist() == [0, 1, 2, 3]
    for _ in range(2):
        with pytest.raises(DataError, match=r"list\.txt:7: Could not load 6\.png: "):
            net()


def test_threads_of_hundreds_of_nets_end_with_them() -> None:
    gc.collect()
    before = prefetch_threads()
    for _ in range(200):
        batches_of(net_of("ImageData"), 1)
    gc.collect()
    assert threads_sink_to(before)


SCRIPT = """
import os, signal, sys
import torch
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb, text
net = Net(text.parse('layer { name: "d" top: "data" top: "label" type: "ImageData" '
    'image_data_param { source: "list.txt" batch_size: 4 } }', pb.NetParameter()))
net()
"""


@pytest.mark.parametrize("rest", ["", "raise SystemExit(0)", "del net"])
def test_program_ends_at_once_and_silently(rest: str) -> None:
    done = run_script(SCRIPT + rest)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_program_that_is_interrupted_ends() -> None:
    done = run_script(SCRIPT + "while True:\n    net()\n    os.kill(os.getpid(), signal.SIGINT)\n")
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_program_goes_on_with_the_next_batch() -> None:
    """The thread is not in the child, and neither is what it was about to make."""
    done = run_script(
        SCRIPT + "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "for _ in range(2):\n"
        "    net()\n"
        "    print(net.blobs['label'].tolist(), flush=True)\n"
    )
    assert done.returncode == 0, done.stderr
    wanted = ["[4.0, 5.0, 6.0, 7.0]", "[8.0, 9.0, 10.0, 0.0]"]
    assert done.stdout.splitlines() == wanted * 2
