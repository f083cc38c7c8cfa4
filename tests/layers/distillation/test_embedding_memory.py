"""CRDLoss with a bank: what it holds of each sample, and how it draws from that."""

from __future__ import annotations

import io
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.export.deploy import deploy
from caffe_kd.layers.distillation.embedding_memory import Bank
from caffe_kd.logs.log import Log
from caffe_kd.losses.features import unit
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from tests.helpers import check_state_goes_on, gradcheck, layer_net, make_layer, run

# float32 sums of the same terms in another order, with exponents up to 1 / temperature.
CLOSE = 1e-5
RECORDS, WIDTH = 10, 5


def body(negatives=6, temperature=0.5, extra="", records=RECORDS):
    param = f"records: {records} negatives: {negatives} temperature: {temperature} {extra}"
    return f'type: "CRDLoss" crd_loss_param {{ {param} }}'


def batches(count, size=4, classes=3):
    """Batches with label and numbers; a sample keeps its class, not its values."""
    torch.manual_seed(2)
    found = []
    for _ in range(count):
        numbers = torch.randperm(RECORDS)[:size].float()
        pair = (torch.randn(size, WIDTH), torch.randn(size, WIDTH))
        found.append((*pair, numbers % classes, numbers))
    return found


class ByHand:
    """The layer once more, sample by sample: a dict, probabilities, logarithms."""

    def __init__(self, layer, with_label, momentum=0.5, temperature=0.5, negatives=6):
        self.draw = torch.Generator()
        self.draw.set_state(torch.from_numpy(layer.state()["generator"]))  # the same draws
        self.with_label, self.momentum = with_label, momentum
        self.temperature, self.negatives = temperature, negatives
        self.rows = {}  # number: [student, teacher, class], in the order of their first batches
        self.constants = None

    def __call__(self, student, teacher, labels, numbers):
        batch = [
            (s.double().numpy(), t.double().numpy(), float(label), int(number))
            for s, t, label, number in zip(
                unit(student), unit(teacher), labels, numbers, strict=True
            )
        ]
        loss = 0.0
        if self.rows:
            shape = (len(batch), self.negatives)
            rows = list(self.rows)
            drawn = torch.randint(len(rows), shape, generator=self.draw).tolist()
            looked = [[rows[i] for i in draws] for draws in drawn]
            if self.constants is None:
                self.constants = [self.mean_score(batch, looked, *x) for x in ((0, 1), (1, 0))]
            for (own, other), c in zip(((0, 1), (1, 0)), self.constants, strict=True):
                sides = [self.side(r, d, own, other, c) for r, d in zip(batch, looked, strict=True)]
                loss += np.mean(sides)
        for record in batch:
            self.store(record)
        return loss

    def score(self, a, b):
        return math.exp(a @ b / self.temperature)

    def mean_score(self, batch, looked, own, other):
        scores = [self.score(r[own], r[other]) for r in batch]
        for record, numbers in zip(batch, looked, strict=True):
            scores += [self.score(record[own], self.rows[n][other]) for n in numbers]
        return np.mean(scores)

    def side(self, record, drawn, own, other, c):
        strangers = [
            self.rows[n][other]
            for n in drawn
            if n != record[3] and not (self.with_label and self.rows[n][2] == record[2])
        ]

        def h(b):
            g = self.score(record[own], b) / c
            return g / (g + len(strangers))

        return -math.log(h(record[other])) - sum(math.log(1 - h(b)) for b in strangers)

    def store(self, record):
        *sides, label, number = record
        for side, new in enumerate(sides):
            row = self.rows.setdefault(number, [None, None, None])
            if row[side] is None:
                row[side] = new
            else:
                mixed = self.momentum * row[side] + (1 - self.momentum) * new
                row[side] = mixed / math.sqrt(sum(x * x for x in mixed))
            row[2] = label


def chosen(batch, with_label):
    return batch if with_label else (batch[0], batch[1], batch[3])


def bank(with_label=True, size=4, **settings):
    shapes = [(size, WIDTH), (size, WIDTH), (size,), (size,)]
    return make_layer(body(**settings), *shapes[: 4 if with_label else 3])


@pytest.mark.parametrize("with_label", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.0, 0.9])
def test_bank_is_its_formula_batch_after_batch(momentum, with_label):
    layer = bank(with_label, extra="" if momentum is None else f"momentum: {momentum}")
    by_hand = ByHand(layer, with_label, 0.5 if momentum is None else momentum)
    losses = []
    for batch in batches(8):
        losses.append(run(layer, *chosen(batch, with_label))[0].item())
        assert losses[-1] == pytest.approx(by_hand(*batch), rel=CLOSE)
    assert losses[0] == 0
    assert min(losses[1:]) > 0.5
    assert len(by_hand.rows) == RECORDS


