from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_kd as caffe
from caffe_kd.core.errors import NetError
from caffe_kd.net import load_net
from tests.pycaffe.nets import BRANCHES, CLOSE, fill, write


def one_graph(path: Path, net):
    """Return the values and gradients that one autograd graph gives for the net's weights."""
    core = load_net(path / "net.prototxt", caffe.TRAIN)
    weights = {n: [b.data.copy() for b in blobs] for n, blobs in net.params.items()}
    for node in core.nodes:
        for blob, value in zip(node.layer.blobs, weights.get(node.layer.name, []), strict=True):
            blob.detach().copy_(torch.from_numpy(value))
    inputs = {n: torch.tensor(net.blobs[n].data, requires_grad=True) for n in net.inputs}
    objective = core.forward(inputs)
    objective.backward()
    return core, inputs, objective.item()


@pytest.mark.parametrize("looked_at", ["nothing", "data", "everything"])
def test_passes_agree_with_one_graph_whatever_was_looked_at(
    branches, tmp_path: Path, looked_at: str
) -> None:
    held = []
    for blob in branches.blobs.values() if looked_at != "nothing" else ():
        held.append(blob.data)
        if looked_at == "everything":
            held.append(blob.diff)
    for blobs in branches.params.values() if looked_at == "everything" else ():
        held += [array for blob in blobs for array in (blob.data, blob.diff)]
    core, inputs, objective = one_graph(tmp_path, branches)
    for times in (1, 2):  # the second pass copies into arrays that were handed out
        loss = branches._forward(0, len(branches.layers) - 1)
        assert loss == pytest.approx(objective, rel=1e-5)
        branches.backward()
        for name, value in core.blobs.items():
            np.testing.assert_allclose(branches.blobs[name].data, value.detach(), **CLOSE)
        for param in core.params:
            got = branches.params[param.layer.name][param.index].diff
            np.testing.assert_allclose(got, times * param.blob.grad, **CLOSE)
    # Nothing asks for the gradient of the data.
    assert not branches.blobs["x"].diff.any()


def test_force_backward_gives_data_and_frozen_parameters_a_gradient(tmp_path: Path) -> None:
    frozen = BRANCHES.replace("convolution_param", "param { lr_mult: 0 } convolution_param", 1)
    caffe.set_random_seed(1)
    net = caffe.Net(write(tmp_path, f"force_backward: true {frozen}"), caffe.TRAIN)
    fill(net)
    core, inputs, _ = one_graph(tmp_path, net)
    net.forward()
    diffs = net.backward()
    np.testing.assert_allclose(diffs["x"], inputs["x"].grad, **CLOSE)
    np.testing.assert_allclose(diffs["t"], inputs["t"].grad, **CLOSE)
    assert np.abs(net.params["conv1"][0].diff).max() > 0
    without = caffe.Net(write(tmp_path, frozen), caffe.TRAIN)
    fill(without)
    without.forward()
    without.backward()
    assert not without.params["conv1"][0].diff.any()
    assert without.params["conv1"][1].diff.any()


def test_blob_that_needs_no_gradient_keeps_its_diff(branches) -> None:
    for name in ("x", "t", "conv1"):
        branches.blobs[name].diff[...] = 7
    branches.forward()
    branches.backward()
    assert (branches.blobs["x"].diff == 7).all()
    assert (branches.blobs["t"].diff == 7).all()
    assert not (branches.blobs["conv1"].diff == 7).any()


def test_diff_of_a_blob_is_overwritten_and_of_a_parameter_added_up(branches) -> None:
    branches.forward()
    branches.backward()
    blob, param = branches.blobs["conv1"].diff.copy(), branches.params["ip"][0].diff.copy()
    branches.backward()
    np.testing.assert_array_equal(branches.blobs["conv1"].diff, blob)
    np.testing.assert_allclose(branches.params["ip"][0].diff, 2 * param, rtol=1e-6)


def test_backward_goes_on_from_diffs_edited_on_the_way(branches) -> None:
    branches.forward()
    branches.backward()
    branches.clear_param_diffs()
    before = branches.blobs["conv1"].diff.copy()
    branches.blobs["pool"].diff[...] *= 3  # Flatten shares it
    np.testing.assert_array_equal(
        branches.blobs["flat"].diff.reshape(-1), branches.blobs["pool"].diff.reshape(-1)
    )
    branches.backward(start="pool")
    np.testing.assert_allclose(branches.blobs["conv1"].diff, 3 * before, **CLOSE)
    assert not branches.params["ip"][0].diff.any()  # its layer was not visited


def test_seed_diff_of_a_loss_scales_all_gradients(branches) -> None:
    assert branches.blobs["loss"].diff == 0.5
    branches.forward()
    branches.backward()
    once = branches.params["conv1"][0].diff.copy()
    branches.clear_param_diffs()
    branches.blobs["loss"].diff[...] *= 4
    for name in branches.blobs:
        if name.startswith("more"):
            branches.blobs[name].diff[...] *= 4
    branches.backward()
    np.testing.assert_allclose(branches.params["conv1"][0].diff, 4 * once, **CLOSE)
    # The loss that a pass returns counts with it too, as in Caffe.
    data = float(branches.blobs["loss"].data), float(branches.blobs["more"].data)
    loss = branches._forward(len(branches.layers) - 2, len(branches.layers) - 1)
    assert loss == pytest.approx(4 * (0.5 * data[0] + 0.25 * data[1]), rel=1e-5)


