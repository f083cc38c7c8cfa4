from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from caffe_kd.export.deploy import deploy
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.layers.loss_nets import input_net, layer_of

TINY = float(np.finfo(np.float32).tiny)


def net_of(param="", settings="", count=2, student=(8, 10), **shapes):
    """Build the layer on student, teacher, label and the teacher's loss, as many as ``count``."""
    positions = (student[0], 1, *student[2:])
    given = {"s": student, "t": student, "label": positions, "dense": positions} | shapes
    given = {name: given[name] for name in ("s", "t", "label", "dense")[:count]}
    bottoms = " ".join(f'bottom: "{name}"' for name in given)
    return input_net(
        given,
        f'layer {{ name: "L" type: "KnowledgeDistillation" {bottoms} top: "loss" {settings} '
        f"knowledge_distillation_param {{ {param} }} }}",
    )


def softmax(row, temperature):
    powers = np.exp((row - row.max()) / temperature)
    return powers / powers.sum()


def by_hand(student, teacher, temperature, counts, teaches, divisor):
    """Return value and gradient, position by position, for logits (N, C, places)."""
    value, gradient = 0.0, np.zeros_like(student)
    for n, place in np.ndindex(student.shape[0], student.shape[2]):
        if not counts[n, place]:
            continue
        p_s, p_t = (softmax(z[n, :, place], temperature) for z in (student, teacher))
        logs = np.log(np.maximum(p_t, TINY)) - np.log(np.maximum(p_s, TINY))
        value += (p_t * logs).sum()
        if teaches[n, place]:
            gradient[n, :, place] = temperature * (p_s - p_t)
    return value / divisor, gradient / divisor


@pytest.fixture
def logits():
    """The reference logits of student and teacher."""
    torch.manual_seed(0)
    return torch.randn(8, 10) * 3, torch.randn(8, 10) * 3


@pytest.fixture
def maps():
    """Logits of 2 samples with 6 places each, labels of which 3 are 255, and a loss at each."""
    torch.manual_seed(1)
    student, teacher = (torch.randn(2, 4, 3, 2, dtype=torch.float64) * 2 for _ in "st")
    labels = torch.randint(0, 4, (2, 1, 3, 2)).double()
    labels.view(-1)[[0, 4, 9]] = 255
    return student.requires_grad_(), teacher, labels, torch.rand(2, 1, 3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("param", "t2_times_value"),
    [("", 4.725994), ("temperature: 4", 8.001925), ("temperature: 20", 8.114460)],
)
def test_value_is_the_reference_without_the_square_of_the_temperature(
    logits, param, t2_times_value
):
    net = net_of(param)
    temperature = layer_of(net).param.temperature
    loss = net(dict(zip("st", logits, strict=True)))
    assert float(loss) == pytest.approx(t2_times_value / temperature**2, rel=2e-6)


@pytest.mark.parametrize("temperature", [1, 4, 20])
def test_gradient_is_that_of_distilling_loss_which_has_the_square(logits, temperature):
    # In float64: at T = 20 the probabilities nearly cancel, and float32 sums differ by processor.
    student, teacher = logits[0].double().requires_grad_(), logits[1].double()
    mine = net_of(f"temperature: {temperature}")({"s": student, "t": teacher})
    other = input_net(
        {"s": (8, 10), "t": (8, 10)},
        'layer { name: "L" type: "DistillingLoss" bottom: "s" bottom: "t" '
        f"distilling_loss_param {{ temperature: {temperature} }} }}",
    )({"s": student, "t": teacher})
    got, want = (torch.autograd.grad(loss, student)[0] for loss in (mine, other))
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mine * temperature**2, other, rtol=1e-9, atol=1e-12)


def test_at_temperature_1_the_gradient_is_that_of_the_value():
    student, teacher = (torch.randn(3, 4, dtype=torch.float64) for _ in "st")
    layer = layer_of(net_of(student=(3, 4)))
    assert gradcheck(lambda z: layer(z, teacher), student.requires_grad_())


@pytest.mark.parametrize(
    ("loss_param", "divisor"),
    [
        ("", 9),
        ("normalize: true", 9),
        ("normalization: FULL", 12),
        ("normalization: BATCH_SIZE", 2),
        ("normalize: false", 2),
        ("normalization: NONE", 1),
    ],
)
@pytest.mark.parametrize("filtered", [False, True])
def test_ignored_and_filtered_positions(maps, loss_param, divisor, filtered):
    student, teacher, labels, dense = maps
    param = "temperature: 3" + (" filter_teacher_pred: true filter_top_k: 2" if filtered else "")
    settings = f"loss_param {{ ignore_label: 255 {loss_param} }}"
    layer = layer_of(net_of(param, settings, count=4, student=(2, 4, 3, 2)))
    loss = layer(student, teacher, labels, dense)
    (gradient,) = torch.autograd.grad(loss, student)
    teaches = np.ones((2, 6), bool)
    for n in range(2 if filtered else 0):
        teaches[n, np.argsort(-dense[n].flatten().numpy())[:2]] = False
    flat = [z.detach().numpy().reshape(2, 4, 6) for z in (student, teacher)]
    counts = labels.numpy().reshape(2, 6) != 255
    value, want = by_hand(*flat, 3, counts, teaches, divisor)
    assert loss.item() == pytest.approx(value)
    np.testing.assert_allclose(gradient.numpy().reshape(2, 4, 6), want, rtol=1e-9, atol=1e-12)


