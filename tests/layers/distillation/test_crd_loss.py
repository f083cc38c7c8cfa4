from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.export.deploy import deploy
from caffe_kd.losses.features import unit
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import check_state_goes_on, gradcheck, layer_net, make_layer, run

# float32 sums of the same terms in another order, with exponents up to 1 / temperature.
CLOSE = 1e-5


def body(negatives=8, temperature=0.5, extra=""):
    param = f"negatives: {negatives} temperature: {temperature}"
    return f'type: "CRDLoss" {extra} crd_loss_param {{ {param} }}'


def batches(count, records=4, width=5, classes=3):
    torch.manual_seed(2)
    return [
        (
            torch.randn(records, width),
            torch.randn(records, width),
            torch.randint(classes, (records,)).float(),
        )
        for _ in range(count)
    ]


class ByHand:
    """The layer once more: lists of pairs, probabilities, logarithms."""

    def __init__(self, negatives=8, temperature=0.5):
        self.negatives, self.temperature = negatives, temperature
        self.queue = []  # (student, teacher, class), the newest last
        self.constants = None

    def __call__(self, student, teacher, labels=None):
        records = [
            (s.double().numpy(), t.double().numpy(), None if labels is None else float(labels[i]))
            for i, (s, t) in enumerate(zip(unit(student), unit(teacher), strict=True))
        ]
        loss = 0.0
        if self.queue:
            sides = [(0, 1), (1, 0)]
            if self.constants is None:
                self.constants = [self.mean_score(records, *side) for side in sides]
            for (own, other), c in zip(sides, self.constants, strict=True):
                loss += np.mean([self.side(r, own, other, c) for r in records])
        self.queue = [*self.queue, *records][-self.negatives :]
        return loss

    def score(self, a, b):
        return math.exp(a @ b / self.temperature)

    def mean_score(self, records, own, other):
        scores = [self.score(r[own], r[other]) for r in records]
        scores += [self.score(r[own], m[other]) for r in records for m in self.queue]
        return np.mean(scores)

    def side(self, record, own, other, c):
        label = record[2]
        strangers = [m for m in self.queue if label is None or m[2] != label]

        def h(b):
            g = self.score(record[own], b) / c
            return g / (g + len(strangers))

        return -math.log(h(record[other])) - sum(math.log(1 - h(m[other])) for m in strangers)


@pytest.mark.parametrize("with_label", [False, True])
@pytest.mark.parametrize("negatives", [3, 8, 100])
def test_crd_loss_is_its_formula_batch_after_batch(negatives, with_label):
    shapes = [(4, 5), (4, 5), (4,)][: 3 if with_label else 2]
    layer, by_hand = make_layer(body(negatives), *shapes), ByHand(negatives)
    losses = []
    for batch in batches(5):
        values = batch[: len(shapes)]
        losses.append(run(layer, *values)[0].item())
        assert losses[-1] == pytest.approx(by_hand(*values), rel=CLOSE)
    assert losses[0] == 0
    assert min(losses[1:]) > 1


def test_crd_loss_holds_sixteen_thousand_embeddings_at_007_by_default():
    layer = make_layer('type: "CRDLoss"', (4, 5), (4, 5))
    by_hand = ByHand(16384, 0.07)
    for batch in batches(2):
        got = layer(*batch[:2]).item()
        assert got == pytest.approx(by_hand(*batch[:2]), rel=CLOSE)
    full = {"student": (16383, 5), "teacher": (16383, 5), "classes": (16383,), "log_means": (2,)}
    layer.restore({name: np.ones(shape, np.float32) for name, shape in full.items()})
    layer(*batch[:2])
    assert {k: v.shape for k, v in layer.state().items() if k != "log_means"} == {
        "student": (16384, 5),
        "teacher": (16384, 5),
        "classes": (16384,),
    }


def test_crd_loss_takes_embeddings_of_any_form():
    flat, maps = make_layer(body(), (4, 6), (4, 6)), make_layer(body(), (4, 6, 1, 1), (4, 3, 2))
    for s, t, _ in batches(3, width=6):
        assert torch.equal(flat(s, t), maps(s.reshape(4, 6, 1, 1), t.reshape(4, 3, 2)))


@pytest.mark.parametrize("with_label", [False, True])
def test_crd_loss_has_the_gradient_of_its_value(with_label):
    """The same memory each time: as the layer stood before the batch."""
    shapes = [(4, 5), (4, 5), (4,)][: 3 if with_label else 2]
    layer = make_layer(body(), *shapes)
    earlier, another, *_ = batches(2)
    layer(*(v.double() for v in earlier[: len(shapes)]))
    layer(*(v.double() for v in earlier[: len(shapes)]))
    state = layer.state()
    label = another[2]
    plain = layer.forward

    def forward(s, t):
        layer.restore(state)
        return plain(s, t, label) if with_label else plain(s, t)

    layer.forward = forward
    gradcheck(layer, *another[:2])


def gradients(extra, batch, before):
    shapes = [tuple(v.shape) for v in batch]
    net = layer_net(body(extra=extra), *shapes)
    net({f"x{i}": v for i, v in enumerate(before)})
    leaves = [v.clone().requires_grad_() for v in batch]
    objective = net({f"x{i}": v for i, v in enumerate(leaves)})
    return torch.autograd.grad(objective, leaves, allow_unused=True)


