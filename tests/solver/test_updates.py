from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import SolverError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.solver.updates import RULES, Updater
from tests.helpers import hide_kernels

# Both sides compute in float64; torch's kernels take the same steps in another order.
CLOSE = {"rtol": 1e-10, "atol": 1e-13}
# delta of float32 kernels: some roundings of values near 1.
FLOAT_CLOSE = {"rtol": 2e-5, "atol": 1e-6}

SETTINGS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.9",
    "AdaGrad": "delta: 1e-3",
    "RMSProp": "rms_decay: 0.9 delta: 1e-3",
    "AdaDelta": "momentum: 0.95 delta: 1e-3",
    "Adam": "momentum: 0.9 momentum2: 0.99 delta: 1e-3",
}
# Frozen, ordinary, without decay, with both multipliers, as nets have them.
MULTIPLIERS = [(1.0, 1.0), (0.0, 1.0), (2.0, 0.0), (0.5, 3.0), (1.0, 1.0)]
SHAPES = [(2, 3, 1, 2), (3,), (4,), (2, 3), (5,)]
RATES = [0.1, 0.1, 0.01, 0.01, 0.05, 1e-4, 0.1]


def solver_of(rule: str, more: str = ""):
    return text.parse(f'type: "{rule}" {more}', pb.SolverParameter())


class Reference:
    """The rules as the papers and Caffe have them, one parameter at a time."""

    def __init__(self, solver, params):
        self.solver = solver
        self.params = [(w.copy(), lr, decay) for w, lr, decay in params]
        self.first = [np.zeros_like(w) for w, _, _ in params]
        self.second = [np.zeros_like(w) for w, _, _ in params]

    def apply(self, grads, rate, iteration):
        solver = self.solver
        grads = [np.zeros_like(g) if lr == 0 else g.copy() for g, (_, lr, _) in self.pairs(grads)]
        norm = math.sqrt(sum((g**2).sum() for g in grads))
        if 0 <= solver.clip_gradients < norm:
            grads = [g * (solver.clip_gradients / norm) for g in grads]
        for index, (w, lr, decay_mult) in enumerate(self.params):
            g = grads[index] / solver.iter_size
            decay = solver.weight_decay * decay_mult
            g = g + decay * (np.sign(w) if solver.regularization_type == "L1" else w)
            getattr(self, solver.type.lower())(index, w, g, rate * lr, iteration)

    def pairs(self, grads):
        return zip(grads, self.params, strict=True)

    def sgd(self, i, w, g, rate, _iteration):
        self.first[i] = self.solver.momentum * self.first[i] + rate * g
        w -= self.first[i]

    def nesterov(self, i, w, g, rate, _iteration):
        m, before = self.solver.momentum, self.first[i]
        self.first[i] = m * before + rate * g
        w -= (1 + m) * self.first[i] - m * before

    def adagrad(self, i, w, g, rate, _iteration):
        self.first[i] = self.first[i] + g**2
        w -= rate * g / (np.sqrt(self.first[i]) + self.solver.delta)

    def rmsprop(self, i, w, g, rate, _iteration):
        d = self.solver.rms_decay
        self.first[i] = d * self.first[i] + (1 - d) * g**2
        w -= rate * g / (np.sqrt(self.first[i]) + self.solver.delta)

    def adadelta(self, i, w, g, rate, _iteration):
        m, delta = self.solver.momentum, self.solver.delta
        self.first[i] = m * self.first[i] + (1 - m) * g**2
        u = g * np.sqrt((self.second[i] + delta) / (self.first[i] + delta))
        self.second[i] = m * self.second[i] + (1 - m) * u**2
        w -= rate * u

    def adam(self, i, w, g, rate, iteration):
        b1, b2, t = self.solver.momentum, self.solver.momentum2, iteration + 1
        self.first[i] = b1 * self.first[i] + (1 - b1) * g
        self.second[i] = b2 * self.second[i] + (1 - b2) * g**2
        correction = math.sqrt(1 - b2**t) / (1 - b1**t)
        w -= rate * correction * self.first[i] / (np.sqrt(self.second[i]) + self.solver.delta)


def blobs_of(params, dtype=torch.float64):
    blobs = []
    for w, lr, decay in params:
        blob = torch.nn.Parameter(torch.tensor(w, dtype=dtype), requires_grad=lr != 0)
        if blob.dim() == 4:  # as the solver lays convolutions out
            blob.data = blob.data.contiguous(memory_format=torch.channels_last)
        blobs.append((blob, lr, decay))
    return blobs


def follow(solver, rates=RATES, dtype=torch.float64, close=CLOSE, multipliers=MULTIPLIERS):
    """Take the same steps with both and compare parameters and history after each."""
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(size=s), lr, decay) for s, (lr, decay) in zip(SHAPES, multipliers, strict=True)
    ]
    reference, blobs = Reference(solver, params), blobs_of(params, dtype)
    updater = Updater(solver, blobs)
    for iteration, rate in enumerate(rates):
        grads = [rng.normal(size=s) for s in SHAPES]
        updater.clear()
        for (blob, lr, _), grad in zip(blobs, grads, strict=True):
            if lr:
                blob.grad = torch.empty_like(blob).copy_(torch.tensor(grad))
        updater.apply(rate, iteration)
        reference.apply(grads, rate, iteration)
        for (blob, _, _), (want, _, _) in zip(blobs, reference.params, strict=True):
            np.testing.assert_allclose(blob.detach().numpy(), want, **close)
        wanted = reference.first + (reference.second if updater.rule.slots == 2 else [])
        for got, want in zip(updater.history(), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), want, **close)
    return updater, reference