def test_fourth_bottom_without_the_filter_does_nothing(maps):
    settings = "loss_param { ignore_label: 255 }"
    student = maps[0]
    both = []
    for count in (3, 4):
        layer = layer_of(net_of("temperature: 2", settings, count, (2, 4, 3, 2)))
        loss = layer(*maps[:count])
        both.append((loss.detach(), torch.autograd.grad(loss, student)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


def test_every_label_ignored_is_no_loss():
    net = net_of(settings="loss_param { ignore_label: 1 }", count=3, student=(3, 4))
    values = {"s": torch.randn(3, 4), "t": torch.randn(3, 4), "label": torch.ones(3, 1)}
    assert float(net(values)) == 0


def test_hopeless_student_has_a_finite_loss_and_learns():
    student = torch.tensor([[0.0, -400.0]], requires_grad=True)
    loss = layer_of(net_of(student=(1, 2)))(student, torch.tensor([[-400.0, 0.0]]))
    assert loss.item() == pytest.approx(-math.log(TINY))
    assert torch.autograd.grad(loss, student)[0].tolist() == [[1, -1]]


@pytest.mark.parametrize("propagate", ["", "propagate_down: true propagate_down: true"])
def test_teacher_gets_no_gradient(logits, propagate):
    student, teacher = (z.requires_grad_() for z in logits)
    loss = net_of(settings=propagate)({"s": student, "t": teacher})
    gradients = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert gradients[0].any()
    assert gradients[1] is None


def test_loss_weight_multiplies_value_and_gradient(logits):
    student, teacher = logits[0].requires_grad_(), logits[1]
    objectives = [
        net_of("temperature: 4", settings)({"s": student, "t": teacher})
        for settings in ("", "loss_weight: 0.25")
    ]
    torch.testing.assert_close(objectives[1], objectives[0] / 4)
    whole, quarter = (torch.autograd.grad(o, student)[0] for o in objectives)
    torch.testing.assert_close(quarter, whole / 4)


def test_axis_is_that_of_softmax_param():
    settings = "softmax_param { axis: -1 }"
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    last = net_of("temperature: 2", settings, student=(2, 3, 4))({"s": student, "t": teacher})
    rows = {"s": student.reshape(6, 4), "t": teacher.reshape(6, 4)}
    torch.testing.assert_close(last, net_of("temperature: 2", student=(6, 4))(rows))


def test_logits_in_channels_last_memory_give_the_same(maps):
    student, teacher = maps[0].detach(), maps[1]
    layer = layer_of(net_of(student=(2, 4, 3, 2)))
    other = [z.contiguous(memory_format=torch.channels_last) for z in (student, teacher)]
    torch.testing.assert_close(layer(*other), layer(student, teacher))


SPELT = """
layer {{ name: "s" type: "Input" top: "s" input_param {{ shape {{ dim: 8 dim: 10 }} }} }}
layer {{ name: "t" type: "Input" top: "t" input_param {{ shape {{ dim: 8 dim: 10 }} }} }}
layer {{ name: "L" type: "KnowledgeDistillation" bottom: "s" bottom: "t" {} }}
"""


def test_fork_with_a_capital_letter_is_read(logits):
    net = input_net({}, SPELT.format("Knowledge_distillation_param { temperature: 4 }"))
    loss = net(dict(zip("st", logits, strict=True)))
    assert float(loss) == pytest.approx(8.001925 / 16, rel=2e-6)


def test_both_spellings_at_once_are_refused():
    both = "Knowledge_distillation_param { } knowledge_distillation_param { }"
    with pytest.raises(NetError, match="can be given, not both"):
        input_net({}, SPELT.format(both))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"t": (8, 9)}, "classes of soft labels must match"),
        ({"t": (4, 10)}, "Outer number"),
        ({"t": (80,)}, "Outer number"),
        ({"param": "temperature: 0"}, "temperature must be above 0"),
        ({"param": "temperature: nan"}, "temperature must be above 0"),
        ({"count": 3}, "ignore_label is only valid when label inputs are given"),
        ({"settings": "loss_param { ignore_label: 1 }"}, "ignore_label is only valid"),
        (
            {"settings": "loss_param { ignore_label: 1 }", "count": 3, "label": (8, 2)},
            "Number of labels must match number of predictions",
        ),
        ({"param": "filter_teacher_pred: true"}, "needs the teacher's loss as fourth bottom"),
        (
            {
                "param": "filter_teacher_pred: true",
                "settings": "loss_param { ignore_label: 1 }",
                "count": 4,
                "dense": (8, 2),
            },
            "one value for each position",
        ),
        (
            {
                "param": "filter_teacher_pred: true filter_top_k: 2",
                "settings": "loss_param { ignore_label: 1 }",
                "count": 4,
            },
            "filter_top_k exceeds the positions of a sample",
        ),
    ],
)
def test_mistake_is_reported(arguments, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(KnowledgeDistillation\): .*{words}"):
        net_of(**arguments)


def test_deployed_net_is_the_student_alone():
    param = text.parse(
        """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
                inner_product_param { num_output: 3 } }
        layer { name: "teacher/fc" type: "InnerProduct" bottom: "x" top: "teacher/fc"
                inner_product_param { num_output: 3 } }
        layer { name: "kd" type: "KnowledgeDistillation" bottom: "fc" bottom: "teacher/fc"
                top: "kd" knowledge_distillation_param { temperature: 4 } }
        """,
        pb.NetParameter(),
    )
    assert [layer.name for layer in deploy(param).layer] == ["in", "fc"]
