from __future__ import annotations

import math

import pytest

from caffe_kd.core.errors import SolverError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.solver.lr_policy import check, learning_rate, next_step

# The settings are float32 in the message; the formulas run in double precision.
CLOSE = 1e-6


def solver_of(settings: str):
    return text.parse(f"base_lr: 0.5 max_iter: 100 {settings}", pb.SolverParameter())


def rates_of(settings: str, count: int) -> list[float]:
    """The rates of the first iterations, as the solver asks for them."""
    param, step, rates = solver_of(settings), 0, []
    for iteration in range(count):
        step = next_step(param, iteration, step)
        rates.append(learning_rate(param, iteration, step))
    return rates


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ('lr_policy: "fixed"', {0: 0.5, 50: 0.5}),
        ('lr_policy: "step" gamma: 0.1 stepsize: 10', {0: 0.5, 9: 0.5, 10: 0.05, 25: 0.005}),
        ('lr_policy: "exp" gamma: 0.9', {0: 0.5, 1: 0.45, 2: 0.405}),
        ('lr_policy: "inv" gamma: 0.5 power: 2', {0: 0.5, 2: 0.125, 6: 0.03125}),
        (
            'lr_policy: "multistep" gamma: 0.1 stepvalue: 3 stepvalue: 7',
            {0: 0.5, 2: 0.5, 3: 0.05, 6: 0.05, 7: 0.005, 50: 0.005},
        ),
        ('lr_policy: "poly" power: 2', {0: 0.5, 50: 0.125, 90: 0.005}),
        (
            'lr_policy: "sigmoid" gamma: -0.5 stepsize: 4',
            {4: 0.25, 0: 0.5 / (1 + math.exp(-2)), 8: 0.5 / (1 + math.exp(2))},
        ),
        # The greatest exponent of exp in double precision is 709.
        ('lr_policy: "sigmoid" gamma: 1 stepsize: 5000', {0: 0.0, 20: 0.0}),
        ('lr_policy: "poly" power: 0', {0: 0.5, 60: 0.5}),
    ],
)
def test_rate_has_the_value_of_its_formula(settings, wanted):
    rates = rates_of(settings, 100)
    for iteration, rate in wanted.items():
        assert rates[iteration] == pytest.approx(rate, rel=CLOSE), iteration


def test_poly_is_zero_at_max_iter():
    assert learning_rate(solver_of('lr_policy: "poly" power: 0.5'), 100, 0) == 0


def test_multistep_takes_one_step_an_iteration():
    """Where stepvalues do not rise, Caffe's counter lags behind."""
    rates = rates_of('lr_policy: "multistep" gamma: 0.1 stepvalue: 4 stepvalue: 2', 8)
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.05, 0.005, 0.005, 0.005], rel=CLOSE)


def test_steps_go_on_from_those_taken():
    param = solver_of('lr_policy: "multistep" gamma: 0.1 stepvalue: 4 stepvalue: 6')
    assert next_step(param, 100, 0) == 1
    assert next_step(param, 101, 1) == 2
    assert next_step(param, 102, 2) == 2
    assert next_step(solver_of('lr_policy: "step" gamma: 1 stepsize: 10'), 35, 0) == 3
    assert next_step(solver_of('lr_policy: "fixed" stepvalue: 1'), 35, 0) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", "Unknown learning rate policy: ''. lr_policy is one of fixed, step"),
        ('lr_policy: "Fixed"', "Unknown learning rate policy: 'Fixed'"),
        ('lr_policy: "multi_step"', "Did you mean 'multistep'?"),
        ('lr_policy: "step" gamma: 0.1', "stepsize of at least 1. Received: 0"),
        ('lr_policy: "sigmoid" gamma: 0.1 stepsize: -3', "stepsize of at least 1. Received: -3"),
        ('lr_policy: "exp" gamma: -0.1', "gamma of at least 0. Received: -0.1"),
        ('lr_policy: "inv" gamma: nan power: 1', "gamma of at least 0. Received: nan"),
    ],
)
def test_impossible_policy_is_refused(settings, words):
    with pytest.raises(SolverError) as error:
        check(solver_of(settings), "solver.prototxt:3")
    assert words in str(error.value)
    assert str(error.value).startswith("solver.prototxt:3: ")


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        ('lr_policy: "fixed"', []),
        ('lr_policy: "step" gamma: 0.1 stepsize: 2', []),
        ('lr_policy: "step" stepsize: 2', ["gamma, which is not given and counts as 0"]),
        ('lr_policy: "inv"', ["uses gamma", "uses power"]),
        (
            'lr_policy: "multistep" gamma: 0.1',
            ["stepvalue, which is not given: the rate is"],
        ),
    ],
)
def test_setting_left_out_is_reported(settings, notes):
    warnings = check(solver_of(settings))
    assert len(warnings) == len(notes)
    assert all(note in line for note, line in zip(notes, warnings, strict=True))


def test_rate_left_out_is_reported():
    (warnings,) = check(text.parse('lr_policy: "fixed" max_iter: 9', pb.SolverParameter()))
    assert "base_lr, which is not given and counts as 0" in warnings


@pytest.mark.parametrize(
    ("settings", "iteration"),
    [
        ('lr_policy: "exp" gamma: 2', 5000),
        ('lr_policy: "poly" power: 0.5', 101),
        ('max_iter: 0 lr_policy: "poly" power: 1', 0),
        ('base_lr: nan lr_policy: "fixed"', 0),
    ],
)
def test_rate_without_a_finite_value_is_refused(settings, iteration):
    param = pb.SolverParameter(base_lr=0.5, max_iter=100)
    param.MergeFrom(text.parse(settings, pb.SolverParameter()))
    with pytest.raises(SolverError, match=f"no finite rate in iteration {iteration}"):
        learning_rate(param, iteration, 0)
