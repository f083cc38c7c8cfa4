"""Quantisation-aware training: where values are rounded, ranges as state, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.layers.shared import fake_quantize
from caffe_kd.layers.shared.quantized_layer import rounding_of
from caffe_kd.logs.log import Log
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver

DATA = """layer {{ name: "d" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.00390625 }}
  data_param {{ source: "images-idx3-ubyte" backend: IDX batch_size: {batch} }} }}
"""
BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" %s
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "drop1" type: "Dropout" bottom: "pool1" top: "pool1" }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" %s
  inner_product_param { num_output: 6 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 5 transpose: true weight_filler { type: "msra" } } }
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
ALL = ("conv1", "ip1", "ip2")


def write_data(folder: Path) -> None:
    draw = np.random.default_rng(0)
    write_idx(folder / "images-idx3-ubyte", draw.integers(0, 256, (25, 8, 8), np.uint8))
    write_idx(folder / "labels-idx1-ubyte", draw.integers(0, 5, 25).astype(np.uint8))


def data() -> str:
    return DATA.format(phase="TRAIN", batch=6) + DATA.format(phase="TEST", batch=5)


def net_text(conv: str = "", ip: str = "", body: str = BODY) -> str:
    return data() + (body % (conv, ip) if "%s" in body else body) + LOSS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path)
    (tmp_path / "net.prototxt").write_text(net_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(more: str, net: str = 'net: "net.prototxt"') -> Solver:
    Path("solver.prototxt").write_text(
        f"{net} test_iter: 5 test_interval: 12 base_lr: 0.05 momentum: 0.9 "
        f'lr_policy: "fixed" max_iter: 12 snapshot_prefix: "run" random_seed: 3 {more}'
    )
    return Solver(read_plan("solver.prototxt"), Log(stream=io.StringIO(), progress=False))


def solve(more: str, **options: str) -> Solver:
    solver = make(more, **options)
    solver.solve()
    return solver


def written(path: str = "run_iter_12.caffemodel") -> dict[str, pb.QuantizationParameter]:
    net = pb.NetParameter.FromString(Path(path).read_bytes())
    return {x.name: x.quantization_param for x in net.layer if x.HasField("quantization_param")}


def test_values_are_rounded_behind_the_relu_and_weights_to_each_channel():
    solver = solve("quantization { bw_params: 4 bw_layer_in: 3 }")
    net = solver.net
    net()
    read = net.blobs["pool1"] / float(rounding_of(net.node_of("ip1").layer).value.step)
    # The pooling and the Dropout after it pass on what was rounded before them; its factor is 2.
    assert torch.allclose(read / 2, (read / 2).round(), atol=1e-4)
    assert int((read / 2).max()) <= 7
    assert len(net.blobs["conv1"].unique()) > 8  # levels: the ReLU's own top stays as it is
    for name in ALL:
        steps = rounding_of(net.node_of(name).layer).steps
        assert len(steps) == {"conv1": 4, "ip1": 6, "ip2": 5}[name]


@pytest.mark.parametrize("bits", ["bw_params: 32 bw_layer_in: 32", "start_iter: 100"])
def test_without_rounding_every_bit_is_as_without_the_message(bits):
    solve("")
    plain = Path("run_iter_12.caffemodel").read_bytes()
    solve(f"quantization {{ {bits} }}")
    assert Path("run_iter_12.caffemodel").read_bytes() == plain


def test_training_with_rounded_values_is_another():
    plain = solve("").net.weights()
    rounded = solve("quantization { }").net.weights()
    assert not np.array_equal(plain["conv1"][0], rounded["conv1"][0])


@pytest.mark.parametrize(
    "settings",
    [
        "bw_params: 3 bw_layer_in: 4",
        "bw_params: 8 freeze_range_iter: 9",
        "bw_params: 2 bw_layer_in: 4 range: LEARNED freeze_range_iter: 10",
        "range: LEARNED start_iter: 3",
        "start_iter: 8",
    ],
)
def test_resumed_run_gives_the_same_bits(settings):
    more = f"iter_size: 2 snapshot: 6 quantization {{ {settings} }}"
    whole = solve(more)
    before = Path("run_iter_12.caffemodel").read_bytes()
    resumed = make(more)
    resumed.solve("run_iter_6.solverstate")
    assert Path("run_iter_12.caffemodel").read_bytes() == before
    for mine, theirs in zip(whole.callbacks, resumed.callbacks, strict=True):
        for name, array in mine.state().items():
            assert np.array_equal(array, theirs.state()[name]), name


def test_snapshot_carries_the_ranges_and_a_test_by_it_is_the_solver_s():
    solver = solve("quantization { bw_params: 4 bw_layer_in: 5 }")
    ranges = written()
    assert set(ranges) == set(ALL)
    assert (ranges["conv1"].bw_params, ranges["conv1"].bw_layer_in) == (4, 5)
    assert len(ranges["conv1"].step_params) == 4
    assert ranges["conv1"].step_in == pytest.approx(1 / 31, rel=0.05)
    solver.test(0)
    in_solver = solver.test_nets[0].blobs["ip2"]
    net = load_net("net.prototxt")
    assert net.load_weights("run_iter_12.caffemodel").rounded == list(ALL)
    for _ in range(5):
        net()
    assert torch.equal(net.blobs["ip2"], in_solver)


def test_best_snapshot_has_the_ranges_of_its_weights():
    solve('snapshot_best: "loss" quantization { }')
    net = load_net("net.prototxt")
    assert net.load_weights("run_best.caffemodel").rounded == list(ALL)
    weight = net.node_of("conv1").layer.blobs[0]
    steps = torch.tensor(list(written("run_best.caffemodel")["conv1"].step_params))
    assert torch.equal(steps, fake_quantize.weight_steps(weight, 8))


def test_mean_of_the_student_is_float_and_follows_its_float_weights(folder):
    (folder / "distiller.prototxt").write_text(
        'layer { name: "kd" type: "DistillingLoss" bottom: "ip2" bottom: "mean/ip2" top: "kd" '
        "include { phase: TRAIN } }"
    )
    solver = solve(
        'teacher { name: "mean" ema: 0.5 } distiller_net: "distiller.prototxt" quantization { }'
    )
    assert rounding_of(solver.net.node_of("mean/conv1").layer) is None
    assert set(written()) == set(ALL)


def test_frozen_ranges_stay():
    more = "snapshot: 6 quantization { freeze_range_iter: 6 bw_params: 4 }"
    solve(more)
    assert written("run_iter_6.caffemodel") == written("run_iter_12.caffemodel")
    solve(more.replace("freeze_range_iter: 6", ""))
    assert written("run_iter_6.caffemodel") != written("run_iter_12.caffemodel")


def test_learned_steps_move_with_the_weights():
    solve("snapshot: 6 quantization { range: LEARNED bw_params: 2 bw_layer_in: 2 }")
    early, late = written("run_iter_6.caffemodel"), written("run_iter_12.caffemodel")
    for name in ALL:
        assert early[name].step_in != late[name].step_in
        assert early[name].step_params != late[name].step_params
        assert late[name].zero_in == early[name].zero_in


def test_layer_s_own_bits_go_before_the_solver_s():
    text = net_text("quantization_param { bw_params: 4 }", "quantization_param { bw_params: 32 }")
    Path("net.prototxt").write_text(text)
    solve('quantization { exclude: "ip2" }')
    ranges = written()
    assert ranges["conv1"].bw_params == 4
    assert (ranges["ip1"].bw_params, ranges["ip1"].bw_layer_in) == (32, 8)
    assert not ranges["ip1"].step_params
    assert "ip2" not in ranges


def test_layers_of_a_fork_that_round_themselves_are_left_alone(folder):
    conv = net_text("quantization_param { bw_params: 8 fl_params: 7 }")
    ristretto = conv.replace('"Convolution"', '"ConvolutionRistretto"')
    (folder / "net.prototxt").write_text(ristretto)
    solve("quantization { }")
    assert set(written()) == {"conv1", "ip1", "ip2"}
    assert not written()["conv1"].HasField("step_in")


def test_layers_are_chosen_by_name():
    solve('quantization { layer: "ip1" }')
    assert set(written()) == {"ip1"}


def test_calibration_leaves_data_and_random_numbers_as_they_were():
    def ends_at(more: str) -> tuple[list[list[int]], list[int]]:
        state = solve(more).net.node_of("d").layer.state()
        return [array.tolist() for array in state.values()], torch.get_rng_state().tolist()

    plain = ends_at("")
    assert ends_at("quantization { calibration_iter: 1 }") == plain
    assert ends_at("quantization { calibration_iter: 30 start_iter: 4 }") == plain


def test_teacher_and_distiller_stay_float(folder):
    (folder / "teacher.prototxt").write_text(net_text())
    solve("")
    (folder / "run_iter_12.caffemodel").rename(folder / "teacher.caffemodel")
    (folder / "distiller.prototxt").write_text(
        """layer { name: "regressor" type: "InnerProduct" bottom: "ip1" top: "regressor"
          inner_product_param { num_output: 6 weight_filler { type: "msra" } } }
        layer { name: "hint" type: "HintLoss" bottom: "regressor" bottom: "teacher/ip1"
          top: "hint" }
        """
    )
    solver = solve(
        'teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" } '
        'distiller_net: "distiller.prototxt" quantization { }'
    )
    rounded = {n.layer.name for n in solver.net.nodes if rounding_of(n.layer) is not None}
    assert rounded == set(ALL)
    assert set(written()) == set(ALL)
    # Student and teacher read the same blob, and the student alone reads it rounded.
    solver.net()
    alone = load_net("teacher.prototxt")
    assert not alone.load_weights("teacher.caffemodel").rounded
    alone.running = [node for node in alone.nodes if node.layer.name != "d"]
    alone.blobs.update((name, solver.net.blobs[name]) for name in ("data", "label"))
    alone()
    assert torch.allclose(alone.blobs["ip1"], solver.net.blobs["teacher/ip1"], atol=1e-6)


def test_students_that_learn_together_each_have_their_ranges(folder):
    (folder / "other.prototxt").write_text(net_text().replace("num_output: 4", "num_output: 3"))
    students = (
        'student { name: "a" net: "net.prototxt" } student { name: "b" net: "other.prototxt" }'
    )
    solve("quantization { }", net=students)
    assert set(written()) == {f"{s}/{name}" for s in "ab" for name in ALL}
    assert len(written("run_b_iter_12.caffemodel")["conv1"].step_params) == 3


def test_branches_of_one_value_read_one_range_and_shared_weights_one_step(folder):
    side = """layer { name: "side" type: "InnerProduct" bottom: "pool1" top: "side"
      param { name: "w" } inner_product_param { num_output: 6 bias_term: false } }
    layer { name: "sum" type: "Eltwise" bottom: "ip1" bottom: "side" top: "sum" }
    """
    first, last = BODY.split('layer { name: "relu2"')
    first = first.replace('top: "ip1" %s', 'top: "ip1" param { name: "w" } %s')
    body = first + side + 'layer { name: "relu2"' + last.replace('"ip1"', '"sum"')
    (folder / "net.prototxt").write_text(net_text(body=body))
    solve("quantization { bw_params: 4 }")
    ranges = written()
    assert ranges["side"] == ranges["ip1"]


def test_grouped_and_depthwise_convolutions_and_deconvolutions_train(folder):
    body = BODY.replace(
        'layer { name: "pool1"',
        """layer { name: "dw" type: "DepthwiseConvolution" bottom: "conv1" top: "dw"
          convolution_param { kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
        layer { name: "up" type: "Deconvolution" bottom: "dw" top: "up"
          convolution_param { num_output: 4 group: 2 kernel_size: 2 stride: 2
            weight_filler { type: "msra" } } }
        layer { name: "pool1\"""",
    ).replace(
        'name: "pool1" type: "Pooling" bottom: "conv1"',
        'name: "pool1" type: "Pooling" bottom: "up"',
    )
    (folder / "net.prototxt").write_text(net_text(body=body))
    solve("quantization { }")
    assert len(written()["dw"].step_params) == 4
    assert len(written()["up"].step_params) == 2  # the channels of a group
    net = load_net("net.prototxt")
    net.load_weights("run_iter_12.caffemodel")
    net()


NORM = """layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "relu1\""""
TWO = 'bottom: "data" bottom: "data" top: "conv1" top: "more"'


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        (
            "bw_params: 1",
            None,
            "bw_params must be 2 to 8, or 32 for float32. Received: bw_params: 1",
        ),
        ("bw_layer_in: 16", None, "bw_layer_in must be 2 to 8"),
        ("calibration_iter: 0", None, "calibration_iter must be at least 1"),
        (
            "start_iter: 9 freeze_range_iter: 9",
            None,
            "freeze_range_iter must be above start_iter, 9",
        ),
        ("momentum: 1", None, "momentum must be 0 to below 1"),
        ('layer: "ip3"', None, "no layer 'ip3' that multiplies.*Did you mean 'ip"),
        ('exclude: "relu1"', None, "no layer 'relu1' that multiplies by weights"),
        ('exclude: "conv1" exclude: "ip1" exclude: "ip2"', None, "no layer is left"),
        ("", ('layer { name: "relu1"', NORM), "'bn' .BatchNorm.*'conv1'.*caffe_kd merge_layers"),
        ("", ('bottom: "data" top: "conv1"', TWO), "has 2 bottoms"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(folder, settings, change, message):
    if change:
        (folder / "net.prototxt").write_text(net_text().replace(*change))
    with pytest.raises(CaffeKDError, match=message) as error:
        make(f"quantization {{ {settings} }}")
    assert str(error.value).startswith("solver.prototxt:1: ")


def test_branches_of_one_pooling_in_two_widths_are_refused(folder):
    side = """layer { name: "side" type: "InnerProduct" bottom: "pool1" top: "side"
      quantization_param { bw_layer_in: 4 } inner_product_param { num_output: 2 } }
    layer { name: "silence" type: "Silence" bottom: "side" }"""
    (folder / "net.prototxt").write_text(net_text() + side)
    with pytest.raises(CaffeKDError, match="'side' reads the same value.*bw_layer_in 4 and 8"):
        make("quantization { }")


def test_hdf5_snapshots_are_refused():
    with pytest.raises(CaffeKDError, match="leave snapshot_format: HDF5 out"):
        make("snapshot_format: HDF5 quantization { }")
