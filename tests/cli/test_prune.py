"""The command that prunes: its files, its lines, and the training that recovers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.cli.main import main
from caffe_kd.net import load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights, write_weights

from .small import write_examples


@pytest.fixture
def lenet(tmp_path, monkeypatch):
    """A folder with LeNet, its weights and digits, which is the working directory."""
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    net = load_net("lenet_train_test.prototxt", pb.TRAIN)
    write_weights("lenet.caffemodel", net.param, net.weights())
    return ["prune", "-model", "lenet_train_test.prototxt", "-weights", "lenet.caffemodel"]


def test_lenet_is_pruned_and_learns_from_the_unpruned_net(lenet, capsys):
    assert main([*lenet, "-ratio", "0.7", "-output", "p", "-solver_output", "s.prototxt"]) == 0
    out = capsys.readouterr().out
    assert "431,080 -> 40,081" in out and "2,293,000 -> 267,900" in out
    assert "6 of 20" in out and "microseconds" in out
    times = r" \d+\.\d -> \d+\.\d$"  # of each layer, and of all
    for name in ("conv1", "conv2", "ip1", "ip2", "all"):
        assert re.search(rf"^{name} .*{times}", out, re.MULTILINE)
    assert "To distil: caffe_kd train -solver s.prototxt" in out
    solver = text.read("s.prototxt", pb.SolverParameter())
    assert solver.max_iter == 938
    assert solver.test_iter == [2]
    solver.max_iter = solver.test_interval = 3
    text.write("s.prototxt", solver)
    assert main(["train", "-solver", "s.prototxt"]) == 0
    log = capsys.readouterr().err
    assert "loss_distilling" in log
    assert "Test net output #0: accuracy" in log
    assert Path("p_distilled_iter_3.caffemodel").exists()


def test_everything_else_is_as_the_user_wrote_it(lenet):
    assert main([*lenet, "-ratio", "0.5", "-output", "p"]) == 0
    net, pruned = (read_net(f) for f in ("lenet_train_test.prototxt", "p.prototxt"))
    for layer in (*net.layer, *pruned.layer):
        layer.ClearField("source_line")
        for param in (layer.convolution_param, layer.inner_product_param):
            param.ClearField("num_output")
    assert net == pruned


def test_ratio_0_copies_every_byte(lenet, capsys):
    assert main([*lenet, "-ratio", "0", "-output", "out/same"]) == 0
    for old, new in (
        ("lenet_train_test.prototxt", "out/same.prototxt"),
        ("lenet.caffemodel", "out/same.caffemodel"),
    ):
        assert Path(old).read_bytes() == Path(new).read_bytes()
    assert "copies, for nothing was removed" in capsys.readouterr().out


def test_files_are_found_from_another_folder(lenet, tmp_path):
    model = tmp_path / "lenet_train_test.prototxt"
    model.write_text(model.read_text().replace(f"{tmp_path.as_posix()}/", ""))
    (tmp_path / "elsewhere").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "elsewhere")
        flags = ["-model", str(model), "-weights", "../lenet.caffemodel", "-ratio", "0.5"]
        assert main(["prune", *flags, "-output", "p"]) == 0
        load_net("p.prototxt", pb.TRAIN)


def test_unpruned_net_is_not_overwritten(lenet, capsys):
    before = Path("lenet.caffemodel").read_bytes()
    assert main([*lenet, "-ratio", "0.5", "-output", "lenet"]) == 2
    assert "would take the place of the unpruned one" in capsys.readouterr().err
    assert Path("lenet.caffemodel").read_bytes() == before
    assert not Path("lenet.prototxt").exists()


def test_latency_is_a_target(lenet, capsys):
    assert main([*lenet, "-latency", "0.9", "-output", "p"]) == 0
    (after,) = [w.blobs[0].shape for w in read_weights("p.caffemodel") if w.name == "conv2"]
    assert np.prod(after) < 50 * 20 * 25


def test_rounds_are_one_command_that_goes_on(lenet, capsys):
    command = [*lenet, "-ratio", "0.5", "-output", "p", "-rounds", "2", "-round_iter", "2"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "round 2 of 2: parameters" in out and "accuracy" in out
    assert "431,080 -> 109,295" in out
    made = Path("p.caffemodel").read_bytes()
    assert main(command) == 0
    assert capsys.readouterr().out.count("reused, for its inputs are the same") == 2
    assert Path("p.caffemodel").read_bytes() == made


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "say how much to remove, by -ratio, -macs, -parameters, -latency or -layer_ratio"),
        (["-ratio", "0.5", "-macs", "9"], 2, "give one of -ratio and -macs"),
        (["-ratio", "1"], 2, "-ratio 1 removes every channel of a layer"),
        (["-layer_ratio", "conv1"], 2, "as conv1=0.3. Received: conv1"),
        (["-ratio", "0.5", "-exclude", "conv9"], 2, "Did you mean"),
        (["-ratio", "0.5", "-rounds", "0"], 2, "-rounds must be at least 1"),
        (["-ratio", "0.5", "-iterations", "-1"], 2, "-iterations must be at least 0"),
        (["-macs", "10"], 1, "-macs 10 cannot be reached"),
    ],
)
def test_mistakes_get_one_line(lenet, capsys, flags, status, message):
    assert main([*lenet, "-output", "p", *flags]) == status
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1 or status == 2
    assert not Path("p.prototxt").exists()
