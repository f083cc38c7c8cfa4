from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from caffe_kd.core.errors import CaffeKDError, NetError, ParseError, UsageError, WeightsError
from tests.pycaffe.nets import BRANCHES, CLOSE, SMALL, fill, write

# ---- as in Caffe's own tests


def test_arrays_live_longer_than_their_net(small) -> None:
    params = [blob for blobs in small.params.values() for blob in blobs]
    blobs = list(small.blobs.values())
    small.forward()
    small.backward()
    arrays = [a for b in params + blobs for a in (b.data, b.diff)]
    want = [a.copy() for a in arrays]
    del small
    gc.collect()
    for blob, data, diff in zip(params + blobs, want[::2], want[1::2], strict=True):
        np.testing.assert_array_equal(blob.data, data)
        np.testing.assert_array_equal(blob.diff, diff)
    for array, value in zip(arrays, want, strict=True):
        np.testing.assert_array_equal(array, value)
    assert sum(float(np.abs(a).sum()) for a in arrays) > 1000


def test_layer_dict_names_the_layers_in_order(small) -> None:
    assert list(small.layer_dict) == list(small._layer_names)
    assert list(small.layer_dict) == ["data", "conv", "ip", "loss"]
    for name, layer in zip(small._layer_names, small.layers, strict=True):
        assert small.layer_dict[name] is layer
    assert [layer.type for layer in small.layers][1:3] == ["Convolution", "InnerProduct"]
    assert [b.shape for b in small.layer_dict["conv"].blobs] == [(11, 2, 2, 2), (11,)]


def test_forward_and_backward_return_outputs_and_inputs(small, branches) -> None:
    assert list(small.forward()) == ["loss"]
    assert small.backward() == {}
    assert set(branches.forward()) == {"loss", "more"}
    assert set(branches.backward()) == {"x", "t"}


def test_forward_from_and_to_a_layer_reads_an_edited_blob(small) -> None:
    small.blobs["conv"].data[...] = np.random.default_rng(0).normal(size=(5, 11, 8, 9))
    got = small.forward(start="ip", end="ip")
    weight, bias = (blob.data for blob in small.params["ip"])
    want = small.blobs["conv"].data.reshape(5, -1) @ weight.T + bias
    assert list(got) == ["ip_blob"]
    np.testing.assert_allclose(got["ip_blob"], want, rtol=1e-3, atol=1e-3)


def test_backward_from_and_to_a_layer_reads_an_edited_diff(small) -> None:
    small.blobs["ip_blob"].diff[...] = np.random.default_rng(0).normal(size=(5, 13))
    got = small.backward(start="ip", end="ip")
    want = small.blobs["ip_blob"].diff @ small.params["ip"][0].data
    assert list(got) == ["conv"]
    np.testing.assert_allclose(got["conv"].reshape(5, -1), want, rtol=1e-3, atol=1e-3)


def test_clear_param_diffs_sets_all_to_zero(small) -> None:
    held = small.params["ip"][0].diff
    small.forward()
    small.backward()
    assert np.abs(held).max() > 0
    small.clear_param_diffs()
    for blobs in small.params.values():
        for blob in blobs:
            assert not blob.diff.any()
    assert not held.any()


def test_inputs_outputs_tops_and_bottoms_have_their_names(small, branches) -> None:
    assert (small.inputs, small.outputs) == ([], ["loss"])
    assert small.top_names["data"] == ["data", "label"]
    assert small.bottom_names["loss"] == ["ip_blob", "label"]
    assert small._top_ids(0) == [0, 1]
    assert small._bottom_ids(3) == [3, 1]
    assert [branches._blob_names[i] for i in branches._inputs] == branches.inputs == ["x", "t"]
    assert [branches._blob_names[i] for i in branches._outputs] == ["loss", "more"]
    assert branches.blob_loss_weights["loss"] == 0.5
    assert branches.blob_loss_weights["ip"] == 0
    assert list(branches._blobs) == list(branches.blobs.values())


