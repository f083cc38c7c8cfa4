import pytest
import torch

from caffe_kd.losses.gradients import capped, scale_gradient


def test_capped_cuts_the_value_and_not_the_gradient():
    x = torch.tensor([1.0, 5.0, float("inf")], requires_grad=True)
    y = capped(x, 3.0)
    assert y.tolist() == [1, 3, 3]
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([1.0, 2.0, 3.0]))
    assert gradient.tolist() == [1, 2, 3]


@pytest.mark.parametrize("factor", [0.0, 1.0, -2.5])
def test_scale_gradient_changes_the_gradient_and_not_the_value(factor):
    x = torch.randn(3, requires_grad=True)
    y = scale_gradient(x, factor)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(gradient, 2 * factor * x.detach())
