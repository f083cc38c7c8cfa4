from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from caffe_kd.cli.test import main
from caffe_kd.logs.log_parser import parse_log
from caffe_kd.solver.callbacks.debug_info import DebugInfo
from tests.helpers import inputs_text, make_net
from tests.solver.training import (
    DATA,
    SETTINGS,
    STUDENT,
    MemoryLog,
    assert_same_weights,
    lines_of,
    make_solver,
    weights_of,
)

PRINTED = 1e-5  # the log prints six digits
UPDATES = 1e-4  # differences of float32 weights some hundred times larger
NET = (
    DATA
    + """
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { name: "w" }
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  param { lr_mult: 0 } inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
)


def debug_lines(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r" {4}\[(Forward|Backward|Update)\] ", line)]


# A figure, unlike a number in a name or place, stands before punctuation or the end of the line.
NUMBER = re.compile(r"(?<=[ (])[-+.\de]+(?=[,;)]|$)")


def without_numbers(lines: list[str]) -> list[str]:
    return [NUMBER.sub("#", line) for line in lines]


def numbers_of(line: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(line)]


def number_of(lines: list[str], place: str) -> float:
    (line,) = [line for line in lines if line.strip().startswith(place)]
    return numbers_of(line)[0]


def test_displayed_iteration_is_reported_layer_by_layer(folder: Path) -> None:
    Path("net.prototxt").write_text(NET)
    solver = make_solver(SETTINGS + "debug_info: true display: 1")
    before = [p.blob.detach().clone() for p in solver.net.params]
    solver.step(1)
    lines = debug_lines(lines_of(solver))
    assert without_numbers(lines) == [
        "    [Forward] Layer data, top blob data data: #",
        "    [Forward] Layer data, top blob label data: #",
        "    [Forward] Layer ip1, top blob ip1 data: #",
        "    [Forward] Layer ip1, param blob w data: #",
        "    [Forward] Layer ip1, param blob 1 data: #",
        "    [Forward] Layer relu, top blob ip1 data: #",
        "    [Forward] Layer ip2, top blob ip2 data: #",
        "    [Forward] Layer ip2, param blob 0 data: #",
        "    [Forward] Layer ip2, param blob 1 data: #",
        "    [Forward] Layer loss, top blob loss data: #",
        "    [Backward] Layer loss, bottom blob ip2 diff: #",
        "    [Backward] Layer ip2, bottom blob ip1 diff: #",
        "    [Backward] Layer ip2, param blob 1 diff: #",
        "    [Backward] Layer relu, bottom blob ip1 diff: #",
        "    [Backward] Layer ip1, param blob 0 diff: #",
        "    [Backward] Layer ip1, param blob 1 diff: #",
        "    [Backward] All net params (data, diff): L1 norm = (#, #); L2 norm = (#, #)",
        "    [Update] Layer ip1, param w data: #; diff: #",
        "    [Update] Layer ip1, param 1 data: #; diff: #",
        "    [Update] Layer ip2, param 0 data: #; diff: #",
        "    [Update] Layer ip2, param 1 data: #; diff: #",
    ]
    weight, after = before[0], solver.net.params[0].blob.detach()
    grad = solver.net.params[0].blob.grad
    blobs = solver.net.blobs
    wanted = {
        "[Forward] Layer data, top blob data": blobs["data"],
        "[Forward] Layer relu, top blob ip1": blobs["ip1"].detach(),
        "[Forward] Layer ip1, param blob w": weight,
        "[Forward] Layer loss, top blob loss": blobs["loss"].detach(),
        "[Backward] Layer ip1, param blob 0": grad,
        "[Backward] Layer loss, bottom blob ip2": (
            torch.softmax(blobs["ip2"].detach(), 1)
            - torch.nn.functional.one_hot(blobs["label"].long(), 3)
        )
        / 4,
    }
    for place, values in wanted.items():
        assert number_of(lines, place) == pytest.approx(float(values.abs().mean()), rel=PRINTED)
    data, diff = numbers_of(lines[17])
    assert data == pytest.approx(float(weight.abs().mean()), rel=PRINTED)
    assert diff == pytest.approx(float((weight - after).abs().mean()), rel=UPDATES)
    assert diff == pytest.approx(
        0.1 * float(grad.abs().mean()), rel=UPDATES
    )  # base_lr, no momentum
    grads = torch.cat([p.blob.grad.flatten() for p in solver.net.params if p.blob.grad is not None])
    data = torch.cat([b.flatten() for b in before])
    norms = [float(v.norm(p=order)) for order in (1, 2) for v in (data, grads)]
    assert numbers_of(lines[16]) == pytest.approx(norms, rel=PRINTED)


def test_gradient_of_a_shared_blob_is_reported_for_each_layer_that_takes_it() -> None:
    takers = "".join(
        f'layer {{ name: "{name}" type: "Power" bottom: "y" top: "{name}" loss_weight: {weight} '
        "power_param { scale: 2 } }"
        for name, weight in (("a", 1), ("b", 10))
    )
    net = make_net(
        inputs_text((2, 3))
        + 'layer { name: "first" type: "Bias" bottom: "x0" top: "y" bias_param { axis: 1 } }'
        + takers
    )
    lines: list[str] = []
    debug = DebugInfo(net, lines.append)
    objective = net()
    assert objective is not None
    objective.backward()
    debug.backward()
    assert number_of(lines, "[Backward] Layer a, bottom blob y diff") == 2
    assert number_of(lines, "[Backward] Layer b, bottom blob y diff") == 20
    assert number_of(lines, "[Backward] Layer first, param blob 0 diff") == 2 * (2 + 20)


def test_only_displayed_iterations_are_reported(folder: Path) -> None:
    solver = make_solver(SETTINGS + "debug_info: true display: 2")
    counts = []
    for _ in range(4):
        solver.step(1)
        counts.append(len(debug_lines(lines_of(solver))))
    assert counts[0] > 0
    assert counts == [counts[0], counts[0], 2 * counts[0], 2 * counts[0]]


def test_each_pass_of_iter_size_is_reported(folder: Path) -> None:
    solver = make_solver(SETTINGS + "debug_info: true display: 1 iter_size: 3")
    solver.step(1)
    kinds = [line.split("]")[0].split("[")[1] for line in debug_lines(lines_of(solver))]
    changes = [kind for kind, last in zip(kinds, [None, *kinds], strict=False) if kind != last]
    assert changes == ["Forward", "Backward"] * 3 + ["Update"]


def test_test_nets_are_reported_forward(folder: Path) -> None:
    solver = make_solver(SETTINGS + "debug_info: true test_iter: 2 test_interval: 1")
    solver.test_all()
    lines = debug_lines(lines_of(solver))
    assert [line for line in lines if "accuracy" in line][0].startswith("    [Forward] Layer accu")
    assert len([line for line in lines if "top blob loss" in line]) == 2
    assert not [line for line in lines if "[Forward]" not in line]


def test_net_with_debug_info_is_reported_when_it_is_scored(folder: Path, capfd: Any) -> None:
    weights, _ = make_solver().snapshot()
    scored = []
    for debug in ("", "debug_info: true"):
        Path("net.prototxt").write_text(STUDENT + debug)
        assert main(["-model", "net.prototxt", "-weights", str(weights), "-iterations", "2"]) == 0
        lines = [line.partition("] ")[2] for line in capfd.readouterr().err.splitlines()]
        scored.append(len([line for line in lines if "[Forward] Layer ip, top blob ip" in line]))
    assert scored == [0, 2]


def test_debug_info_changes_no_weight_and_off_costs_no_hook(folder: Path) -> None:
    settings = SETTINGS + "momentum: 0.9 display: 1"
    plain, debugged = make_solver(settings), make_solver(settings + " debug_info: true")
    for solver in (plain, debugged):
        solver.step(4)
    assert_same_weights(weights_of(plain), weights_of(debugged))
    assert not debug_lines(lines_of(plain))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in plain.net.modules())


def test_log_with_debug_info_is_parsed_like_one_without(folder: Path) -> None:
    logs = []
    for debug in ("", " debug_info: true"):
        log = MemoryLog()
        make_solver(SETTINGS + "display: 1 max_iter: 3" + debug, log=log).solve()
        Path("run.log").write_text("\n".join(log.whole_lines))
        logs.append(parse_log("run.log"))
    plain, debugged = logs
    assert [(r.iteration, r.loss, r.outputs) for r in plain.train] == [
        (r.iteration, r.loss, r.outputs) for r in debugged.train
    ]
    assert [(r.iteration, r.lr) for r in debugged.learning_rates] == [(i, 0.1) for i in range(3)]
