"""What "LSTM" and "RNN" have in common; the numbers of each are in its own file."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.export.check import check
from caffe_kd.export.deploy import deploy
from caffe_kd.export.onnx import to_onnx
from caffe_kd.logs.log import Log
from caffe_kd.net import Net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.helpers import make_layer, make_net, run
from tests.layers.recurrent_nets import (
    HIDDEN,
    INPUTS,
    OUTPUTS,
    STATIC,
    N,
    T,
    random_bottoms,
    recurrent_net,
    reference,
    shapes,
)

TOLERANCE = 1e-5  # float32 against float64 over some timesteps
both = pytest.mark.parametrize("type_name", ["LSTM", "RNN"])


def layer_of(net):
    return net.nodes[-1].layer


def as_numpy(values):
    return [v.detach().numpy().astype(np.float64) for v in values]


@both
@pytest.mark.parametrize("static", [False, True])
def test_output_equals_a_plain_loop(type_name, static):
    layer = layer_of(recurrent_net(type_name, static))
    values = random_bottoms(type_name, static)
    (top,) = run(layer, *values)
    want, _ = reference(type_name, layer.blobs, *as_numpy(values))
    assert np.abs(top.detach().numpy() - want).max() < TOLERANCE


@both
def test_state_goes_on_to_the_next_pass(type_name):
    layer = layer_of(recurrent_net(type_name))
    state = None
    for seed in range(3):
        values = random_bottoms(type_name, seed=seed)
        want, state = reference(type_name, layer.blobs, *as_numpy(values), state=state)
        assert np.abs(layer(*values).detach().numpy() - want).max() < TOLERANCE


@both
def test_two_short_passes_equal_a_long_one(type_name):
    x, cont = random_bottoms(type_name, t=6)
    whole = layer_of(recurrent_net(type_name))(x, cont)
    layer = layer_of(recurrent_net(type_name))
    parts = torch.cat([layer(x[:2], cont[:2]), layer(x[2:], cont[2:])])
    torch.testing.assert_close(parts, whole)


@both
def test_state_begins_anew_with_another_number_of_streams(type_name):
    layer = layer_of(recurrent_net(type_name))
    layer(*random_bottoms(type_name))
    values = random_bottoms(type_name, n=2)
    (top,) = run(layer, *values)
    fresh = layer_of(recurrent_net(type_name))
    torch.testing.assert_close(top, fresh(*values))


@both
def test_reset_forgets_the_state(type_name):
    layer = layer_of(recurrent_net(type_name))
    values = random_bottoms(type_name)
    first = layer(*values)
    assert not torch.equal(layer(*values), first)
    layer.reset()
    assert torch.equal(layer(*values), first)


@both
def test_exposed_state_comes_in_and_goes_out(type_name):
    net = recurrent_net(type_name, static=True, expose=True)
    values = random_bottoms(type_name, static=True, expose=True)
    x, cont, static, *state = as_numpy(values)
    for _ in range(2):  # nothing goes on by itself
        tops = run(layer_of(net), *values)
        want, last = reference(
            type_name, layer_of(net).blobs, x, cont, static, [part[0] for part in state]
        )
        for top, wanted in zip(tops, [want, *(part[None] for part in last)], strict=True):
            assert np.abs(top.detach().numpy() - wanted).max() < TOLERANCE
    assert layer_of(net).state() == {}


@both
@pytest.mark.parametrize("static", [False, True])
def test_gradient_of_inputs_and_weights(type_name, static):
    layer = layer_of(recurrent_net(type_name, static)).double()
    x, cont, *others = (v.double() for v in random_bottoms(type_name, static, begin=True))
    leaves = [v.requires_grad_() for v in (x, *others)]

    def forward(x, *rest):  # the blobs are perturbed in place
        return layer(x, cont, *rest[: len(others)])

    assert torch.autograd.gradcheck(forward, (*leaves, *layer.parameters_in_order))


@both
def test_gradient_ends_at_the_border_of_the_batch(type_name):
    x, cont = random_bottoms(type_name, t=6)
    cont[:] = 1
    layer = layer_of(recurrent_net(type_name))
    first = x[:3].clone().requires_grad_()
    layer(first, cont[:3])
    layer(x[3:], cont[3:]).sum().backward()
    assert first.grad is None
    assert layer.blobs[0].grad is not None


@both
def test_no_gradient_passes_cont_or_exposed_state(type_name):
    net = recurrent_net(type_name, expose=True)
    bottoms = [v.requires_grad_() for v in random_bottoms(type_name, expose=True)]
    net.forward({f"x{i}": v for i, v in enumerate(bottoms)})
    hidden = [net.blobs[f"y{i + 1}"] for i in range(HIDDEN[type_name])]
    assert not any(h.requires_grad for h in hidden)
    net.blobs["y0"].sum().backward()
    assert [v.grad is not None for v in bottoms] == [True] + [False] * (len(bottoms) - 1)


@both
@pytest.mark.parametrize("sizes", [(T, N, 2, 2), (T, N, INPUTS, 1)])
def test_inputs_of_more_axes_are_flattened(type_name, sizes):
    blobs = recurrent_net(type_name).nodes[-1].layer.blobs
    net = make_layer(
        f'type: "{type_name}" recurrent_param {{ num_output: {OUTPUTS} }}', sizes, (T, N)
    )
    with torch.no_grad():
        for mine, theirs in zip(net.blobs, blobs, strict=True):
            mine.copy_(theirs)
    x, cont = random_bottoms(type_name)
    x4 = x.reshape(sizes).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x4, cont), recurrent_net(type_name).nodes[-1].layer(x, cont))


# ---- errors


@both
@pytest.mark.parametrize(
    ("bottoms", "words"),
    [
        ([(T, N), (T, N)], r"bottom\[0\] must have at least 3 axes -- \(#timesteps, #streams"),
        ([(T, N, 4), (T, N, 1)], r"bottom\[1\] must have exactly 2 axes"),
        ([(T, N, 4), (N, T)], r"bottom\[1\] must have exactly 2 axes.*cont=\(3, 5\)"),
        ([(T, N, 4), (T, N), (T, 6)], r"bottom\[2\], the static input, must be \(#streams"),
    ],
)
def test_bottoms_that_do_not_fit_are_reported(type_name, bottoms, words):
    with pytest.raises(NetError, match=words):
        make_layer(f'type: "{type_name}" recurrent_param {{ num_output: 2 }}', *bottoms)


@both
def test_exposed_state_of_another_shape_is_reported(type_name):
    bottoms = shapes(type_name, expose=True)
    bottoms[-1] = (1, N, OUTPUTS + 1)
    with pytest.raises(NetError, match=r"shape must match hidden state input shape, \(1, 3, 2\)"):
        make_layer(
            f'type: "{type_name}" recurrent_param {{ num_output: 2 expose_hidden: true }}',
            *bottoms,
            tops=1 + HIDDEN[type_name],
        )


@both
def test_num_output_must_be_given(type_name):
    with pytest.raises(NetError, match="num_output must be positive"):
        make_layer(f'type: "{type_name}"', (T, N, 4), (T, N))


@both
def test_propagating_to_cont_is_refused(type_name):
    with pytest.raises(NetError, match="Cannot backpropagate to sequence indicators"):
        recurrent_net(type_name, options="propagate_down: true propagate_down: true")


@both
def test_number_of_blobs_follows_expose_hidden(type_name):
    hidden = HIDDEN[type_name]
    with pytest.raises(NetError, match=rf"takes {2 + hidden} to {3 + hidden} bottom blob\(s\)"):
        make_layer(
            f'type: "{type_name}" recurrent_param {{ num_output: 2 expose_hidden: true }}',
            (T, N, 4),
            (T, N),
        )


@both
def test_inputs_of_another_size_later_are_refused(type_name):
    with pytest.raises(NetError, match="sizes may not change"):
        layer_of(recurrent_net(type_name)).top_shapes([(T, N, INPUTS + 1), (T, N)])


# ---- state of an interrupted run


@both
def test_restored_layer_goes_on(type_name):
    one, other = (layer_of(recurrent_net(type_name)) for _ in range(2))
    one(*random_bottoms(type_name))
    other.restore(one.state())
    values = random_bottoms(type_name, seed=1)
    assert torch.equal(other(*values), one(*values))


@both
def test_fresh_layers_state_is_restored_as_fresh(type_name):
    fresh, used = (layer_of(recurrent_net(type_name)) for _ in range(2))
    state = fresh.state()
    values = random_bottoms(type_name)
    used(*values)
    used.restore(state)
    assert torch.equal(used(*values), fresh(*values))


@both
@pytest.mark.parametrize("shape", [(N, OUTPUTS + 1), (N,), (1, N, OUTPUTS)])
def test_state_of_another_net_is_refused(type_name, shape):
    layer = layer_of(recurrent_net(type_name))
    with pytest.raises(ValueError, match="layer 'L' has 2 outputs"):
        layer.restore({name: np.zeros(shape, np.float32) for name in ("h", "c")})


SOLVED = """
layer { name: "d" type: "HDF5Data" top: "x" top: "cont" top: "target"
  hdf5_data_param { source: "rows.txt" batch_size: 4 } }
