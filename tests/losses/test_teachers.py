import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.teachers import join_classes, mean_logits, mean_probabilities


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return [torch.randn(3, 5, 2, dtype=torch.float64) * 3 for _ in range(3)]


WEIGHTS = [0.5, 0.2, 0.3]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("axis", [1, -1])
def test_mean_probabilities_softens_to_the_mean_of_the_teachers(logits, temperature, axis):
    got = mean_probabilities(logits, WEIGHTS, temperature=temperature, axis=axis)
    wanted = sum(
        w * torch.softmax(z / temperature, axis) for w, z in zip(WEIGHTS, logits, strict=True)
    )
    torch.testing.assert_close(torch.softmax(got / temperature, axis), wanted)


def test_mean_probabilities_of_one_teacher_is_its_answer(logits):
    got = mean_probabilities(logits[:1], [1.0])
    torch.testing.assert_close(torch.softmax(got, 1), torch.softmax(logits[0], 1))


def test_mean_probabilities_takes_no_notice_of_a_teacher_without_weight(logits):
    got = mean_probabilities(logits, [0.5, 0.0, 0.5])
    torch.testing.assert_close(got, mean_probabilities(logits[::2], [0.5, 0.5]))
    assert got.isfinite().all()


def test_mean_probabilities_of_very_sure_teachers_is_finite():
    sure = torch.tensor([[1000.0, -1000.0]])
    got = mean_probabilities([sure, -sure], [0.5, 0.5], temperature=1)
    torch.testing.assert_close(torch.softmax(got, 1), torch.tensor([[0.5, 0.5]]))


def test_mean_logits_softens_to_the_geometric_mean(logits):
    product = torch.ones_like(logits[0])
    for w, z in zip(WEIGHTS, logits, strict=True):
        product *= torch.softmax(z / 3, 1) ** w
    got = mean_logits(logits, WEIGHTS)
    torch.testing.assert_close(torch.softmax(got / 3, 1), product / product.sum(1, keepdim=True))


MEMBERS = torch.tensor([[3, 3], [0, 4]])
PADDING = torch.tensor([[False, True], [False, False]])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_join_classes_adds_probabilities(logits, temperature):
    got = join_classes(logits[0], MEMBERS, PADDING, temperature=temperature)
    p = torch.softmax(logits[0] / temperature, 1)
    sums = torch.stack([p[:, 3], p[:, 0] + p[:, 4]], 1)
    wanted = sums / sums.sum(1, keepdim=True)
    torch.testing.assert_close(torch.softmax(got / temperature, 1), wanted)


def test_join_classes_of_single_members_picks_them(logits):
    members = torch.tensor([[3], [0]])
    got = join_classes(logits[0], members, torch.zeros_like(members, dtype=torch.bool))
    assert torch.equal(got, logits[0][:, [3, 0]])


def test_join_classes_along_another_axis(logits):
    z = logits[0].movedim(1, 0)
    got = join_classes(z, MEMBERS, PADDING, axis=0)
    torch.testing.assert_close(got.movedim(0, 1), join_classes(logits[0], MEMBERS, PADDING))
    last = join_classes(logits[0].movedim(1, 2), MEMBERS, PADDING, axis=-1)
    torch.testing.assert_close(last.movedim(2, 1), join_classes(logits[0], MEMBERS, PADDING))


def test_gradients_of_teachers(logits):
    leaves = [z.requires_grad_() for z in logits]
    assert gradcheck(lambda *z: mean_probabilities(z, WEIGHTS), leaves)
    assert gradcheck(lambda *z: mean_logits(z, WEIGHTS), leaves)
    assert gradcheck(lambda z: join_classes(z, MEMBERS, PADDING), leaves[:1])
