"""Fake quantisation: levels, gradients, and the steps that are found."""

from __future__ import annotations

import pytest
import torch

from caffe_kd.layers.shared import fake_quantize


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_are_those_of_torch_s_fake_quantization(bits):
    x = torch.randn(500) * 3
    step, zero = fake_quantize.step_and_zero(x.min(), x.max() / 2, bits)
    most = 2**bits - 1
    got = fake_quantize.values(x, step, zero, bits)
    want = torch.fake_quantize_per_tensor_affine(x, float(step), int(zero), 0, most)
    # The two divide differently, so that a value between two levels may fall to either.
    assert ((got - want).abs() <= step * 1.001).all()
    assert (got == want).float().mean() > 0.99
    assert len(got.unique()) <= most + 1
    assert fake_quantize.values(torch.zeros(1), step, zero, bits) == 0


def test_pixels_of_256_levels_are_kept_exactly():
    pixels = torch.arange(256) / 256
    step, zero = fake_quantize.step_and_zero(pixels.min(), pixels.max(), 8)
    assert (step, zero) == (1 / 256, 0)
    assert torch.equal(fake_quantize.values(pixels, step, zero, 8), pixels)


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_range_includes_0_and_no_step_is_0(low, high):
    step, zero = fake_quantize.step_and_zero(torch.tensor(low), torch.tensor(high), 8)
    assert step > 0
    assert 0 <= zero <= 255
    ends = torch.tensor([low, high])
    assert torch.allclose(fake_quantize.values(ends, step, zero, 8), ends, atol=float(step) / 2)


def test_weights_have_steps_of_their_own_in_each_channel_of_an_axis():
    weight = torch.tensor([[1.0, 100.0], [-0.4, 30.0]])
    steps = fake_quantize.weight_steps(weight, 8, axis=1)
    assert torch.allclose(steps, torch.tensor([1 / 127, 100 / 127]))
    rounded = fake_quantize.weights(weight, steps, 8, axis=1)
    assert torch.allclose(rounded, weight, atol=0.4)
    assert torch.allclose(rounded[:, 0], weight[:, 0], atol=0.004)


def test_ternary_weights_have_a_smaller_error_than_with_the_greatest_as_step():
    weight = torch.randn(6, 50)
    steps = fake_quantize.weight_steps(weight, 2)
    rounded = fake_quantize.weights(weight, steps, 2)
    assert all(len(row.unique()) <= 3 for row in rounded)
    coarse = fake_quantize.weights(weight, weight.abs().amax(1), 2)
    error, other = ((r - weight).square().sum(1) for r in (rounded, coarse))
    assert (error < other).all()


def test_bias_lies_on_the_grid_of_the_sums():
    bias, steps = torch.tensor([0.31, -2.0]), torch.tensor([0.1, 0.3])
    assert torch.allclose(fake_quantize.biases(bias, steps), torch.tensor([0.3, -2.1]))
    # A channel of zeros has a tiny step; what int32 holds is the limit.
    assert fake_quantize.bias_levels(torch.tensor(5.0), torch.tensor(1e-12)) == 2**30


def test_gradient_passes_inside_the_range_alone():
    x = torch.tensor([-1.0, 0.26, 0.9, 7.0], requires_grad=True)
    step, zero = torch.tensor(0.1), torch.tensor(0.0)
    fake_quantize.values(x, step, zero, 4).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_step_learns_as_in_the_paper():
    x = torch.tensor([[-1.0, 0.26, 0.94, 7.0]])
    step = torch.tensor(0.1, requires_grad=True)
    fake_quantize.values(x, step, torch.tensor(2.0), 4).sum().backward()
    # Below: the lowest level less zero; inside: level less value in steps; above: the highest.
    slopes = [0 - 2, 3 - 2.6, 9 - 9.4, 15 - 2]
    assert float(step.grad) == pytest.approx(sum(slopes) / (4 * 15) ** 0.5, rel=1e-4)


def test_step_of_each_channel_learns_by_its_own_weights():
    weight = torch.tensor([[0.26, 9.0], [0.5, 0.5]])
    steps = torch.tensor([0.1, 1.0], requires_grad=True)
    fake_quantize.weights(weight, steps, 4).sum().backward()
    scale = (2 * 7) ** -0.5
    want = [(3 - 2.6 + 7) * scale, 2 * (0 - 0.5) * scale]  # 0.5 is rounded to the even level, 0
    assert steps.grad.tolist() == pytest.approx(want, rel=1e-4)