def test_blobs_and_params_are_in_the_order_of_their_layers(small) -> None:
    assert list(small.blobs) == ["data", "label", "conv", "ip_blob", "loss"]
    assert list(small.params) == ["conv", "ip"]
    assert [b.shape for b in small.params["ip"]] == [(13, 792), (13,)]
    assert type(small.params["ip"]) is caffe._caffe.BlobVec
    assert small.params["ip"][0].data is not None
    small.params["conv"][0].data[...] = 4
    assert (small.layers[1].blobs[0].data == 4).all()


def test_passes_by_number_run_the_layers_of_these_numbers(small) -> None:
    loss = small._forward(0, 3)
    assert loss == pytest.approx(float(small.blobs["loss"].data))
    small._backward(3, 2)
    assert small.params["ip"][0].diff.any()
    assert not small.params["conv"][0].diff.any()
    small._backward(1, 1)
    assert small.params["conv"][0].diff.any()


def test_batches_have_the_nets_size_and_the_last_is_filled_up(branches) -> None:
    values = np.arange(6 * 5, dtype=np.float32).reshape(6, 5) + 1
    first, last = branches._batch({"t": values})
    np.testing.assert_array_equal(first["t"], values[:4])
    np.testing.assert_array_equal(last["t"], np.concatenate([values[4:], np.zeros((2, 5))]))


def test_layers_of_a_file_that_the_net_lacks_are_passed_over(
    branches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caffe.pycaffe.glog.LOG, "level", 0)
    lines: list[str] = []
    monkeypatch.setattr(caffe.pycaffe.glog.LOG, "_write_stream", lines.append)
    branches.save(str(tmp_path / "all.caffemodel"))
    end = BRANCHES.index('layer { name: "conv2"')
    net = caffe.Net(write(tmp_path, BRANCHES[:end], "part.prototxt"), caffe.TEST)
    net.copy_from(str(tmp_path / "all.caffemodel"))
    captured = [line.strip().split("] ")[1] for line in lines]
    assert captured == [
        f"Ignoring source layer {n}" for n in branches.layer_dict if n not in net.layer_dict
    ]
    assert "Ignoring source layer ip" in captured
    want = branches.params["conv1"][0].data
    np.testing.assert_array_equal(net.params["conv1"][0].data, want)
    other = BRANCHES[:end].replace('"conv1" type', '"new" type')
    net = caffe.Net(write(tmp_path, other, "other.prototxt"), caffe.TEST)
    before = net.params["new"][0].data.copy()
    net.copy_from(str(tmp_path / "all.caffemodel"))
    np.testing.assert_array_equal(net.params["new"][0].data, before)


@pytest.mark.parametrize("kind", ["caffemodel", "h5"])
def test_saved_weights_are_read_again(branches, tmp_path: Path, kind: str) -> None:
    file = str(tmp_path / f"weights.{kind}")
    branches.params["conv1"][0].data[...] += 1  # an edit that no pass has seen yet
    (branches.save_hdf5 if kind == "h5" else branches.save)(file)
    other = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST, weights=file)
    older = caffe.Net(str(tmp_path / "net.prototxt"), file, caffe.TEST)
    third = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    held = third.params["conv1"][0].data
    (third.load_hdf5 if kind == "h5" else third.copy_from)(file)
    for name, blobs in branches.params.items():
        for index, blob in enumerate(blobs):
            for net in (other, older, third):
                np.testing.assert_array_equal(net.params[name][index].data, blob.data)
    np.testing.assert_array_equal(held, branches.params["conv1"][0].data)


LEVELS = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 } } }
layer { name: "no_level" type: "InnerProduct" bottom: "x" top: "a"
  include { phase: TEST } inner_product_param { num_output: 1 } }
layer { name: "level0" type: "InnerProduct" bottom: "x" top: "b"
  include { phase: TEST min_level: 0 } inner_product_param { num_output: 1 } }
