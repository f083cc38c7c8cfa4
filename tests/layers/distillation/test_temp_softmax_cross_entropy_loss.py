from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from tests.layers.loss_nets import input_net, layer_of


def net_of(param="", settings="", student=(6, 5), teacher=None):
    return input_net(
        {"s": student, "t": teacher or student},
        'layer { name: "L" type: "TempSoftmaxCrossEntropyLoss" bottom: "s" bottom: "t" '
        f'top: "loss" {settings} tempsoftmax_param {{ {param} }} }}',
    )


def logits(shape=(6, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(shape, dtype=torch.float64, generator=generator) * 3 for _ in "st"
    )
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(("param", "temperature"), [("", 2), ("temperature: 5", 5)])
@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3), (2, 3, 2, 2)])
def test_value_and_gradient_are_their_formulas(param, temperature, shape):
    student, teacher = logits(shape)
    loss = layer_of(net_of(param, student=shape))(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    value, want = 0.0, np.zeros(shape)
    for n in range(shape[0]):
        z_s, z_t = (z[n].detach().numpy() for z in (student, teacher))
        z_s, z_t = z_s - z_s.mean(), z_t - z_t.mean()
        p_s, p_t = (np.exp(z / temperature) for z in (z_s, z_t))
        p_s, p_t = p_s / p_s.sum(0), p_t / p_t.sum(0)
        value -= (p_t * np.log(p_s)).sum()
        want[n] = (z_s - z_t) / (shape[1] * temperature**2)
    assert loss.item() == pytest.approx(value / shape[0])
    np.testing.assert_allclose(gradient.numpy(), want / shape[0], rtol=1e-9)


def test_gradient_is_near_that_of_the_value_at_a_high_temperature():
    student, teacher = logits()
    temperature = 1000
    mine = layer_of(net_of(f"temperature: {temperature}"))(student, teacher)
    p_t = torch.softmax(teacher / temperature, 1)
    exact = -(p_t * torch.log_softmax(student / temperature, 1)).sum() / 6
    torch.testing.assert_close(mine, exact)
    got, want = (torch.autograd.grad(loss, student)[0] for loss in (mine, exact))
    # What is left out is smaller by the logits, at most about 10, divided by the temperature.
    torch.testing.assert_close(got, want, rtol=0, atol=0.02 * float(want.abs().max()))


def test_adding_a_constant_to_all_logits_of_a_record_changes_nothing():
    student, teacher = logits()
    shifted = (student.detach() + torch.arange(6.0).view(6, 1)).requires_grad_()
    layer = layer_of(net_of())
    losses = [layer(z, teacher) for z in (student, shifted)]
    gradients = [
        torch.autograd.grad(loss, z)[0] for loss, z in zip(losses, (student, shifted), strict=True)
    ]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_equal_student_has_the_entropy_as_loss_and_no_gradient():
    student, _ = logits()
    loss = layer_of(net_of())(student, student.detach().clone())
    entropy = torch.distributions.Categorical(logits=student.detach() / 2).entropy().mean()
    torch.testing.assert_close(loss.detach(), entropy)
    assert not torch.autograd.grad(loss, student)[0].any()


def test_teacher_gets_no_gradient_and_loss_weight_scales_the_students():
    student, teacher = (z.detach().float().requires_grad_() for z in logits())
    gradients = []
    for settings in ("", "loss_weight: 0.25 propagate_down: true propagate_down: true"):
        loss = net_of(settings=settings)({"s": student, "t": teacher})
        gradients.append(torch.autograd.grad(loss, (student, teacher), allow_unused=True))
    torch.testing.assert_close(gradients[1][0], gradients[0][0] / 4)
    assert gradients[0][1] is gradients[1][1] is None


def test_hopeless_student_has_a_finite_loss():
    student = torch.tensor([[0.0, -900.0]])
    loss = layer_of(net_of(student=(1, 2)))(student, -student)
    assert float(loss) == pytest.approx(-math.log(np.finfo(np.float32).tiny))


def test_axis_is_that_of_softmax_param():
    student, teacher = logits((2, 3, 4))
    layer = layer_of(net_of("temperature: 2", "softmax_param { axis: -1 }", (2, 3, 4)))
    p_t = torch.softmax(teacher / 2, -1)
    want = -(p_t * torch.log_softmax(student / 2, -1)).sum() / 2
    torch.testing.assert_close(layer(student, teacher), want)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"param": "temperature: 1"}, "softmax temperature of greater than 1"),
        ({"param": "temperature: inf"}, "softmax temperature of greater than 1"),
        ({"teacher": (5, 5)}, "same first dimension"),
        ({"teacher": (6, 4)}, "layer inputs must have the same count"),
        ({"student": (6,)}, "at least 2 axes"),
    ],
)
def test_mistake_is_reported(arguments, words):
    with pytest.raises(NetError, match=words):
        net_of(**arguments)