def test_bank_has_one_row_a_record_of_length_one():
    layer = bank()
    by_hand = ByHand(layer, True)
    for batch in batches(8):
        layer(*batch)
        by_hand(*batch)
    state = layer.state()
    assert state["numbers"].tolist() == list(by_hand.rows)
    for row, (number, wanted) in enumerate(by_hand.rows.items()):
        np.testing.assert_allclose(state["student"][row], wanted[0], atol=CLOSE)
        np.testing.assert_allclose(state["teacher"][row], wanted[1], atol=CLOSE)
        assert state["classes"][row] == wanted[2] == number % 3


def test_bank_of_the_paper_is_the_default():
    """16384 drawn, 0.07, momentum 0.5."""
    layer = make_layer(
        f'type: "CRDLoss" crd_loss_param {{ records: {RECORDS} }}', (4, 5), (4, 5), (4,), (4,)
    )
    by_hand = ByHand(layer, True, temperature=0.07, negatives=16384)
    for batch in batches(4):
        assert layer(*batch).item() == pytest.approx(by_hand(*batch), rel=CLOSE)


def test_record_that_comes_twice_in_a_batch_is_held_as_it_came_last():
    layer = bank()
    s, t, label, _ = batches(1)[0]
    layer(s, t, label, torch.tensor([3.0, 1.0, 3.0, 3.0]))
    state = layer.state()
    assert state["numbers"].tolist() == [3, 1]
    np.testing.assert_allclose(state["student"], unit(s)[[3, 1]].numpy(), rtol=CLOSE)


def test_bank_without_other_records_gives_nothing():
    layer = bank(size=1)
    for _ in range(3):
        s, t = (torch.randn(1, WIDTH).requires_grad_() for _ in range(2))
        loss = layer(s, t, torch.zeros(1), torch.tensor([7.0]))
        assert loss.item() == 0
        assert not any(g.any() for g in torch.autograd.grad(loss, (s, t)))


@pytest.mark.parametrize("with_label", [False, True])
def test_bank_has_the_gradient_of_its_value(with_label):
    """The same memory and draws each time: as the layer stood before the batch."""
    layer = bank(with_label)
    *earlier, last = batches(4)
    for batch in earlier:
        layer(*(v.double() for v in chosen(batch, with_label)))
    state = layer.state()
    plain, rest = layer.forward, chosen(last, with_label)[2:]

    def forward(s, t):
        layer.restore(state)
        return plain(s, t, *rest)

    layer.forward = forward
    gradcheck(layer, *last[:2])


def test_bank_learns_in_a_net_while_its_memory_fills():
    """A gradient is taken after the batch was handed over; neither label nor number gets one."""
    net = layer_net(body(), (4, WIDTH), (4, WIDTH), (4,), (4,))
    for batch in batches(4):
        leaves = [v.clone().requires_grad_() for v in batch]
        objective = net({f"x{i}": v for i, v in enumerate(leaves)})
        gradients = torch.autograd.grad(objective, leaves, allow_unused=True)
    assert gradients[0].any() and gradients[1].any()
    assert gradients[2:] == (None, None)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_bank_of_silent_or_equal_embeddings_has_ordinary_values(value):
    net = layer_net(body(), (4, WIDTH), (4, WIDTH), (4,), (4,))
    flat = torch.full((4, WIDTH), value)
    for _, _, label, numbers in batches(4):
        leaf = flat.clone().requires_grad_()
        objective = net({"x0": leaf, "x1": flat, "x2": label, "x3": numbers})
        (gradient,) = torch.autograd.grad(objective, leaf)
        assert objective.isfinite() and gradient.isfinite().all()


def test_all_records_but_its_own_are_drawn_for_a_record():
    draws = torch.Generator().manual_seed(1)
    memory = Bank(RECORDS, WIDTH, 500, 0.5, draws)
    numbers = list(range(RECORDS))
    rows = unit(torch.randn(RECORDS, WIDTH))
    memory.add([rows, rows], torch.zeros(RECORDS), numbers[::-1])
    assert len(memory) == RECORDS
    drawn, counted = memory.negatives(None, numbers)
    for number in numbers:
        seen = set(drawn[number][counted[number]].tolist())
        assert seen == set(numbers) - {RECORDS - 1 - number}  # the rows are in the order they came


# ---- going on later


@pytest.mark.parametrize("done", [0, 1, 3])
def test_bank_goes_on_as_if_never_interrupted(tmp_path, done):
    torch.manual_seed(1)
    whole, later = bank(), bank()
    check_state_goes_on(whole, later, batches(6), done, tmp_path / "state.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"numbers": np.array([0, 1, 2, 10])}, "sample numbers above 9"),
        ({"numbers": np.array([0, 1, 2, -1])}, "sample numbers above 9"),
        ({"numbers": np.array([0, 1, 2, 2])}, "not have one number for each sample"),
        ({"numbers": np.array([0, 1, 2])}, "not have one number for each sample"),
        ({"student": np.zeros((4, 6), np.float32)}, "stores 10 embeddings of 5 values"),
    ],
)
def test_bank_refuses_the_state_of_another(change, words):
    layer = bank()
    layer(*batches(1)[0])
    with pytest.raises(ValueError, match=f"layer 'L': .*{words}"):
        layer.restore({**layer.state(), **change})