layer { name: "level1" type: "InnerProduct" bottom: "x" top: "c"
  include { phase: TEST min_level: 1 } inner_product_param { num_output: 1 } }
"""


def layers_but_splits(net) -> list[str]:
    return [layer.name for layer in net.layers if layer.type != "Split"]


def test_level_decides_which_layers_are_there(tmp_path: Path) -> None:
    file = write(tmp_path, LEVELS)
    assert layers_but_splits(caffe.Net(file, caffe.TEST)) == ["data", "no_level", "level0"]
    assert layers_but_splits(caffe.Net(file, caffe.TEST, level=1))[1:] == [
        "no_level",
        "level0",
        "level1",
    ]


ALL_IN_ONE = """
layer { name: "train_data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } shape { dim: 1 } }
  include { phase: TRAIN stage: "train" } }
layer { name: "val_data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } shape { dim: 1 } }
  include { phase: TEST stage: "val" } }
layer { name: "deploy_data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 1 dim: 10 dim: 10 } }
  include { phase: TEST stage: "deploy" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  include: { phase: TRAIN stage: "train" } include: { phase: TEST stage: "val" } }
layer { name: "pred" type: "Softmax" bottom: "ip" top: "pred"
  include: { phase: TEST stage: "deploy" } }
"""


@pytest.mark.parametrize(
    "phase, stage, layers",
    [
        (caffe.TRAIN, "train", ["train_data", "ip", "loss"]),
        (caffe.TEST, "val", ["val_data", "ip", "loss"]),
        (caffe.TEST, "deploy", ["deploy_data", "ip", "pred"]),
    ],
)
def test_stages_make_one_file_train_validate_and_deploy(
    tmp_path: Path, phase: int, stage: str, layers: list[str]
) -> None:
    net = caffe.Net(write(tmp_path, ALL_IN_ONE), phase, stages=[stage])
    assert layers_but_splits(net) == layers
    assert set(net.forward()) == ({"pred"} if stage == "deploy" else {"loss"})


def test_several_stages_add_up(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
        'layer { name: "A" type: "ReLU" bottom: "x" top: "A" include { stage: "A" } }'
        'layer { name: "B" type: "ReLU" bottom: "x" top: "B" include { stage: "B" } }'
        'layer { name: "AB" type: "ReLU" bottom: "x" top: "AB" include { stage: "A" stage: "B" } }',
    )
    assert layers_but_splits(caffe.Net(file, caffe.TEST)) == ["x"]
    assert layers_but_splits(caffe.Net(file, caffe.TEST, stages=["A"])) == ["x", "A"]
    both = caffe.Net(file, caffe.TEST, 0, ["A", "B"])
    assert layers_but_splits(both) == ["x", "A", "B", "AB"]


def test_forward_sets_inputs_and_returns_more_blobs(branches) -> None:
    values = {n: np.ones(branches.blobs[n].shape, np.float64) for n in branches.inputs}
    got = branches.forward(blobs=["pool"], **values)
    assert set(got) == {"loss", "more", "pool"}
    assert (branches.blobs["x"].data == 1).all()
    assert got["pool"] is not None
    assert got["pool"].base is branches.blobs["pool"].data.base
    top = {n: np.ones(branches.blobs[n].shape) for n in branches.outputs}
    assert set(branches.backward(diffs=["ip"], **top)) == {"x", "t", "ip"}
    assert branches.blobs["loss"].diff == 1


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda n: n.forward(blobs=["pol"]), "no blob 'pol'. Did you mean 'pool'?"),
        (lambda n: n.backward(diffs=["pol"]), "no blob 'pol'. Did you mean 'pool'?"),
        (lambda n: n.forward(start="pooll"), "no layer 'pooll'. Did you mean 'pool'?"),
        (lambda n: n.backward(end="pooll"), "no layer 'pooll'. Did you mean 'pool'?"),
        (
            lambda n: n.forward(y=np.zeros(1)),
            "Input blob arguments do not match net inputs. Wanted: t, x. Received: y",
        ),
        (
            lambda n: n.backward(y=np.zeros(1)),
            "Top diff arguments do not match net outputs. Wanted: loss, more. Received: y",
        ),
        (
            lambda n: n.forward(x=np.zeros((3, 4, 6, 6)), t=np.zeros((4, 5))),
            r"Input is not batch sized: blob 'x' has shape \(4, 4, 6, 6\)",
        ),
        (
            lambda n: n.forward(x=np.zeros((4, 4, 6, 7)), t=np.zeros((4, 5))),
            r"blob 'x' has shape \(4, 4, 6, 6\). Received: \(4, 4, 6, 7\)",
        ),
        (lambda n: n.set_input_arrays(np.zeros(1), np.zeros(1)), "first layer is a MemoryData"),
    ],
)
def test_mistaken_call_says_what_would_be_right(branches, call, words: str) -> None:
    with pytest.raises(NetError, match=words.replace("?", r"\?")):
        call(branches)


def test_mistaken_constructor_says_what_would_be_right(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    with pytest.raises(ParseError, match=r"missing\.prototxt"):
        caffe.Net(str(tmp_path / "missing.prototxt"), caffe.TEST)
    with pytest.raises(ParseError, match=r"missing\.caffemodel"):
        caffe.Net(file, str(tmp_path / "missing.caffemodel"), caffe.TEST)
    for phase in (2, None, True, 1.0):
        with pytest.raises(UsageError, match="phase must be caffe.TRAIN|Net needs a phase"):
            caffe.Net(file, phase)
    with pytest.raises(UsageError, match=r"stages must be a list of names, as \['val'\]"):
        caffe.Net(file, caffe.TEST, stages="val")
    with pytest.raises(UsageError, match="weights only once"):
        caffe.Net(file, "a", caffe.TEST, weights="b")


def test_weights_of_another_shape_are_refused(branches, tmp_path: Path) -> None:
    file = str(tmp_path / "weights.caffemodel")
    branches.save(file)
    other = BRANCHES.replace("num_output: 5 weight", "num_output: 7 weight")
    other = other.replace("dim: 4 dim: 5", "dim: 4 dim: 7")
    with pytest.raises(WeightsError, match="shape mismatch"):
        caffe.Net(write(tmp_path, other, "other.prototxt"), caffe.TEST, weights=file)


# ---- many samples


def test_forward_all_runs_any_number_of_records(branches) -> None:
    random = np.random.default_rng(0)
    values = {n: random.normal(size=(10, *branches.blobs[n].shape[1:])) for n in branches.inputs}
    got = branches.forward_all(blobs=["ip"], **values)
    assert got["ip"].shape == (10, 5)
    first = branches.forward(blobs=["ip"], **{n: v[4:8] for n, v in values.items()})["ip"]
    np.testing.assert_allclose(got["ip"][4:8], first, **CLOSE)
    last = {n: np.concatenate([v[8:], 0 * v[:2]]) for n, v in values.items()}
    np.testing.assert_allclose(
        got["ip"][8:], branches.forward(blobs=["ip"], **last)["ip"][:2], **CLOSE
    )


def test_forward_backward_all_collects_both(branches) -> None:
    random = np.random.default_rng(0)
    values = {n: random.normal(size=(6, *branches.blobs[n].shape[1:])) for n in branches.inputs}
    data, diffs = branches.forward_backward_all(blobs=["flat"], diffs=["flat"], **values)
    assert data["flat"].shape == diffs["flat"].shape == (6, 54)
    branches.forward(**{n: v[:4] for n, v in values.items()})
    branches.backward()
    np.testing.assert_allclose(diffs["flat"][:4], branches.blobs["flat"].diff, **CLOSE)


def test_set_input_arrays_feeds_memory_data(tmp_path: Path) -> None:
    net = caffe.Net(
        write(
            tmp_path,
            'layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param '
            "{ batch_size: 2 channels: 1 height: 2 width: 2 } }",
        ),
        caffe.TEST,
    )
    data = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for batch in (0, 1, 0):
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, data[2 * batch : 2 * batch + 2])
        np.testing.assert_array_equal(net.blobs["label"].data, [2 * batch, 2 * batch + 1])
        net.blobs["data"].data[...] = -1  # does not reach the samples
    with pytest.raises(CaffeKDError, match="multiple of batch size"):
        net.set_input_arrays(data[:3], np.arange(3, dtype=np.float32))


# ---- sharing


def test_share_with_shares_data_but_not_diffs(tmp_path: Path) -> None:
    file = write(tmp_path, BRANCHES)
    one, two = caffe.Net(file, caffe.TRAIN), caffe.Net(file, caffe.TEST)
    one.params["conv1"][0].data[...] = 1
    two.share_with(one)
    assert (two.params["conv1"][0].data == 1).all()
    two.params["conv1"][0].data[...] = 2
    assert (one.params["conv1"][0].data == 2).all()
    fill(one)
    one.forward()
    one.backward()
    assert one.params["conv1"][0].diff.any()
    assert not two.params["conv1"][0].diff.any()


def test_layers_that_share_a_parameter_share_its_diff(tmp_path: Path) -> None:
    shared = 'param { name: "w" } inner_product_param { num_output: 3 bias_term: false'
    net = caffe.Net(
        write(
            tmp_path,
            'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
            f'layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" {shared} '
            'weight_filler { type: "xavier" } } }'
            f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {shared} }} }}'
            'layer { name: "l" type: "Reduction" bottom: "b" top: "l" loss_weight: 1 }',
        ),
        caffe.TRAIN,
    )
    net.blobs["x"].data[...] = 1
    net.params["b"][0].data[...] = np.eye(3)
    np.testing.assert_array_equal(net.params["a"][0].data, np.eye(3))
    net.forward()
    net.backward()
    # d/dW of the sum of x W' W' at W = 1: the two uses give the same.
    np.testing.assert_allclose(net.params["a"][0].diff, np.full((3, 3), 4.0))
    np.testing.assert_array_equal(net.params["a"][0].diff, net.params["b"][0].diff)


def test_set_random_seed_makes_fillers_repeat(tmp_path: Path) -> None:
    file = write(tmp_path, SMALL)
    weights = []
    for _ in range(2):
        caffe.set_random_seed(42)
        weights.append(caffe.Net(file, caffe.TRAIN).params["conv"][0].data)
    np.testing.assert_array_equal(*weights)


def test_what_nets_had_until_2014_says_what_it_is_now(tmp_path: Path) -> None:
    net = caffe.Net(write(tmp_path, BRANCHES), caffe.TEST)
    with pytest.raises(AttributeError, match=r"set_phase_test.*\(FILE, WEIGHTS, caffe.TEST"):
        net.set_phase_test()
    with pytest.raises(AttributeError, match=r"Now it is caffe\.set_mode_gpu\(\)"):
        net.set_mode_gpu()
    with pytest.raises(AttributeError, match="no attribute 'gone'$"):
        net.gone  # noqa: B018
    path = str(tmp_path / "w.caffemodel")
    net.save(path)
    with pytest.raises(UsageError, match=r"Net needs a phase: caffe\.Net\(FILE, caffe\.TEST\)"):
        caffe.Net(write(tmp_path, BRANCHES), path)


def test_force_backward_through_accuracy_is_refused_as_by_caffe(tmp_path: Path) -> None:
    text = """
    force_backward: true
    layer { name: "x" type: "Input" top: "x" top: "y"
      input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "loss" }
    layer { name: "acc" type: "Accuracy" bottom: "x" bottom: "y" top: "acc" }
    """
    net = caffe.Net(write(tmp_path, text), caffe.TRAIN)
    net.forward()
    with pytest.raises(CaffeKDError, match=r"'acc' \(Accuracy\): Not Implemented Yet"):
        net.backward()
