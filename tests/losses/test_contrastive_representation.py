"""The contrastive loss: a plain re-implementation, and what it is at ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.losses.contrastive_representation import contrastive_representation, log_mean_score
from caffe_kd.losses.features import unit

# float64 sums of the same terms in another order.
EXACT = 1e-10


def embeddings(*counts, width=6):
    torch.manual_seed(1)
    return [unit(torch.randn(n, width, dtype=torch.float64)) for n in counts]


def by_hand(anchors, positives, negatives, c, temperature, counted=None):
    """-log h of the positive, and -log(1 - h) of each negative."""
    losses = []
    for i, (a, p) in enumerate(zip(anchors.numpy(), positives.numpy(), strict=True)):
        others = [n for j, n in enumerate(negatives.numpy()) if counted is None or counted[i, j]]
        count = len(others)

        def h(b, a=a, count=count):
            g = math.exp(a @ b / temperature) / c
            return g / (g + count)

        losses.append(-math.log(h(p)) - sum(math.log(1 - h(n)) for n in others))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_contrastive_representation_is_its_formula(temperature):
    a, p, n = embeddings(4, 4, 9)
    got = contrastive_representation(
        a, p, n, torch.tensor(math.log(1.7), dtype=torch.float64), temperature=temperature
    )
    assert float(got) == pytest.approx(by_hand(a, p, n, 1.7, temperature), rel=EXACT)


def test_contrastive_representation_leaves_out_what_does_not_count():
    a, p, n = embeddings(4, 4, 9)
    counted = torch.rand(4, 9) < 0.6
    assert len(set(counted.sum(1).tolist())) > 1
    zero = torch.zeros((), dtype=torch.float64)
    got = contrastive_representation(a, p, n, zero, counted=counted)
    assert float(got) == pytest.approx(by_hand(a, p, n, 1, 0.07, counted), rel=EXACT)


def test_contrastive_representation_of_drawn_negatives_is_that_of_each_anchors_own():
    a, p, n = embeddings(4, 4, 9)
    drawn = torch.randint(9, (4, 6))
    assert any(len(set(row)) < 6 for row in drawn.tolist())  # twice drawn counts twice
    zero = torch.zeros((), dtype=torch.float64)
    got = contrastive_representation(a, p, n, zero, drawn=drawn)
    each = [by_hand(a[i : i + 1], p[i : i + 1], n[drawn[i]], 1, 0.07) for i in range(4)]
    assert float(got) == pytest.approx(np.mean(each), rel=EXACT)
    counted = torch.rand(4, 6) < 0.6
    got = contrastive_representation(a, p, n, zero, drawn=drawn, counted=counted)
    each = [
        by_hand(a[i : i + 1], p[i : i + 1], n[drawn[i]], 1, 0.07, counted[i : i + 1])
        for i in range(4)
    ]
    assert float(got) == pytest.approx(np.mean(each), rel=EXACT)


def test_anchor_without_negatives_gives_neither_loss_nor_gradient():
    a, p, n = embeddings(2, 2, 3)
    a.requires_grad_()
    counted = torch.tensor([[False, False, False], [True, True, True]])
    zero = torch.zeros((), dtype=torch.float64)
    loss = contrastive_representation(a, p, n, zero, counted=counted)
    alone = contrastive_representation(a[1:], p[1:], n, zero)
    assert loss.item() == pytest.approx(alone.item() / 2, rel=EXACT)
    (gradient,) = torch.autograd.grad(loss, a)
    assert not gradient[0].any()
    assert gradient[1].isfinite().all() and gradient[1].any()


def test_mean_score_is_the_mean_over_all_pairs():
    a, p, n = embeddings(3, 3, 5)
    scores = [math.exp(x @ y / 0.2) for x, y in zip(a.numpy(), p.numpy(), strict=True)]
    scores += [math.exp(x @ y / 0.2) for x in a.numpy() for y in n.numpy()]
    want = math.log(np.mean(scores))
    assert float(log_mean_score(a, p, n, 0.2)) == pytest.approx(want, rel=EXACT)
    drawn = torch.tensor([[0, 0, 4], [1, 2, 3], [4, 2, 0]])
    scores = [math.exp(x @ y / 0.2) for x, y in zip(a.numpy(), p.numpy(), strict=True)]
    for x, rows in zip(a.numpy(), drawn.tolist(), strict=True):
        scores += [math.exp(x @ n.numpy()[row] / 0.2) for row in rows]
    want = math.log(np.mean(scores))
    assert float(log_mean_score(a, p, n, 0.2, drawn)) == pytest.approx(want, rel=EXACT)


def test_contrastive_representation_has_the_gradient_of_its_value():
    a, p, n = (x.requires_grad_() for x in embeddings(3, 3, 5))
    c = torch.tensor(0.3, dtype=torch.float64)
    for drawn in (None, torch.randint(5, (3, 4))):
        assert gradcheck(
            lambda x, y, z, drawn=drawn: contrastive_representation(
                x, y, z, c, temperature=0.5, drawn=drawn
            ),
            (a, p, n),
        )


def test_contrastive_representation_prefers_an_anchor_at_its_positive():
    p, n = embeddings(3, 8)
    c = torch.zeros((), dtype=torch.float64)
    near, far = (float(contrastive_representation(x, p, n, c)) for x in (p, -p))
    assert 0 < near < far


def test_similarities_at_the_ends_give_finite_values_in_float32():
    a = torch.eye(2, 4)
    loss = contrastive_representation(a, -a, a, torch.tensor(14.0), temperature=0.01)
    assert loss.isfinite()