def test_crd_loss_lets_both_embeddings_learn_but_no_label():
    before, batch = batches(2)
    student, teacher, label = gradients("", batch, before)
    assert student.any() and teacher.any()
    assert label is None
    flags = "propagate_down: true propagate_down: false propagate_down: false"
    student, teacher, _ = gradients(flags, batch, before)
    assert student.any()
    assert teacher is None


@pytest.mark.parametrize("records", [1, 4])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_crd_loss_of_silent_or_equal_embeddings_has_ordinary_values(records, value):
    flat = torch.full((records, 5), value)
    for g in gradients("", (flat, flat), (flat, flat)):
        assert g.isfinite().all()
        assert g.abs().max() < 100
    first = layer_net(body(), (records, 5), (records, 5))
    leaf = flat.clone().requires_grad_()
    objective = first({"x0": leaf, "x1": flat})
    assert objective.item() == 0
    assert not torch.autograd.grad(objective, leaf)[0].any()


def test_crd_loss_of_an_equal_student_is_less_than_that_of_another_and_above_zero():
    losses = {}
    for equal in (True, False):
        layer = make_layer(body(64), (16, 8), (16, 8))
        for s, t, _ in batches(4, 16, 8):
            losses[equal] = layer(t if equal else s, t).item()
    assert 0 < losses[True] < losses[False]


def test_student_learns_by_crd_loss_what_its_teacher_says_of_a_record():
    """Student and teacher see the same samples through other projections."""
    torch.manual_seed(0)
    records = torch.randn(512, 6)
    teacher = records @ torch.randn(6, 8)
    student, embed = torch.nn.Linear(6, 4), torch.nn.Linear(8, 4)
    layer = make_layer(body(256, 0.1), (64, 4), (64, 4))
    optimizer = torch.optim.Adam([*student.parameters(), *embed.parameters()], 0.01)

    def found():
        """The share of samples whose own teacher is the nearest of all."""
        s, t = unit(student(records)), unit(embed(teacher))
        return ((s @ t.T).argmax(1) == torch.arange(512)).float().mean().item()

    before = found()
    for step in range(240):
        rows = slice(step % 8 * 64, step % 8 * 64 + 64)
        optimizer.zero_grad()
        layer(student(records[rows]), embed(teacher[rows])).backward()
        optimizer.step()
    assert before < 0.05
    assert found() > 0.5


# ---- going on later


@pytest.mark.parametrize("done", [0, 1, 3])
def test_crd_loss_goes_on_as_if_never_interrupted(tmp_path, done):
    shapes = [(4, 5), (4, 5), (4,)]
    whole, later = make_layer(body(), *shapes), make_layer(body(), *shapes)
    check_state_goes_on(whole, later, batches(6), done, tmp_path / "state.npz")


def test_crd_loss_state_is_that_of_the_moment():
    layer, (first, second) = make_layer(body(), (4, 5), (4, 5), (4,)), batches(2)
    layer(*first)
    state = layer.state()
    before = {name: value.copy() for name, value in state.items()}
    layer(*second)
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(("negatives", "width"), [(3, 5), (8, 4)])
def test_crd_loss_refuses_the_state_of_another(negatives, width):
    layer = make_layer(body(), (4, 5), (4, 5))
    layer(*batches(1)[0][:2])
    other = make_layer(body(negatives), (4, width), (4, width))
    with pytest.raises(ValueError, match=f"stores {negatives} embeddings of {width} values"):
        other.restore(layer.state())


# ---- where it stands


def test_crd_loss_and_its_embeddings_are_absent_from_deployment():
    net = """
    layer { name: "in" type: "Input" top: "data" top: "label"
            input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
            inner_product_param { num_output: 4 } }
    layer { name: "teacher/ip" type: "InnerProduct" bottom: "data" top: "teacher/ip"
            inner_product_param { num_output: 6 } }
    layer { name: "s" type: "InnerProduct" bottom: "ip" top: "s"
            inner_product_param { num_output: 5 } }
    layer { name: "t" type: "InnerProduct" bottom: "teacher/ip" top: "t"
            inner_product_param { num_output: 5 } }
    layer { name: "crd" type: "CRDLoss" bottom: "s" bottom: "t" bottom: "label" top: "crd" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
    """
    deployed = deploy(text.parse(net, pb.NetParameter(), "net.prototxt"))
    assert [layer.name for layer in deployed.layer] == ["in", "ip"]


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        ([(4, 5), (4, 6)], "", "same number of values per sample"),
        ([(4, 5), (3, 5)], "", "same number of samples"),
        ([(4, 5), (4, 5), (8,)], "", r"one label for each sample. Received: .*label=\(8,\)"),
        ([(4, 5), (4, 5)], "negatives: 0", "negatives must be at least 1"),
        ([(4, 5), (4, 5)], "temperature: 0", "temperature must be above 0"),
        ([(4, 5), (4, 5)], "negatives: 4294967295", "the memory of negatives is too large"),
    ],
)
def test_crd_loss_that_cannot_be_is_reported(shapes, settings, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(CRDLoss\): .*{words}"):
        make_layer(f'type: "CRDLoss" crd_loss_param {{ {settings} }}', *shapes)
