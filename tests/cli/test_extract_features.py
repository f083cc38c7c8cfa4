"""``extract_features``, run as users run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.extract_features import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.backends.lmdb import LmdbSamples
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights

NET = """name: "small"
layer { name: "d" type: "Data" top: "data" top: "label" transform_param { scale: 0.01 }
  data_param { source: "t-images-idx3-ubyte" backend: IDX batch_size: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
COMMAND = ["net.caffemodel", "net.prototxt"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    write_idx(Path("t-images-idx3-ubyte"), draw.integers(0, 256, (10, 5, 6), np.uint8))
    write_idx(Path("t-labels-idx1-ubyte"), np.arange(10, dtype=np.uint8))
    Path("net.prototxt").write_text(NET)
    torch.manual_seed(0)
    net = Net(text.parse(NET, pb.NetParameter()), pb.TEST)
    write_weights(Path("net.caffemodel"), net.param, net.weights())


def fails(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 1) -> str:
    assert main(argv) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_blobs_are_written_sample_by_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "conv,ip", "conv_db,made/ip_db", "3", "lmdb"]) == 0
    net = load_net("net.prototxt")
    net.load_weights("net.caffemodel")
    wanted: dict[str, list[np.ndarray]] = {"conv": [], "ip": []}
    with torch.no_grad():
        for _ in range(3):
            net()
            for name, values in wanted.items():
                values += list(net.blobs[name].numpy().copy())
    for name, shape in (("conv", (2, 3, 4)), ("ip", (5, 1, 1))):
        samples = LmdbSamples(Path({"conv": "conv_db", "ip": "made/ip_db"}[name]))
        assert len(samples) == 12
        assert [samples.key(i) for i in (0, 11)] == [b"0000000000", b"0000000011"]
        for index in range(12):
            image, label = samples.read(index)
            assert (image.dtype, image.shape, label) == (np.float32, shape, 0)
            np.testing.assert_array_equal(image.ravel(), wanted[name][index].ravel())
    log = capsys.readouterr().err
    assert "Extracted features of 12 query images for feature blob conv" in log
    assert "Successfully extracted the features!" in log


def test_data_layer_reads_the_features() -> None:
    assert main([*COMMAND, "ip", "db", "1", "lmdb", "CPU"]) == 0
    net = Net(
        text.parse(
            'layer { name: "d" type: "Data" top: "data" data_param { source: "db" backend: LMDB '
            "batch_size: 2 } }",
            pb.NetParameter(),
        )
    )
    net()
    assert net.blobs["data"].shape == (2, 5, 1, 1)


def test_unknown_blob_is_reported_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, *COMMAND, "conv,ip1", "a,b", "1", "lmdb")
    assert "Unknown feature blob name ip1 in the network net.prototxt. Did you mean 'ip'?" in error
    assert "It has: data, label, conv, ip" in error and not Path("a").exists()


def test_existing_database_is_kept_and_none_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    Path("b").mkdir()
    error = fails(capsys, *COMMAND, "conv,ip", "a,b", "1", "lmdb")
    assert "b: exists already" in error
    assert not Path("a").exists() and not list(Path().glob(".*"))


def test_failure_on_the_way_leaves_no_database(capsys: pytest.CaptureFixture[str]) -> None:
    with_deep = NET + (
        'layer { name: "deep" type: "Reshape" bottom: "conv" top: "deep" '
        "reshape_param { shape { dim: 0 dim: 1 dim: 2 dim: 3 dim: 4 } } }"
    )
    Path("net.prototxt").write_text(with_deep)
    error = fails(capsys, *COMMAND, "ip,deep", "a,b", "1", "lmdb")
    assert "blob 'deep' has 5 axes: Cannot use legacy accessors" in error
    assert not Path("a").exists() and not Path("b").exists() and not list(Path().glob(".*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conv,ip", "a", "1", "lmdb"], "the number of blob names and dataset names must be equal"),
        (["conv,conv", "a,b", "1", "lmdb"], "no blob named twice"),
        (["conv,ip", "a,a", "1", "lmdb"], "each blob needs a database of its own"),
        (["conv", "a", "0", "lmdb"], "num_mini_batches must be at least 1"),
        (["conv", "a", "1", "leveldb"], "a LevelDB can be read, not written"),
    ],
)
def test_wrong_usage_is_an_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, *COMMAND, *words, status=2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize(
    ("words", "number"),
    [(["GPU"], 0), (["GPU", "1"], 1), (["GPU", "DEVICE_ID=1"], 1), (["-gpu", "1"], 1)],
)
def test_gpu_that_is_not_there_is_the_cpu(
    words: list[str], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "ip", "db", "1", "lmdb", *words]) == 0
    expected = f"Use CPU. (-gpu {number}, but there is no CUDA device)"
    assert expected in capsys.readouterr().err


def test_gpu_that_is_no_number_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = fails(capsys, *COMMAND, "ip", "db", "1", "lmdb", "GPU", "first", status=2)
    assert "Received: first" in error