def test_edit_between_forward_and_backward_counts(branches) -> None:
    held = branches.blobs["flat"].data
    branches.forward()
    held[...] = 1
    branches.backward(start="more", end="ip")
    top = branches.blobs["ip"].diff
    want = np.repeat(top.sum(0)[:, None], held.shape[1], axis=1)
    np.testing.assert_allclose(branches.params["ip"][0].diff, want, **CLOSE)


def test_edit_of_a_blob_reaches_its_copies_and_other_shapes(branches) -> None:
    branches.forward()
    copies = [n for n in branches.blobs if n.startswith("conv1_sig_0_split_")]
    assert len(copies) == 3
    branches.blobs["conv1"].data[...] = 2
    for name in copies:
        assert (branches.blobs[name].data == 2).all()
    branches.forward(start="slice")
    assert (branches.blobs["a"].data == 2).all()
    branches.blobs["a"].data[...] = 5  # a copy of its own, which Slice made
    assert (branches.blobs["conv1"].data == 2).all()
    branches.blobs["flat"].data[0, 0] = -9
    assert branches.blobs["pool"].data[0, 0, 0, 0] == -9


def test_weights_edited_through_an_old_array_count_in_the_next_pass(branches) -> None:
    weight = branches.params["conv1"][0].data
    branches.forward()
    before = branches.blobs["conv2"].data.copy()
    weight[...] = 0
    branches.params["conv1"][1].data[...] = 0
    branches.forward()
    assert not np.allclose(branches.blobs["conv2"].data, before)
    assert (branches.blobs["conv1"].data == 0.5).all()  # the sigmoid of 0


def test_net_reshapes_behind_its_input(branches) -> None:
    for name in ("x", "t"):
        branches.blobs[name].reshape(2, *branches.blobs[name].shape[1:])
    branches.reshape()
    assert branches.blobs["conv1"].data.shape == (2, 6, 6, 6)
    assert branches.blobs["flat"].diff.shape == (2, 54)
    assert branches.blobs["sum"].shape == (2, 6, 6, 6)
    fill(branches)
    two = {n: a.copy() for n, a in branches.forward().items()}
    branches.backward()
    assert branches.blobs["conv1"].diff.shape == (2, 6, 6, 6)
    for name in ("x", "t"):
        value = branches.blobs[name].data.copy()
        branches.blobs[name].reshape(4, *value.shape[1:])
        branches.blobs[name].data[...] = np.concatenate([value, value])
    four = branches.forward()  # without reshape(): shapes follow all the same
    assert branches.blobs["pool"].shape == (4, 6, 3, 3)
    np.testing.assert_allclose(four["loss"], two["loss"], rtol=1e-5)
    np.testing.assert_allclose(four["more"], 2 * two["more"], rtol=1e-5)


def test_input_of_a_size_that_does_not_fit_is_refused_on_reshape(branches) -> None:
    branches.blobs["x"].reshape(4, 5, 6, 6)
    with pytest.raises(NetError, match="conv1"):
        branches.reshape()


def test_hooks_are_called_with_the_number_of_each_layer(branches) -> None:
    calls: list[tuple[str, int]] = []
    for kind in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(branches, kind)(lambda index, kind=kind: calls.append((kind, index)))
    branches.forward(start="ip")
    last = len(branches.layers) - 1
    first = branches._layer_names.index("ip")
    assert calls[:2] == [("before_forward", first), ("after_forward", first)]
    assert len(calls) == 2 * (last - first + 1)
    calls.clear()
    branches.backward(end="ip")
    assert calls[:2] == [("before_backward", last), ("after_backward", last)]
    assert calls[-1] == ("after_backward", first)


def test_hook_sees_and_changes_blobs_on_the_way(branches) -> None:
    index = branches._layer_names.index("ip")

    def silence(layer: int) -> None:
        if layer == index:
            branches.blobs["flat"].data[...] = 0

    branches.before_forward(silence)
    branches.forward()
    np.testing.assert_array_equal(branches.blobs["ip"].data, 0)


def test_hooks_of_backward_come_before_and_after_a_layers_own(branches) -> None:
    index = branches._layer_names.index("ip")
    seen = []

    def before(layer: int) -> None:
        if layer == index:
            branches.blobs["ip"].diff[...] = 0
            branches.blobs["flat"].diff[...] = 7

    def after(layer: int) -> None:
        if layer == index:
            seen.append(branches.blobs["flat"].diff.copy())

    branches.before_backward(before)
    branches.after_backward(after)
    branches.clear_param_diffs()
    branches.forward()
    branches.backward()
    assert not branches.params["ip"][0].diff.any()
    np.testing.assert_array_equal(seen, np.zeros((1, *branches.blobs["flat"].shape)))


def test_constant_data_stays_as_edited_and_random_data_is_drawn_again(small) -> None:
    small.blobs["label"].data[...] = 3
    small.forward()
    first = small.blobs["data"].data.copy()
    small.forward()
    assert (small.blobs["label"].data == 3).all()
    assert not np.array_equal(small.blobs["data"].data, first)


def test_layer_in_place_upon_an_input_keeps_what_backward_needs(tmp_path: Path) -> None:
    net = caffe.Net(
        write(
            tmp_path,
            "force_backward: true "
            'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }'
            'layer { name: "square" type: "Power" bottom: "x" top: "x" power_param { power: 2 } }'
            'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 1 }',
        ),
        caffe.TRAIN,
    )
    net.blobs["x"].data[...] = [1, 2, 3]
    assert net.forward()["l"] == 14
    np.testing.assert_array_equal(net.blobs["x"].data, [1, 4, 9])
    np.testing.assert_array_equal(net.backward()["x"], [2, 4, 6])