layer { name: "L" type: "TYPE" bottom: "x" bottom: "cont" top: "y"
  recurrent_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "target" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sequences that never end, in passes of 4 timesteps."""
    draw = np.random.default_rng(0)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = draw.normal(size=(24, 3, 4)).astype(np.float32)
        file["cont"] = np.ones((24, 3), np.float32)
        file["target"] = draw.normal(size=(24, 3, 2)).astype(np.float32)
    (tmp_path / "rows.txt").write_text("rows.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def solver(type_name):
    Path("net.prototxt").write_text(SOLVED.replace("TYPE", type_name))
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" test_iter: 2 test_interval: 3 base_lr: 0.1 lr_policy: "fixed" '
        'max_iter: 9 snapshot: 5 snapshot_prefix: "run" random_seed: 1 momentum: 0.9'
    )
    return Solver(read_plan("solver.prototxt"), Log(stream=io.StringIO()))


@both
def test_resumed_training_gives_the_same_bits(folder, type_name):
    solver(type_name).solve()
    whole = Path("run_iter_9.caffemodel").read_bytes()
    resumed = solver(type_name)
    resumed.solve("run_iter_5.solverstate")
    assert Path("run_iter_9.caffemodel").read_bytes() == whole
    layer = resumed.net.node_of("L").layer
    layer.reset()  # what would be without the state
    other = solver(type_name)
    other.restore("run_iter_5.solverstate")
    other.net.node_of("L").layer.reset()
    other.step(4)
    other.snapshot()
    assert Path("run_iter_9.caffemodel").read_bytes() != whole


@both
def test_train_and_test_net_have_a_state_each(folder, type_name):
    run = solver(type_name)
    train, test = (net.node_of("L").layer for net in (run.net, run.test_nets[0]))
    run.step(2)
    before = train.state()
    run.test_all()
    assert all(np.array_equal(train.state()[k], v) for k, v in before.items())
    assert not np.array_equal(test.state()["h"], before["h"])


# ---- ONNX


@both
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("expose", [False, True])
def test_onnx_equals_forward(tmp_path, type_name, static, expose):
    net = recurrent_net(type_name, static, expose, phase=pb.TEST)
    model = to_onnx(net, tmp_path / "net.onnx")
    assert check(net, model).samples > 0
    assert model.graph.node[-1].name.startswith("L")


@both
def test_exported_net_begins_from_zero_at_any_length(tmp_path, type_name):
    import onnxruntime as ort

    net = recurrent_net(type_name, phase=pb.TEST)
    path = tmp_path / "net.onnx"
    to_onnx(net, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for time in (1, 7):
        x, cont = random_bottoms(type_name, t=time)
        want, _ = reference(type_name, layer_of(net).blobs, *as_numpy((x, cont)))
        for _ in range(2):
            (got,) = session.run(None, {"x0": x.numpy(), "x1": cont.numpy()})
            assert np.abs(got - want).max() < TOLERANCE


@both
@pytest.mark.parametrize("opset", [18, 21])
def test_other_opset_answers_the_same(tmp_path, type_name, opset):
    net = recurrent_net(type_name, phase=pb.TEST)
    assert check(net, to_onnx(net, tmp_path / "net.onnx", opset=opset)).samples > 0


@both
def test_check_of_an_export_leaves_the_state_alone(tmp_path, type_name):
    net = recurrent_net(type_name, phase=pb.TEST)
    layer = layer_of(net)
    layer(*random_bottoms(type_name))
    before = layer.state()
    check(net, to_onnx(net, tmp_path / "net.onnx"))
    assert all(np.array_equal(layer.state()[k], v) for k, v in before.items())


@both
def test_two_recurrent_layers_export_under_their_own_names(tmp_path, type_name):
    param = "recurrent_param { num_output: 2 weight_filler { type: 'xavier' } }"
    net = make_net(
        'layer { name: "in" type: "Input" top: "x" top: "cont" input_param { '
        "shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } } }"
        f'layer {{ name: "a" type: "{type_name}" bottom: "x" bottom: "cont" top: "h" {param} }}'
        f'layer {{ name: "b" type: "{type_name}" bottom: "h" bottom: "cont" top: "y" {param} }}'
    )
    model = to_onnx(net, tmp_path / "net.onnx")
    assert check(net, model).samples > 0
    assert [n.name for n in model.graph.node if n.op_type == "Scan"] == ["a/Scan", "b/Scan"]


def test_deployed_net_keeps_the_layer_and_cont(folder):
    param = text.parse(SOLVED.replace("TYPE", "LSTM"), pb.NetParameter(), "net.prototxt")
    net = Net(deploy(param, folder / "net.prototxt"), pb.TEST)
    assert [node.layer.type for node in net.nodes] == ["Input", "Input", "LSTM"]


def test_static_extents_of_the_shared_nets_differ():
    assert len({T, N, INPUTS, OUTPUTS, STATIC}) == 5  # or a transposed weight would go unseen
