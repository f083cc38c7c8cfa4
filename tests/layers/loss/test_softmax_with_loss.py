import math

import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from tests.helpers import golden_case
from tests.layers.loss_nets import input_net, layer_of


def loss_net(settings="", scores=(4, 3), label=(4,), tops=("loss",)):
    top = " ".join(f'top: "{t}"' for t in tops)
    if len(tops) > 1 and "loss_weight" not in settings:
        settings += " loss_weight: 1 loss_weight: 0"
    return input_net(
        {"x": scores, "label": label},
        'layer { name: "L" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" '
        f"{top} {settings} }}",
    )


@pytest.mark.parametrize("case", ["", "_batch", "_ignore", "_spatial"])
def test_softmax_with_loss_matches_caffe(case):
    golden_case(f"softmax_loss{case}")


def test_softmax_with_loss_is_the_objective_even_without_a_top():
    net = loss_net(tops=())
    assert float(net({"x": torch.zeros(4, 3)})) == pytest.approx(math.log(3))
    assert net.shapes["(automatic)"] == ()


def test_softmax_with_loss_second_top_is_the_probabilities_without_gradient():
    net = loss_net(scores=(2, 3, 2, 2), label=(2, 1, 2, 2), tops=("loss", "prob"))
    x = torch.randn(2, 3, 2, 2, requires_grad=True)
    objective = net({"x": x})
    torch.testing.assert_close(net.blobs["prob"], torch.softmax(x.detach(), 1))
    assert net.shapes["prob"] == (2, 3, 2, 2)
    assert not net.blobs["prob"].requires_grad
    assert float(objective.detach()) == float(net.blobs["loss"].detach())


def test_softmax_with_loss_takes_its_axis():
    net = loss_net("softmax_param { axis: -1 }", scores=(2, 2, 3), label=(2, 2))
    x = torch.randn(2, 2, 3)
    loss = net({"x": x, "label": torch.tensor([[0.0, 1], [2, 0]])})
    picked = torch.log_softmax(x, -1)[[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 2, 0]]
    torch.testing.assert_close(loss, -picked.mean())


@pytest.mark.parametrize(
    ("settings", "divisor"),
    [
        ("", 12),
        ("loss_param { ignore_label: 2 }", 8),
        ("loss_param { normalization: FULL }", 12),
        ("loss_param { normalize: false }", 4),
        ("loss_param { normalization: NONE }", 1),
    ],
)
def test_softmax_with_loss_divides_as_loss_param_says(settings, divisor):
    net = loss_net(settings, scores=(4, 3, 3), label=(4, 3))
    labels = torch.tensor([0.0, 1, 2]).repeat(4, 1)
    counted = 8 if "ignore" in settings else 12
    loss = net({"x": torch.zeros(4, 3, 3), "label": labels})
    assert float(loss) == pytest.approx(counted * math.log(3) / divisor)


def test_softmax_with_loss_gradient():
    layer = layer_of(loss_net("loss_param { ignore_label: 1 }"))
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.0, 1, 2, 0])
    assert gradcheck(lambda z: layer(z, label), x)


def test_softmax_with_loss_takes_another_batch_size():
    net = loss_net()
    assert float(net({"x": torch.zeros(9, 3), "label": torch.zeros(9)})) == pytest.approx(
        math.log(3)
    )


@pytest.mark.parametrize("label", [(3,), (4, 2)])
def test_softmax_with_loss_label_count_differs_fails(label):
    text = "same first dimension" if label == (3,) else "Number of labels must match number of pred"
    with pytest.raises(NetError, match=text) as caught:
        loss_net(label=label)
    assert "layer 'L' (SoftmaxWithLoss)" in str(caught.value)
    assert str(label) in str(caught.value)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 2, 2)])
