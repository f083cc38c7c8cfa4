"""The seven learning rate policies, as pure functions of the iteration and the step count.

Source: Caffe's SGDSolver::GetLearningRate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..core.errors import SolverError, did_you_mean

# The factor of base_lr in an iteration, given how many steps the policy has taken.
Policy = Callable[[Any, int, int], float]


def _fixed(_param: Any, _iteration: int, _step: int) -> float:
    return 1.0


def _power_of_step(param: Any, _iteration: int, step: int) -> float:
    return math.pow(param.gamma, step)


def _exp(param: Any, iteration: int, _step: int) -> float:
    return math.pow(param.gamma, iteration)


def _inv(param: Any, iteration: int, _step: int) -> float:
    return math.pow(1 + param.gamma * iteration, -param.power)


def _poly(param: Any, iteration: int, _step: int) -> float:
    return math.pow(1 - iteration / param.max_iter, param.power)


def _sigmoid(param: Any, iteration: int, _step: int) -> float:
    exponent = -param.gamma * (iteration - param.stepsize)
    return 1 / (1 + math.exp(exponent)) if exponent < 700 else 0.0


_POLICIES: dict[str, Policy] = {
    "fixed": _fixed,
    "step": _power_of_step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _power_of_step,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
_USED = {
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power",),
    "sigmoid": ("gamma", "stepsize"),
}


def check(param: Any, where: str | None = None) -> list[str]:
    """Check that a solver's policy is known and its settings are valid.

    Returns:
        Warnings about the policy's settings that are not given and so count as 0, which is allowed,
            as in Caffe, but rarely intended.

    Raises:
        SolverError: the policy is missing or unknown, or a setting is out of range.
    """
    name = param.lr_policy
    if name not in _POLICIES:
        raise SolverError(
            f"Unknown learning rate policy: '{name}'. lr_policy is one of "
            f"{', '.join(_POLICIES)}.{did_you_mean(name, _POLICIES)}",
            where,
        )
    used = _USED.get(name, ())
    if "stepsize" in used and param.stepsize < 1:
        raise SolverError(
            f"lr_policy '{name}' needs a stepsize of at least 1. Received: {param.stepsize}", where
        )
    if "gamma" in used and not param.gamma >= 0:
        raise SolverError(
            f"lr_policy '{name}' needs a gamma of at least 0. Received: {param.gamma:g}", where
        )
    missing = [f for f in used if f != "stepvalue" and not param.HasField(f)]
    missing += [] if param.HasField("base_lr") else ["base_lr"]
    notes = [f"lr_policy '{name}' uses {f}, which is not given and counts as 0" for f in missing]
    if "stepvalue" in used and not param.stepvalue:
        notes.append(f"lr_policy '{name}' uses stepvalue, which is not given: the rate is constant")
    return notes


def next_step(param: Any, iteration: int, step: int) -> int:
    """Return the step count of an iteration, given that of the one before.

    Policy step counts whole stepsizes. Policy multistep takes at most one step per iteration, when
    the next stepvalue is reached. The others take none.
    """
    if param.lr_policy == "step":
        return iteration // int(param.stepsize)
    reached = step < len(param.stepvalue) and iteration >= param.stepvalue[step]
    return step + 1 if param.lr_policy == "multistep" and reached else step


def learning_rate(param: Any, iteration: int, step: int) -> float:
    """Return the learning rate of an iteration with step count ``step`` (see ``next_step``).

    With i the iteration: fixed: base_lr; step, multistep: base_lr * gamma ^ step;
    exp: base_lr * gamma ^ i; inv: base_lr * (1 + gamma * i) ^ -power; poly: base_lr * (1 - i /
    max_iter) ^ power; sigmoid: base_lr / (1 + exp(-gamma * (i - stepsize))).

    Raises:
        SolverError: the formula has no value, as poly has none after max_iter, or no finite one.
    """
    try:
        rate = param.base_lr * _POLICIES[param.lr_policy](param, iteration, step)
    except (ArithmeticError, ValueError):  # as in (-0.1) ^ 0.5, 1 / 0, 2 ^ 10000
        rate = math.nan
    if not math.isfinite(rate):
        raise SolverError(
            f"lr_policy '{param.lr_policy}' has no finite rate in iteration {iteration}. Received: "
            f"base_lr={param.base_lr:g}, gamma={param.gamma:g}, power={param.power:g}, "
            f"max_iter={param.max_iter}"
        )
    return float(rate)
