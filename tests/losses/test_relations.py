"""The losses on relations: reference values, plain re-implementations, what they are at ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caffe_kd.losses import relations
from tests.losses.reference_values import REFERENCE, reference_tensors

# float64 sums of the same terms in another order.
EXACT = 1e-10

ALL = {
    "sp": relations.similarity_preserving,
    "rkd-d": relations.relational_distance,
    "rkd-a": relations.relational_angle,
    "pkt": relations.probabilistic_transfer,
    "cc": relations.correlation_congruence,
    "graph": relations.sample_graph,
    "graph of 2 neighbours": lambda s, t: relations.sample_graph(s, t, neighbours=2),
}


@pytest.fixture
def values():
    return reference_tensors()


def rows(*shapes):
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def test_similarity_preserving_has_the_reference_value(values):
    loss = relations.similarity_preserving(values.fs, values.ft)
    assert float(loss) == pytest.approx(0.00381151, rel=REFERENCE)


def test_relational_distance_and_angle_have_the_reference_value(values):
    distance = relations.relational_distance(values.es, values.et)
    angle = relations.relational_angle(values.es, values.et)
    assert float(25 * distance + 50 * angle) == pytest.approx(3.456091, rel=REFERENCE)


def test_probabilistic_transfer_has_the_reference_value(values):
    loss = relations.probabilistic_transfer(values.es, values.et)
    assert float(loss) == pytest.approx(0.00543279, rel=REFERENCE)


def test_correlation_congruence_has_the_reference_value(values):
    loss = relations.correlation_congruence(values.es, values.et)
    assert float(loss) == pytest.approx(20.508078, rel=REFERENCE)


# ---- the formulas once more, in loops


def length_one(vector):
    size = np.sqrt((vector**2).sum())
    return vector / size if size else vector


def smooth(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def test_similarity_preserving_is_its_formula():
    s, t = rows((5, 3, 2, 2), (5, 7))

    def alike(x):
        x = x.flatten(1).numpy()
        return np.array([length_one(np.array([a @ b for b in x])) for a in x])

    want = ((alike(s) - alike(t)) ** 2).sum() / 25
    assert float(relations.similarity_preserving(s, t)) == pytest.approx(want, rel=EXACT)


def test_relational_distance_is_its_formula():
    s, t = rows((5, 3), (5, 4))
    t[1] = t[0] + 30  # far enough for the linear part

    def far(x):
        d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x.numpy()] for a in x.numpy()])
        return d / d[d > 0].mean()

    want = np.mean([smooth(x) for x in (far(s) - far(t)).flatten()])
    assert max(abs(far(s) - far(t)).flatten()) > 1
    assert float(relations.relational_distance(s, t)) == pytest.approx(want, rel=EXACT)


def test_relational_angle_is_its_formula():
    s, t = rows((4, 3), (4, 5))

    def cosines(x):
        x = x.numpy()
        directions = [[length_one(b - a) for b in x] for a in x]
        return np.array([[[p @ q for q in d] for p in d] for d in directions])

    want = np.mean([smooth(x) for x in (cosines(s) - cosines(t)).flatten()])
    assert float(relations.relational_angle(s, t)) == pytest.approx(want, rel=EXACT)


def test_probabilistic_transfer_is_its_formula():
    s, t = rows((5, 3), (5, 4))

    def probabilities(x):
        x = [length_one(a) for a in x.numpy()]
        near = np.array([[(a @ b + 1) / 2 for b in x] for a in x])
        return near / near.sum(1, keepdims=True)

    p_s, p_t = probabilities(s), probabilities(t)
    want = np.mean(p_t * np.log((p_t + 1e-7) / (p_s + 1e-7)))
    assert float(relations.probabilistic_transfer(s, t)) == pytest.approx(want, rel=EXACT)


def test_correlation_congruence_is_its_formula():
    s, t = rows((5, 3), (5, 3))
    d = (s - t).abs().numpy()
    want = np.mean([sum(a * b for a, b in zip(d[i], d[i + 1], strict=True)) for i in range(4)])
    assert float(relations.correlation_congruence(s, t)) == pytest.approx(want, rel=EXACT)


@pytest.mark.parametrize("neighbours", [0, 1, 2, 4, 9])
@pytest.mark.parametrize(("node_weight", "edge_weight"), [(1, 1), (0, 2), (3, 0)])
def test_sample_graph_is_its_formula(neighbours, node_weight, edge_weight):
    s, t = rows((6, 3), (6, 3))
    x_s, x_t = ([length_one(a) for a in x.numpy()] for x in (s, t))
    a_s, a_t = (np.array([[a @ b for b in x] for a in x]) for x in (x_s, x_t))
    edges = set()
    for a in (a_s, a_t):
        for i in range(6):
            others = sorted((j for j in range(6) if j != i), key=lambda j: -a[i, j])
            edges |= {(i, j) for j in others[: neighbours or 5]}
    nodes = np.mean([((p - q) ** 2).sum() for p, q in zip(x_s, x_t, strict=True)])
    lines = np.mean([(a_s[e] - a_t[e]) ** 2 for e in edges])
    got = relations.sample_graph(
        s, t, neighbours=neighbours, node_weight=node_weight, edge_weight=edge_weight
    )
    assert float(got) == pytest.approx(node_weight * nodes + edge_weight * lines, rel=EXACT)


def test_sample_graph_counts_an_edge_that_only_the_student_draws():
    turn = torch.tensor([0.0, 0.1, 2.0, 2.1], dtype=torch.float64)
    teacher = torch.stack([turn.cos(), turn.sin()], 1)
    student = teacher[[0, 3, 2, 1]]  # samples 1 and 3 exchanged: other nearest neighbours

    def loss(neighbours):
        return relations.sample_graph(student, teacher, neighbours=neighbours, node_weight=0)

    assert float(loss(1)) > 1  # all edges are wrong: each net's nearest are far in the other
    assert float(loss(0)) < float(loss(1))  # of all edges some are right


# ---- at the ends


@pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
def test_loss_of_an_equal_student_is_zero(loss):
    (x,) = rows((6, 4))
    assert float(loss(x, x.clone())) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("name", ["sp", "rkd-d", "rkd-a", "pkt"])
def test_relation_minds_neither_scale_nor_rotation(name):
    """Embeddings may differ in size and direction: their relations count."""
    x, turn = rows((6, 4), (4, 4))
    rotation = torch.linalg.qr(turn).Q
    assert float(ALL[name](3 * x @ rotation, x)) == pytest.approx(0, abs=1e-15)


def test_relational_losses_mind_no_shift():
    (x,) = rows((6, 4))
    assert float(relations.relational_distance(x + 7, x)) == pytest.approx(0, abs=1e-12)
    assert float(relations.relational_angle(x + 7, x)) == pytest.approx(0, abs=1e-12)
