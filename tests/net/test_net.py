from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError, WeightsError
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import LayerWeights
from tests.helpers import inputs_text, make_net

X = inputs_text((2, 3))
BOTH = 'param { name: "w" } param { name: "b" }'


def ip(name: str, bottom: str, top: str, outputs: int = 3, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {more} '
        f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" }} }} }}\n'
    )


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {more} }}\n'


def error_of(prototxt: str) -> str:
    with pytest.raises(NetError) as error:
        make_net(prototxt)
    return str(error.value)


# ---- names


def test_in_place_layers_work_one_after_the_other():
    net = make_net(X + ip("f", "x0", "y") + relu("r", "y", "y") + ip("g", "y", "z", 1))
    x = torch.randn(2, 3)
    net.forward({"x0": x})
    f, g = net.node_of("f").layer, net.node_of("g").layer
    assert torch.equal(net.blobs["y"], torch.relu(f(x)))
    assert torch.equal(net.blobs["z"], g(torch.relu(f(x))))
    assert list(net.blobs) == ["x0", "y", "z"]
    assert net.outputs == ["z"]


def test_blob_taken_by_several_layers_gathers_their_gradients():
    net = make_net(
        X + relu("a", "x0", "a", "loss_weight: 1") + relu("b", "x0", "b", "loss_weight: 2")
    )
    x = torch.ones(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(net.forward({"x0": x}), x)
    assert torch.equal(grad, torch.full((2, 3), 3.0))


def test_top_of_two_layers_is_refused():
    message = error_of(X + relu("a", "x0", "y") + relu("b", "x0", "y"))
    want = "net.prototxt:3: layer 'b' (ReLU): Top blob 'y' produced by multiple sources."
    assert message.startswith(want)


def test_in_place_counts_only_at_the_same_index():
    slices = (
        'layer { name: "s" type: "Slice" bottom: "x0" top: "y" top: "x0" slice_param { axis: 0 } }'
    )
    assert "Top blob 'x0' produced by multiple sources" in error_of(X + slices)


def test_unknown_bottom_names_the_place_and_the_nearest_blob():
    message = error_of(X + relu("a", "x0", "conv1") + relu("b", "conv_1", "y"))
    assert message == (
        "net.prototxt:3: layer 'b' (ReLU): Unknown bottom blob 'conv_1' (bottom index 0): "
        "no layer before this one makes it. Did you mean 'conv1'?"
    )


def test_bottom_that_a_later_layer_makes_is_unknown():
    assert "Unknown bottom blob 'y'" in error_of(X + relu("a", "y", "z") + relu("b", "x0", "y"))


def test_outputs_are_alphabetical():
    net = make_net(X + relu("1", "x0", "zebra") + relu("2", "x0", "ant") + relu("3", "x0", "Bee"))
    assert net.outputs == ["Bee", "ant", "zebra"]  # as C++ orders strings


def test_empty_bottom_is_none():
    net = make_net(
        'layer { name: "d" type: "DummyData" bottom: "" top: "y" '
        "dummy_data_param { shape { dim: 2 } } }"
    )
    net.forward()
    assert net.blobs["y"].tolist() == [0, 0]


def test_state_of_the_message_wins_over_the_phase_given():
    net = make_net("state { phase: TRAIN }" + X, pb.TEST)
    assert net.nodes[0].layer.is_training


def test_load_net_filters_for_phase_and_stages(tmp_path):
    path = tmp_path / "n.prototxt"
    path.write_text(
        X
        + relu("train", "x0", "a", "include { phase: TRAIN }")
        + relu("test", "x0", "b", 'include { phase: TEST stage: "deploy" }')
    )
    names = [s.layer.name for s in load_net(path, pb.TEST, stages=["deploy"]).nodes]
    assert names == ["in0", "test"]
    assert [s.layer.name for s in load_net(path, pb.TRAIN).nodes] == ["in0", "train"]


def test_error_of_a_file_names_it(tmp_path):
    path = tmp_path / "n.prototxt"
    path.write_text(X + "\n\n" + relu("r", "x1", "y"))
    with pytest.raises(NetError) as error:
        load_net(path)
    assert str(error.value).startswith(f"{path}:4: layer 'r' (ReLU): Unknown bottom blob 'x1'")


# ---- loss weights and gradients


def test_objective_is_the_weighted_sum_of_all_tops_with_a_weight():
    net = make_net(
        X + relu("a", "x0", "a", "loss_weight: 0.5") + relu("b", "x0", "b", "loss_weight: -2")
    )
    assert net.forward({"x0": torch.ones(2, 3)}).item() == 6 * 0.5 - 6 * 2
    assert net.loss_weights == {"x0": 0.0, "a": 0.5, "b": -2.0}


def test_net_without_a_loss_has_no_objective():
    assert make_net(X + relu("a", "x0", "a")).forward() is None


def test_loss_has_weight_one():
    loss = 'layer { name: "l" type: "EuclideanLoss" bottom: "x0" bottom: "x1" top: "l2" }'
    net = make_net(inputs_text((2, 3), (2, 3)) + loss)
    assert net.forward({"x0": torch.ones(2, 3)}).item() == net.blobs["l2"].item() == 1.5
    assert net.outputs == ["l2"]


def test_losses_without_a_top_count_but_are_no_outputs():
    loss = 'layer { name: "l" type: "EuclideanLoss" bottom: "x0" bottom: "x1" }'
    net = make_net(inputs_text((2, 3), (2, 3)) + loss + loss)
    assert net.forward({"x0": torch.ones(2, 3)}).item() == 3
    assert net.shapes["(automatic)"] == ()
    assert net.outputs == []


def test_loss_weight_is_given_once_per_top():
    message = error_of(X + relu("a", "x0", "a", "loss_weight: 1 loss_weight: 2"))
    assert "loss_weight must be unspecified or specified once per top" in message


def test_propagate_down_false_cuts_the_gradient_of_one_bottom():
    eltwise = 'layer { name: "e" type: "Eltwise" bottom: "x0" bottom: "x1" top: "y" loss_weight: 1 '
    net = make_net(
        inputs_text((2,), (2,)) + eltwise + "propagate_down: false propagate_down: true }"
    )
    inputs = {name: torch.ones(2, requires_grad=True) for name in ("x0", "x1")}
    grads = torch.autograd.grad(net.forward(inputs), list(inputs.values()), allow_unused=True)
    assert grads[0] is None
    assert grads[1].tolist() == [1, 1]


def test_propagate_down_is_given_once_per_bottom():
    assert "propagate_down param must be specified either 0 or bottom_size times" in error_of(
        X + relu("a", "x0", "a", "propagate_down: true propagate_down: true")
    )


def test_lr_mult_zero_means_no_gradient():
    net = make_net(X + ip("f", "x0", "y", more="param { lr_mult: 0 } loss_weight: 1"))
    net.forward({"x0": torch.ones(2, 3)}).backward()
    weight, bias = net.params
    assert (weight.lr_mult, weight.blob.requires_grad, weight.blob.grad) == (0, False, None)
    assert bias.lr_mult == 1
    assert bias.blob.grad.tolist() == [2, 2, 2]


def test_params_are_in_caffes_order_with_their_multipliers():
    net = make_net(
        X + ip("f", "x0", "y", more="param { lr_mult: 2 decay_mult: 0 }") + ip("g", "y", "z")
    )
    got = [(p.layer.name, p.index, p.lr_mult, p.decay_mult) for p in net.params]
    assert got == [("f", 0, 2, 0), ("f", 1, 1, 1), ("g", 0, 1, 1), ("g", 1, 1, 1)]


def test_too_many_params_are_refused():
    assert "Too many params specified" in error_of(X + relu("r", "x0", "y", "param { lr_mult: 1 }"))


# ---- sharing


def shared(*specs: str, outputs: tuple[int, ...] = (3, 3, 3)) -> str:
    layers = X
    for index, (spec, count) in enumerate(zip(specs, outputs, strict=False)):
        layers += ip(f"f{index}", "x0", f"y{index}", count, f'param {{ name: "w" {spec} }}')
    return layers


def test_shared_blob_is_one_and_gathers_gradients():
    net = make_net(shared("", ""))
    first, second = (net.node_of(n).layer for n in ("f0", "f1"))
    assert first.blobs[0] is second.blobs[0]
    assert len(net.params) == 3
    assert len(list(net.parameters())) == 3
    net.forward({"x0": torch.ones(2, 3)})
    (net.blobs["y0"].sum() + net.blobs["y1"].sum()).backward()
    assert torch.equal(first.blobs[0].grad, torch.full((3, 3), 4.0))


def test_strict_sharing_refuses_another_shape():
    assert "Cannot share param 'w' owned by layer 'f0': shape mismatch" in error_of(
        shared("", "", outputs=(3, 2))
    )


def permissive(mode: str = "share_mode: PERMISSIVE") -> str:
    return (
        inputs_text((2, 4, 1, 1))
        + 'layer { name: "c" type: "Convolution" bottom: "x0" top: "y0" param { name: "w" } '
        'convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" } } }\n'
        + ip("f", "x0", "y1", 2, f'param {{ name: "w" {mode} }}')
    )


def test_permissive_sharing_asks_for_the_count_alone():
    net = make_net(permissive())
    x = torch.randn(2, 4, 1, 1)
    net.forward({"x0": x})
    torch.testing.assert_close(net.blobs["y0"].flatten(1), net.blobs["y1"])
    net.blobs["y1"].sum().backward()
    assert net.params[0].blob.grad.shape == (2, 4, 1, 1)
    assert "shape mismatch" in error_of(permissive(""))
    assert "count mismatch" in error_of(
        permissive().replace("num_output: 2 kernel", "num_output: 3 kernel")
    )


def test_permissive_sharing_survives_channels_last():
    net = make_net(permissive())
    net.to_device(torch.device("cpu"), channels_last=True)
    net.forward({"x0": torch.randn(2, 4, 1, 1)})
    torch.testing.assert_close(net.blobs["y0"].flatten(1), net.blobs["y1"])


# With one channel both orders look alike, and the convolution goes by the strides.
@pytest.mark.parametrize("channels", [4, 1])
def test_place_lays_convolutions_out_channels_last(channels):
    net = make_net(
        inputs_text((2, channels, 5, 5))
        + 'layer { name: "c" type: "Convolution" bottom: "x0" top: "y" '
        'convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "gaussian" } } }'
    )
    x = torch.randn(2, channels, 5, 5)
    net.forward({"x0": x})
    before, weights = net.blobs["y"], net.weights()
    net.to_device(torch.device("cpu"), channels_last=True)
    assert net.params[0].blob.is_contiguous(memory_format=torch.channels_last)
    net.forward({"x0": x})
    assert net.blobs["y"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net.blobs["y"], before)
    assert net.weights()["c"][0].flags.c_contiguous
    np.testing.assert_array_equal(net.weights()["c"][0], weights["c"][0])


def test_sharer_may_state_the_multiplier_the_owner_leaves_open():
    net = make_net(shared("", "lr_mult: 0"))
    assert net.params[0].lr_mult == 0
    assert not net.params[0].blob.requires_grad


@pytest.mark.parametrize("field", ["lr_mult", "decay_mult"])
@pytest.mark.parametrize(
    "specs",
    [("{}: 1", "{}: 2"), ("", "{}: 3", "{}: 2"), ("", "{}: 1", "{}: 2"), ("{}: 0", "", "{}: 1")],
)
def test_multipliers_that_differ_are_refused(field, specs):
    message = error_of(shared(*(s.format(field) for s in specs)))
    assert f"Shared param 'w' has mismatched {field}" in message


def test_multipliers_that_agree_are_fine():
    net = make_net(shared("lr_mult: 2", "lr_mult: 2", ""))
    assert net.params[0].lr_mult == 2


# ---- weights


def weights_of(*values, name="f", legacy=False) -> list[LayerWeights]:
    blobs = [None if v is None else np.asarray(v, np.float32) for v in values]
    return [LayerWeights(name, "InnerProduct", blobs, [legacy] * len(blobs))]


def test_weights_are_copied_by_layer_name():
    net = make_net(X + ip("f", "x0", "y", 1) + ip("g", "y", "z", 1))
    other = weights_of([[9]], [9], name="unknown")
    copied = net.copy_weights(weights_of([[1, 2, 3]], [4]) + other, "w.caffemodel")
    assert (copied.filled, copied.ignored, copied.unused) == (["f"], ["unknown"], ["unknown"])
    assert net.without_weights() == ["g"]
    assert net.weights()["f"][0].tolist() == [[1, 2, 3]]
    assert net.weights()["f"][1].tolist() == [4]


def test_layer_whose_blobs_come_from_their_owner_lacks_none():
    net = make_net(X + ip("f", "x0", "y0", more=BOTH) + ip("g", "x0", "y1", more=BOTH))
    assert net.without_weights() == ["f", "g"]
    net.copy_weights(weights_of(np.ones((3, 3)), [1, 2, 3]), "w.caffemodel")
    assert net.without_weights() == []


def test_legacy_shapes_are_aligned_to_the_right():
    net = make_net(X + ip("f", "x0", "y", 1))
    net.copy_weights(weights_of([[[[1, 2, 3]]]], [[[[4]]]], legacy=True), "w.caffemodel")
    assert net.weights()["f"][0].tolist() == [[1, 2, 3]]
    assert net.weights()["f"][1].tolist() == [4]


@pytest.mark.parametrize(
    ("values", "legacy", "words"),
    [
        (
            ([[1, 2]], [0]),
            False,
            r"Cannot copy param 0 weights: shape mismatch.*\(1, 2\).*\(1, 3\)",
        ),
        (([[[[1, 2, 3]]]], [0]), False, "Cannot copy param 0 weights: shape mismatch"),
        (([[[[1], [2], [3]]]], [0]), True, "Cannot copy param 0 weights: shape mismatch"),
        (([[1, 2, 3]],), False, "Incompatible number of blobs: 1 in the file, 2 in the net"),
        (([[1, 2, 3]], [0], [0]), False, "Incompatible number of blobs: 3 in the file"),
        ((None, [0]), False, "Incompatible number of blobs"),
        ((), False, "Incompatible number of blobs: 0 in the file, 2 in the net"),
    ],
)
def test_weights_that_do_not_fit_are_refused(values, legacy, words):
    net = make_net(X + ip("f", "x0", "y", 1))
    with pytest.raises(WeightsError, match=words) as error:
        net.copy_weights(weights_of(*values, legacy=legacy), "w.caffemodel")
    assert "w.caffemodel: layer 'f' (InnerProduct)" in str(error.value)


def test_blob_another_layer_owns_may_be_missing():
    net = make_net(shared("", ""))
    weights = weights_of(None, [1, 2, 3], name="f1")
    with pytest.raises(WeightsError, match="Incompatible number of blobs"):
        net.copy_weights(weights, "w.caffemodel")  # Caffe writes shared blobs at every layer
    net.copy_weights([replace(w, owned_only=True) for w in weights], "w.h5")
    assert net.weights()["f1"][1].tolist() == [1, 2, 3]


def test_layer_of_the_file_without_blobs_fits_one_without_blobs():
    net = make_net(X + ip("f", "x0", "y", 1) + relu("r", "y", "z"))
    assert net.copy_weights(weights_of(name="r"), "w.caffemodel").unused == []


def test_shared_weights_follow_the_other_net():
    text = X + ip("f", "x0", "y")
    train, test = make_net(text, pb.TRAIN), make_net(text, pb.TEST)
    test.share_weights(train)
    with torch.no_grad():
        train.params[0].blob.fill_(7)
    assert (test.node_of("f").layer.blobs[0] == 7).all()
    assert [p.blob for p in test.params] == [p.blob for p in train.params]
    x = torch.randn(2, 3)
    train.forward({"x0": x})
    test.forward({"x0": x})
    assert torch.equal(train.blobs["y"], test.blobs["y"])


def test_sharing_weights_of_another_shape_is_refused():
    train, test = make_net(X + ip("f", "x0", "y")), make_net(X + ip("f", "x0", "y", 4))
    with pytest.raises(NetError, match="Cannot share param 0 weights with the train net's layer"):
        test.share_weights(train)


def test_layer_the_other_net_lacks_keeps_its_weights():
    test = make_net(X + ip("own", "x0", "y"))
    before = test.weights()["own"][0]
    test.share_weights(make_net(X))
    np.testing.assert_array_equal(test.weights()["own"][0], before)


def test_inputs_may_change_their_batch():
    net = make_net(X + ip("f", "x0", "y"))
    for batch in (5, 1):
        net.forward({"x0": torch.randn(batch, 3)})
        assert tuple(net.blobs["y"].shape) == (batch, 3)


def test_net_of_a_message_built_in_python_needs_no_file():
    param = pb.NetParameter(name="n")
    param.layer.add(name="r", type="ReLU", bottom=["x"], top=["y"])
    with pytest.raises(NetError) as error:
        Net(param)
    assert str(error.value).startswith("layer 'r' (ReLU): Unknown bottom blob 'x'")


@pytest.mark.parametrize("forced", [True, False])
def test_force_backward_gives_the_data_a_gradient(forced):
    net = make_net(
        f"""force_backward: {str(forced).lower()}
        layer {{ name: "x" type: "DummyData" top: "x"
          dummy_data_param {{ shape {{ dim: 2 dim: 3 }} data_filler {{ value: 3 }} }} }}
        layer {{ name: "y" type: "Power" bottom: "x" top: "y" power_param {{ power: 2 }}
          loss_weight: 0.5 }}""",
        pb.TRAIN,
    )
    for _ in range(2):  # each pass starts again
        objective = net()
        assert objective.requires_grad == forced
        if forced:
            objective.backward()
            assert torch.equal(net.blobs["x"].grad, torch.full((2, 3), 3.0))


def test_loss_weights_follow_the_iteration_where_they_have_a_schedule():
    net = make_net(
        X
        + """
        layer { name: "s" type: "Reduction" bottom: "x0" top: "s" loss_weight: 3
                loss_weight_schedule { point { value: 1 } point { iter: 10 value: 2 } } }
        layer { name: "t" type: "Reduction" bottom: "x0" top: "t" loss_weight: 5 }""",
        pb.TRAIN,
    )
    x = torch.ones(2, 3)
    assert float(net({"x0": x})) == 6 * 3 + 6 * 5
    net.set_iteration(5)
    assert net.loss_weights == {"x0": 0, "s": 4.5, "t": 5}
    assert float(net({"x0": x})) == 6 * 4.5 + 6 * 5
    assert list(net.schedules) == ["layer 's', loss_weight_schedule"]


def test_loss_with_two_tops_and_no_loss_weight_is_refused_as_by_caffe():
    loss = """layer { name: "l" type: "SoftmaxWithLoss" bottom: "x0" bottom: "y" top: "l" top: "p"
      %s }"""
    label = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 } } }'
    message = error_of(X + label + loss % "")
    assert "loss_weight must be unspecified or specified once per top blob" in message
    make_net(X + label + loss % "loss_weight: 1 loss_weight: 0")


def test_blob_of_another_stage_is_named_with_the_stage(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        X + 'layer { name: "s" type: "ReLU" bottom: "x0" top: "s" include { stage: "a" } }'
        'layer { name: "r" type: "ReLU" bottom: "s" top: "r" }'
    )
    with pytest.raises(NetError, match=r"'s' .*; layer 's' does, only in stage 'a' \(-stage a\)"):
        load_net(path)
    assert load_net(path, stages=["a"]).outputs == ["r"]
