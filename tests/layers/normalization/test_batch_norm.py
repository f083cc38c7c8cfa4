from __future__ import annotations

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, golden_case, gradcheck, layer_net, make_layer, make_net, run

BODY = 'type: "BatchNorm"'


def fill(layer, mean, var, scale):
    with torch.no_grad():
        for blob, value in zip(layer.blobs, (mean, var, scale), strict=True):
            blob.copy_(torch.as_tensor(value).expand_as(blob))


@pytest.mark.parametrize("name", ["bn_train", "bn_test", "bn_global_in_train"])
def test_batch_norm_equals_the_original(name):
    golden_case(name)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3), (4, 3, 2, 2, 2)])
def test_shape_gradient_and_statistics_in_train(shape):
    layer = make_layer(BODY, shape)
    x = torch.randn(shape) * 3 + 1
    (y,) = run(layer, x)
    axes = [a for a in range(len(shape)) if a != 1]
    torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-5, rtol=0)
    gradcheck(layer, x)


def test_updates_are_sums_that_fade():
    layer = make_layer(
        'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.5 }', (8, 2)
    )
    mean, var, scale = torch.zeros(2), torch.zeros(2), 0.0
    for _ in range(3):
        x = torch.randn(8, 2) + 2
        layer(x)
        mean, var, scale = mean / 2 + x.mean(0), var / 2 + x.var(0), scale / 2 + 1
    torch.testing.assert_close(layer.blobs[0].detach(), mean)
    torch.testing.assert_close(layer.blobs[1].detach(), var)
    assert layer.blobs[2].item() == scale


def test_global_statistics_are_divided_by_scale():
    layer = make_layer(BODY, (2, 1), phase=pb.TEST)
    fill(layer, 4.0, 8.0, 2.0)
    (y,) = run(layer, torch.tensor([[2.0], [6.0]]))
    torch.testing.assert_close(y, torch.tensor([[0.0], [4.0 / (4 + 1e-5) ** 0.5]]))


def test_scale_of_zero_means_zero_statistics():
    layer = make_layer(BODY, (2, 1), phase=pb.TEST)
    (y,) = run(layer, torch.tensor([[1.0], [-2.0]]))
    torch.testing.assert_close(y, torch.tensor([[1.0], [-2.0]]) / 1e-5**0.5)


def test_frozen_layer_in_a_training_net_keeps_its_statistics():
    layer = make_layer(f"phase: TEST {BODY}", (4, 3, 2, 2), phase=pb.TRAIN)
    fill(layer, 1.0, 2.0, 1.0)
    run(layer, torch.randn(4, 3, 2, 2))
    assert [b.flatten()[0].item() for b in layer.blobs] == [1.0, 2.0, 1.0]
    gradcheck(layer, torch.randn(4, 3, 2, 2))


def test_use_global_stats_false_wins_over_the_phase():
    layer = make_layer(
        f"{BODY} batch_norm_param {{ use_global_stats: false }}", (4, 3), phase=pb.TEST
    )
    layer(torch.randn(4, 3))
    assert layer.blobs[2].item() == 1


def test_one_value_per_channel_has_no_variance():
    layer = make_layer(BODY, (1, 3))
    (y,) = run(layer, torch.tensor([[1.0, -2.0, 5.0]]))
    assert y.tolist() == [[0.0, 0.0, 0.0]]
    assert layer.blobs[0].tolist() == [1.0, -2.0, 5.0]
    assert layer.blobs[1].tolist() == [0.0, 0.0, 0.0]


def test_blobs_never_learn():
    net = layer_net(f"{BODY}", (4, 3))
    assert [(p.lr_mult, p.blob.requires_grad) for p in net.params] == [(0.0, False)] * 3
    net.forward({"x0": torch.randn(4, 3, requires_grad=True)})
    net.blobs["y0"].sum().backward()
    assert all(p.blob.grad is None for p in net.params)


def test_backward_after_a_second_forward_still_works():
    layer = make_layer(BODY, (4, 3))
    x = torch.randn(4, 3, requires_grad=True)
    first = layer(x)
    layer(x)
    first.square().sum().backward()
    assert x.grad is not None


def test_channels_last_gives_the_same_numbers():
    x = torch.randn(4, 3, 5, 5)
    plain, other = make_layer(BODY, x.shape), make_layer(BODY, x.shape)
    y = other(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(other.blobs[1], plain.blobs[1])


def test_lr_mult_is_refused():
    with pytest.raises(NetError, match="Cannot configure batch normalization statistics") as error:
        make_layer(f"{BODY} param {{ lr_mult: 0 }} param {{ decay_mult: 0 }}", (4, 3))
    assert "lr_mult of param 1 must be 0. Received: lr_mult=1.0" in str(error.value)


@pytest.mark.parametrize("eps", ["-1", "nan"])
def test_negative_eps_is_refused(eps):
    with pytest.raises(NetError, match="eps must be at least 0"):
        make_layer(f"{BODY} batch_norm_param {{ eps: {eps} }}", (4, 3))


def test_eps_zero_is_that_of_the_formula():
    layer = make_layer(f"{BODY} batch_norm_param {{ eps: 0 }}", (4, 3, 2))
    x = torch.randn(4, 3, 2)
    mean, var = x.mean((0, 2), keepdim=True), x.var((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(layer(x), (x - mean) / var.sqrt())
    torch.testing.assert_close(layer.blobs[1], x.var((0, 2)))
    gradcheck(layer, x)
    stored = make_layer(f"{BODY} batch_norm_param {{ eps: 0 }}", (4, 3, 2), phase=pb.TEST)
    for ours, theirs in zip(stored.blobs, layer.blobs, strict=True):
        ours.copy_(theirs)
    mean, var = stored.running_stats()
    torch.testing.assert_close(stored(x), (x - mean.reshape(-1, 1)) / var.reshape(-1, 1).sqrt())


def test_bottom_without_channels_is_refused_as_by_caffe():
    with pytest.raises(NetError, match="axis 1 out of range for 1-D Blob"):
        make_layer(BODY, (5,))


def test_other_channels_later_are_refused():
    with pytest.raises(NetError, match="channels may not change"):
        make_layer(BODY, (4, 3)).top_shapes([(4, 2)])


def test_test_net_sees_the_train_nets_statistics():
    text = """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 2 } } }
        layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }
    """
    train, test = make_net(text, pb.TRAIN), make_net(text, pb.TEST)
    test.share_weights(train)
    x = torch.randn(4, 2)
    train.forward({"x": x})
    test.forward({"x": x})
    want = (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()  # the stored variance is the unbiased one
    torch.testing.assert_close(test.blobs["y"], want)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_onnx_equals_forward(shape):
    net = layer_net(BODY, shape, phase=pb.TEST)
    fill(net.nodes[-1].layer, torch.tensor([1.0, -2.0, 3.0]), torch.tensor([4.0, 1.0, 2.0]), 2.0)
    check_onnx(net)


def test_statistics_do_not_depend_on_what_memory_held_before():
    """Torch fills fresh memory with NaN in this mode, as an unlucky run finds it."""
    net = make_net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }'
        'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }',
        pb.TRAIN,
    )
    torch.use_deterministic_algorithms(True)
    try:
        net({"x": torch.randn(4, 3)})
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(blob).all() for blob in net.node_of("bn").layer.blobs)
