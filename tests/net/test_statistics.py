"""What batch normalisation keeps, renewed with fixed weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.cli.refresh_statistics import main
from caffe_kd.cli.train import main as train
from caffe_kd.core.errors import NetError
from caffe_kd.data.backends.idx import IMAGES, read_idx
from caffe_kd.net import Net, load_net
from caffe_kd.net.statistics import measure, refresh
from caffe_kd.proto import caffe_pb2 as pb
from tests.deep_batch_norm import ITERATIONS, write_net, write_solver
from tests.helpers import make_net

# float32 sums over a batch
RTOL = 1e-4
NORMS = {
    "BatchNorm": 'type: "BatchNorm" bottom: "data" top: "n"',
    "BN": 'type: "BN" bottom: "data" top: "n" bn_param { slope_filler { value: 1 } }',
}
TWO = ["-iterations", "2", "-output", "new.caffemodel"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def values(output: str, log: str) -> list[float]:
    """Return what a log has as mean of an output, in the order of the tests."""
    lines = [line.partition("] ")[2] for line in log.splitlines()]
    return [float(x.split()[2]) for x in lines if x.startswith(f"{output} = ")]


def test_net_that_tests_badly_by_old_averages_tests_well_by_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_net(tmp_path)
    write_solver(tmp_path)
    assert train(["-solver", "solver.prototxt"]) == 0
    weights = ["-weights", f"s_iter_{ITERATIONS}.caffemodel", "-output", "new.caffemodel"]
    capsys.readouterr()
    assert main(["-model", "net.prototxt", *weights, "-iterations=12", "-test_iterations=1"]) == 0
    log = capsys.readouterr().err
    before, after = values("acc", log)
    assert before < 0.5
    assert after > 0.9
    for index in range(6):
        assert f"layer 'bn{index}' (BatchNorm): the running variance was " in log
    net = load_net("net.prototxt", pb.TEST)
    net.load_weights("new.caffemodel")
    with torch.no_grad():
        net()
    assert float(net.blobs["acc"]) == pytest.approx(after)


@pytest.mark.parametrize("kind", NORMS)
def test_new_averages_are_those_of_the_batches(tmp_path: Path, kind: str) -> None:
    write_net(tmp_path)
    data = Path("net.prototxt").read_text().partition('layer { name: "ip0"')[0]
    Path("net.prototxt").write_text(f'{data}layer {{ name: "norm" {NORMS[kind]} }}')
    net = load_net("net.prototxt", pb.TRAIN)
    net()  # so that something else is kept
    net.nodes[0].layer.restore({**net.nodes[0].layer.state(), "position": np.array(0)})
    ((change,), batches) = refresh(net, 3), np.arange(96).reshape(3, 32)
    images = read_idx(Path("train-images-idx3-ubyte"), IMAGES)[:, None] * 0.004
    mean = np.mean([images[b].mean() for b in batches])
    count = 32 * 28 * 28
    unbiased = count / (count - 1) if kind == "BatchNorm" else 1
    var = np.mean([images[b].var() for b in batches]) * unbiased
    got = [float(x) for x in change.layer.running_stats()]
    np.testing.assert_allclose(got, [mean, var], rtol=RTOL)
    (_, old), (_, new) = change.running, change.now
    assert change.ratio == pytest.approx(float((old + change.layer.eps) / (new + change.layer.eps)))


def outputs(net: Net, count: int, extra: bool) -> list[float]:
    """Train-phase losses, with extra batches looked at before each where asked for."""
    torch.manual_seed(3)
    losses = []
    for _ in range(count):
        if extra:
            measure(net, 5)
        losses.append(float(net().detach()))
    return losses


def test_measuring_leaves_data_random_numbers_and_averages_as_they_were(tmp_path: Path) -> None:
    write_net(tmp_path, transform="mirror: true")
    text = Path("net.prototxt").read_text()
    drop = 'layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }\n'
    Path("net.prototxt").write_text(
        text.replace('layer { name: "ip2"', f'{drop}layer {{ name: "ip2"')
    )
    found = []
    for extra in (False, True):
        torch.manual_seed(1)
        net = load_net("net.prototxt", pb.TRAIN)
        found.append((outputs(net, 6, extra), net.weights()))
    (alone, kept), (beside, also) = found
    assert alone == beside
    for name, blobs in kept.items():
        for blob, other in zip(blobs, also[name], strict=True):
            np.testing.assert_array_equal(blob, other)


def test_training_goes_on_from_new_averages_as_from_so_many_batches() -> None:
    net = make_net(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 8 dim: 2 } '
        'data_filler { type: "gaussian" std: 1 } } }\n'
        'layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" '
        "batch_norm_param { moving_average_fraction: 0.5 } }",
        phase=pb.TRAIN,
    )
    refresh(net, 3)
    assert net.weights()["n"][2].tolist() == [1.75]  # 1 + 0.5 + 0.25


def test_layers_that_use_what_they_keep_are_left_alone() -> None:
    write_net(Path(), more="batch_norm_param { use_global_stats: true }")
    net = load_net("net.prototxt", pb.TRAIN)
    with pytest.raises(NetError, match="net 'deep' has no layer in TRAIN with running statistics"):
        refresh(net, 1)


def test_net_without_data_is_refused_for_it_has_no_batches() -> None:
    net = make_net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 8 dim: 2 } } }\n'
        'layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" }',
        phase=pb.TRAIN,
    )
    with pytest.raises(NetError, match="layer 'x' .Input.: the batches .* from a data layer"):
        refresh(net, 1)


def test_command_refuses_a_net_without_such_layers(capsys: pytest.CaptureFixture[str]) -> None:
    write_net(Path(), more="batch_norm_param { use_global_stats: true }")
    write_solver(Path(), iterations=1)
    assert train(["-solver", "solver.prototxt"]) == 0
    assert main(["-model", "net.prototxt", "-weights", "s_iter_1.caffemodel", *TWO]) == 1
    assert "error: net.prototxt: net 'deep' has no layer" in capsys.readouterr().err
    assert not Path("new.caffemodel").exists()