@pytest.mark.parametrize("rule", RULES)
def test_rule_follows_its_formula_while_the_rate_changes(rule):
    follow(solver_of(rule, SETTINGS[rule]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "more",
    [
        "weight_decay: 0.1",
        'weight_decay: 0.1 regularization_type: "L1"',
        "clip_gradients: 0.5 iter_size: 4 weight_decay: 0.1",
        "iter_size: 3",
    ],
)
def test_rule_is_preceded_by_clipping_averaging_and_decay(rule, more):
    follow(solver_of(rule, f"{SETTINGS[rule]} {more}"))


@pytest.mark.parametrize("rule", RULES)
def test_rule_follows_its_formula_without_torchs_private_kernels(rule, monkeypatch):
    hide_kernels(monkeypatch)
    follow(solver_of(rule, f"{SETTINGS[rule]} clip_gradients: 0.5 iter_size: 2 weight_decay: 0.1"))


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaDelta", "Adam"])
def test_momentum_may_be_zero(rule):
    follow(solver_of(rule, "delta: 1e-3 weight_decay: 0.1"))


@pytest.mark.parametrize("rule", RULES)
def test_rate_may_be_zero(rule):
    rates = [0.0, 0.1, 0.0, 0.0, 0.2]
    follow(solver_of(rule, f"{SETTINGS[rule]} weight_decay: 0.1"), rates)


@pytest.mark.parametrize("rates", [[1e-300, 1e-200, 1e-40, 1e-3, 0.1], [0.1, 1e-30, 1e-60, 0.1]])
def test_sgd_survives_rates_that_float32_cannot_divide_by(rates):
    """A sigmoid policy begins or ends with them."""
    follow(solver_of("SGD", "momentum: 0.9"), rates, torch.float32, FLOAT_CLOSE)


def test_zero_gradient_of_a_fresh_parameter_changes_nothing():
    for rule in RULES:
        blob = torch.nn.Parameter(torch.ones(3))
        updater = Updater(solver_of(rule), [(blob, 1.0, 1.0)])
        updater.apply(0.1, 0)  # as in a net where nothing leads from it to the loss
        assert torch.equal(blob.detach(), torch.ones(3)), rule


def test_clipping_measures_the_sum_before_it_is_averaged():
    blob = torch.nn.Parameter(torch.zeros(2))
    updater = Updater(solver_of("SGD", "clip_gradients: 5 iter_size: 10"), [(blob, 1.0, 1.0)])
    blob.grad = torch.tensor([6.0, 8.0])
    norm, scale = updater.apply(1.0, 0)
    assert (norm, scale) == (10.0, 0.5)
    torch.testing.assert_close(blob.detach(), torch.tensor([-0.3, -0.4]))


def test_gradient_within_the_limit_is_not_clipped():
    blob = torch.nn.Parameter(torch.zeros(2))
    updater = Updater(solver_of("SGD", "clip_gradients: 10"), [(blob, 1.0, 1.0)])
    blob.grad = torch.tensor([6.0, 8.0])
    assert updater.apply(1.0, 0) is None


@pytest.mark.parametrize("rule", RULES)
def test_restored_history_goes_on_as_if_never_interrupted(rule):
    solver = solver_of(rule, f"{SETTINGS[rule]} weight_decay: 0.01")
    updater, reference = follow(solver)
    params = [
        (torch.nn.Parameter(torch.tensor(w), requires_grad=lr != 0), lr, decay)
        for w, lr, decay in reference.params
    ]
    other = Updater(solver, params)
    other.restore(updater.history())
    grads = [np.full(s, 0.3) for s in SHAPES]
    for blob, lr, _ in params:
        blob.grad = torch.full_like(blob, 0.3) if lr else None
    other.apply(0.02, len(RATES))
    reference.apply(grads, 0.02, len(RATES))
    for (blob, _, _), (want, _, _) in zip(params, reference.params, strict=True):
        np.testing.assert_allclose(blob.detach().numpy(), want, **CLOSE)


@pytest.mark.parametrize("rule", ["AdaGrad", "RMSProp"])
def test_rules_without_momentum_refuse_it(rule):
    with pytest.raises(SolverError) as error:
        Updater(solver_of(rule, "momentum: 0.9"), [], "solver.prototxt:4")
    want = f"solver.prototxt:4: Momentum cannot be used with {rule}. Received: momentum=0.9"
    assert str(error.value).startswith(want)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('type: "Adan"', "Unknown solver type: 'Adan'"),
        ('type: "sgd"', "Did you mean 'SGD'?"),
        ('type: "RMSProp" rms_decay: 1', "rms_decay should lie between 0 and 1. Received: 1"),
        ('type: "Adam" momentum: 1', "Adam needs 0 <= momentum < 1. Received: 1"),
        ('type: "Adam" momentum2: 1.5', "Adam needs 0 <= momentum2 < 1. Received: 1.5"),
        ('regularization_type: "L3"', "Unknown regularization type: 'L3'"),
    ],
)
def test_impossible_setting_is_refused(settings, words):
    with pytest.raises(SolverError) as error:
        Updater(text.parse(settings, pb.SolverParameter()), [], "solver.prototxt:4")
    assert words in str(error.value)