@pytest.mark.parametrize("label", [3, -1, 255, -100, math.nan])
def test_softmax_with_loss_label_outside_the_classes_fails(shape, label):
    net = loss_net(scores=(4, 3, *shape[2:]), label=shape)
    labels = torch.zeros(shape)
    labels.flatten()[1] = label
    with pytest.raises(NetError) as caught:
        net({"label": labels})
    message = str(caught.value)
    assert "net.prototxt:3: layer 'L' (SoftmaxWithLoss)" in message
    assert "classes=3" in message
    if not math.isnan(label):
        assert f"label={label}," in message


@pytest.mark.parametrize("ignored", [255, -1])
def test_softmax_with_loss_ignore_label_may_lie_outside_the_classes(ignored):
    net = loss_net(f"loss_param {{ ignore_label: {ignored} }}")
    labels = torch.tensor([0.0, ignored, ignored, 1])
    assert float(net({"label": labels})) == pytest.approx(math.log(3))
    with pytest.raises(NetError, match="label=7"):
        net({"label": torch.tensor([0.0, ignored, 7, 1])})


def test_softmax_with_loss_gives_no_gradient_to_a_label_that_has_one():
    net = loss_net()
    label = torch.zeros(4, requires_grad=True)
    x = torch.randn(4, 3, requires_grad=True)
    gradients = torch.autograd.grad(net({"x": x, "label": label}), [x, label], allow_unused=True)
    assert gradients[0].any()
    assert gradients[1] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_softmax_with_loss_on_cuda_refuses_a_label_with_the_next_batch():
    layer = layer_of(loss_net("loss_param { ignore_label: 255 }"))
    x = torch.randn(4, 3, device="cuda")
    layer(x, torch.tensor([0.0, 2, 255, 1], device="cuda"))
    assert torch.isfinite(layer(x, torch.tensor([0.0, 5, 255, 1], device="cuda")))
    with pytest.raises(NetError, match="label=5, classes=3"):
        layer(x, torch.zeros(4, device="cuda"))


@pytest.mark.parametrize("temperature", [0.5, 4])
def test_softmax_with_loss_temperature_divides_but_leaves_the_gradients_size(temperature):
    # As in the forks that have it, whose softmax knows the temperature and whose backward does not.
    settings = f"softmax_param {{ temperature: {temperature} }}"
    net = loss_net(settings, tops=("loss", "prob"))
    x = torch.randn(4, 3, requires_grad=True)
    label = torch.tensor([0.0, 1, 2, 1])
    loss = net({"x": x, "label": label})
    p = torch.softmax(x.detach() / temperature, 1)
    torch.testing.assert_close(net.blobs["prob"], p)
    torch.testing.assert_close(loss, -p[range(4), label.long()].log().mean())
    (gradient,) = torch.autograd.grad(loss, x)
    onehot = torch.nn.functional.one_hot(label.long(), 3)
    torch.testing.assert_close(gradient, (p - onehot) / 4)


def test_softmax_with_loss_temperature_0_is_off():
    x, label = torch.randn(4, 3), torch.tensor([0.0, 1, 2, 1])
    cooled = loss_net("softmax_param { temperature: 0 }")({"x": x, "label": label})
    assert torch.equal(cooled, loss_net()({"x": x, "label": label}))


def test_softmax_with_loss_smooths_labels_as_loss_param_says():
    torch.manual_seed(0)
    values = {"x": torch.randn(4, 3), "label": torch.tensor([0.0, 2, 1, 255])}
    net = loss_net("loss_param { label_smoothing: 0.1 ignore_label: 255 }")
    want = torch.nn.functional.cross_entropy(
        values["x"], values["label"].long(), label_smoothing=0.1, ignore_index=255
    )
    torch.testing.assert_close(net(values), want)


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_softmax_with_loss_label_smoothing_out_of_range_fails(share):
    with pytest.raises(NetError, match=r"layer 'L' .*label_smoothing must be in 0\.\.1"):
        loss_net(f"loss_param {{ label_smoothing: {share} }}")
