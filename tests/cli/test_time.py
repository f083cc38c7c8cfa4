"""The commands that measure a net's layers and print the devices."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from caffe_kd.cli import device_query
from caffe_kd.cli.main import main
from caffe_kd.cli.time import StopWatch
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.pycaffe.graph import Graph

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)


def lines(text: str) -> list[str]:
    """Return the log lines without time and place."""
    return [line.split("] ", 1)[1] for line in text.splitlines()]


def milliseconds(log: list[str], what: str) -> float:
    (line,) = [line for line in log if line.strip().startswith(what)]
    found = re.search(r"([\d.e+-]+) ms\.$", line)
    assert found, line
    return float(found[1])


def test_time_logs_caffes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "-model", "net.prototxt", "--iterations=3"]) == 0
    log = lines(capsys.readouterr().err)
    assert log[0] == "Use CPU."
    assert log[1] == "Performing Forward"
    assert float(log[2].removeprefix("Initial loss: ")) > 0
    assert log[3:6] == [
        "Performing Backward",
        "*** Benchmark begins ***",
        "Testing for 3 iterations.",
    ]
    assert [line.split(" forward")[0] for line in log[6:9]] == [
        f"Iteration: {i}" for i in (1, 2, 3)
    ]
    start = log.index("Average time per layer: ")
    layers = [line.split("\t")[0] for line in log[start + 1 : -5]]
    names = ["      data", "      conv", "        ip", "      loss"]
    assert layers == [name for name in names for _ in range(2)]
    assert log[-1] == "*** Benchmark ends ***"


def test_times_of_the_layers_add_up_to_those_of_the_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["time", "-model", "net.prototxt", "-iterations", "5"]) == 0
    log = lines(capsys.readouterr().err)
    for direction in ("forward", "backward"):
        parts = [
            milliseconds(log, f"{name}\t{direction}") for name in ("data", "conv", "ip", "loss")
        ]
        whole = milliseconds(log, f"Average {direction.title()} pass")
        assert 0 < parts[1] < whole
        assert sum(parts) <= whole
    both = milliseconds(log, "Average Forward-Backward")
    assert milliseconds(log, "Total Time") == pytest.approx(5 * both, rel=1e-4)


def test_phase_test_has_the_layers_of_phase_test(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["time", "-model", "net.prototxt", "-iterations", "1", "-phase"]
    assert main([*words, "TEST"]) == 0
    log = lines(capsys.readouterr().err)
    # The split that Caffe inserts, where two layers take one blob.
    assert any(line.startswith("ip_ip_0_split\tforward: ") for line in log)
    assert any(line.startswith("  accuracy\tbackward: ") for line in log)
    assert main([*words, "VALIDATE"]) == 2


def test_profile_is_a_trace_with_the_layers_names(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-model", "net.prototxt", "-iterations", "2", "-profile", "out/trace.json"]
    assert main(["time", *words]) == 0
    names = [e.get("name") for e in json.loads(Path("out/trace.json").read_text())["traceEvents"]]
    assert names.count("conv forward") == names.count("conv backward") == 3  # the first one, too
    assert "aten::conv2d" in names
    assert "Trace: out/trace.json" in capsys.readouterr().err


def test_time_without_a_net_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time"]) == 2
    assert "Need a model definition to time" in capsys.readouterr().err
    assert main(["time", "-model", "net.prototxt", "-iterations", "0"]) == 2
    assert "-iterations must be at least 1" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_query_without_a_device_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device_query"]) == 0
    assert f"No CUDA device. PyTorch {torch.__version__} is built for" in capsys.readouterr().err
    assert main(["device_query", "-gpu", "0"]) == 2
    assert "-gpu 0: there are 0 CUDA devices here" in capsys.readouterr().err


def test_properties_of_a_device_are_in_caffes_lines() -> None:
    facts = SimpleNamespace(  # what a PyTorch may know; an older one knows less
        major=9, minor=0, name="Some GPU", total_memory=85, shared_memory_per_block=49152,
        warp_size=32, max_threads_per_block=1024, clock_rate=1980000, multi_processor_count=132,
    )  # fmt: skip
    assert device_query.lines(1, facts) == [
        "Device id:                     1",
        "Major revision number:         9",
        "Minor revision number:         0",
        "Name:                          Some GPU",
        "Total global memory:           85",
        "Total shared memory per block: 49152",
        "Warp size:                     32",
        "Maximum threads per block:     1024",
        "Clock rate:                    1980000",
        "Number of multiprocessors:     132",
    ]
    del facts.clock_rate
    assert len(device_query.lines(1, facts)) == 9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_time_on_a_gpu_says_so_in_caffes_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "-model", "net.prototxt", "-iterations", "1", "-gpu", "0"]) == 0
    assert lines(capsys.readouterr().err)[0] == "Use GPU with device ID 0"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_device_query_prints_each_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device_query", "-gpu", "all"]) == 0
    log = lines(capsys.readouterr().err)
    assert f"Name:                          {torch.cuda.get_device_name(0)}" in log
    assert "Device id:                     0" in log


def test_net_without_a_loss_computes_the_gradients_of_its_parameters() -> None:
    net = load_net("net.prototxt", pb.TRAIN)
    without = pb.NetParameter()
    without.CopyFrom(net.param)
    del without.layer[:]
    without.layer.extend(x for x in net.param.layer if "Loss" not in x.type)
    graph = Graph(Net(without, pb.TRAIN))
    watch = StopWatch(graph)
    computed: list[str] = []
    run = graph._backward
    graph._backward = lambda place: (computed.append(place.name), run(place))  # type: ignore
    watch.run_forward()
    watch.run_backward()
    with_blobs = [p.name for p in reversed(graph.nodes) if p.params]
    assert with_blobs and computed == with_blobs