NET = """
layer { name: "d" type: "Data" top: "data" top: "label" top: "index"
  transform_param { scale: 0.01 }
  data_param { source: "images-idx3-ubyte" backend: IDX batch_size: 4 first: 2 leave_out: 4 } }
layer { name: "teacher/trunk" type: "InnerProduct" bottom: "data" top: "teacher/trunk"
  param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 9 weight_filler { type: "xavier" } } }
layer { name: "s" type: "InnerProduct" bottom: "data" top: "s"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "t" type: "InnerProduct" bottom: "teacher/trunk" top: "t"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "crd" type: "CRDLoss" bottom: "s" bottom: "t" bottom: "label" bottom: "index"
  top: "crd" crd_loss_param { records: 25 negatives: 12 } }
layer { name: "ip" type: "InnerProduct" bottom: "s" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 20
snapshot: 8 snapshot_prefix: "run" random_seed: 3 display: 1"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    write_idx(tmp_path / "images-idx3-ubyte", draw.integers(0, 256, (25, 8, 8), np.uint8))
    write_idx(tmp_path / "labels-idx1-ubyte", draw.integers(0, 5, 25).astype(np.uint8))
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


def solver(cache: str = "off") -> Solver:
    return Solver(read_plan("solver.prototxt"), Log(stream=io.StringIO()), options=Options(cache))


@pytest.mark.parametrize("cache", ["off", "memory"])
def test_run_with_a_bank_is_resumed_to_the_same_bits(folder: Path, cache: str) -> None:
    whole = solver(cache)
    whole.solve()
    before = Path("run_iter_20.caffemodel").read_bytes()
    resumed = solver(cache)
    resumed.solve("run_iter_8.solverstate")
    assert Path("run_iter_20.caffemodel").read_bytes() == before
    (layer,) = (node.layer for node in resumed.net.nodes if node.layer.name == "crd")
    records = resumed.net.nodes[0].layer.sample_count
    assert sorted(layer.state()["numbers"]) == list(range(records))
    assert records < 23  # of the 23 from the third on, some are left out


def test_numbers_of_records_are_absent_from_deployment(folder: Path) -> None:
    deployed = deploy(load_net("net.prototxt", pb.TRAIN).param, "net.prototxt")
    assert [layer.name for layer in deployed.layer] == ["data", "s", "ip"]


def test_numbers_may_come_from_a_dataset_of_an_hdf5_file(folder: Path) -> None:
    with h5py.File("rows.h5", "w") as file:
        file["s"], file["t"] = (np.random.default_rng(i).normal(size=(6, 5)) for i in (0, 1))
        file["index"] = np.arange(6)
    Path("rows.txt").write_text("rows.h5")
    Path("rows.prototxt").write_text(
        'layer { name: "d" type: "HDF5Data" top: "s" top: "t" top: "index" hdf5_data_param '
        '{ source: "rows.txt" batch_size: 4 } } layer { name: "crd" type: "CRDLoss" bottom: "s" '
        'bottom: "t" bottom: "index" top: "crd" crd_loss_param { records: 6 negatives: 3 } }'
    )
    net = load_net("rows.prototxt", pb.TRAIN)
    for _ in range(3):
        net()
    assert net.blobs["crd"] > 0
    assert len(net.nodes[1].layer.state()["numbers"]) == 6


# ---- what cannot be

PAIR = [(4, 5), (4, 5)]


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        (PAIR, "records: 9", "the samples' numbers, a data layer's third top, last"),
        ([*PAIR, (4,), (4,)], "", "the samples' numbers, a data layer's third top, last"),
        ([*PAIR, (3,)], "records: 9", r"one number for each sample. Received: .*number=\(3,\)"),
        ([*PAIR, (3,), (4,)], "records: 9", r"one label for each sample. Received: .*label=\(3,\)"),
        ([*PAIR, (4,)], "records: 9 momentum: 1.5", "momentum must be in 0..1"),
        (PAIR, "momentum: 0.5", "momentum is for the bank, which needs records"),
        ([*PAIR, (4,)], "records: 4294967295", "the bank of embeddings is too large"),
        (
            [*PAIR, (4,)],
            "records: 9 negatives: 4294967295",
            "the draw of negatives is too large",
        ),
    ],
)
def test_bank_that_cannot_be_is_reported(shapes, settings, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(CRDLoss\): .*{words}"):
        make_layer(f'type: "CRDLoss" crd_loss_param {{ {settings} }}', *shapes)


@pytest.mark.parametrize("number", [-1.0, 10.0, 2.5, math.nan])
def test_number_that_no_record_has_is_reported(number):
    words = rf"samples are numbered from 0.*number={number}, records=10"
    with pytest.raises(NetError, match=words):
        bank()(*batches(1)[0][:3], torch.tensor([0.0, 1.0, 2.0, number]))
