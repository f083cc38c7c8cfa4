"""The seven learning rate policies, as pure functions of the iteration.

Source: Caffe's SGDSolver::GetLearningRate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import SolverError, did_you_mean

Policy = Callable[[Any, int], float]


def _fixed(_param: Any, _iteration: int) -> float:
    return 1.0


def _step(param: Any, iteration: int) -> float:
    return param.gamma ** (iteration // param.stepsize)


def _exp(param: Any, iteration: int) -> float:
    return param.gamma**iteration


def _inv(param: Any, iteration: int) -> float:
    return (1 + param.gamma * iteration) ** -param.power


def _multistep(param: Any, iteration: int) -> float:
    return param.gamma ** current_step(param, iteration)


def _poly(param: Any, iteration: int) -> float:
    # Past max_iter the base would be negative, which has no real power.
    return max(0.0, 1 - iteration / param.max_iter) ** param.power


def _sigmoid(param: Any, iteration: int) -> float:
    exponent = -param.gamma * (iteration - param.stepsize)
    return 1 / (1 + math.exp(exponent)) if exponent < 700 else 0.0


_POLICIES: dict[str, Policy] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
_NEEDED = {
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}


def check(param: Any, where: str | None = None) -> None:
    """Check that a solver's policy is known and has the settings it needs.

    Raises:
        SolverError: the policy is missing or unknown, or a setting it needs is missing or wrong.
    """
    name = param.lr_policy
    if name not in _POLICIES:
        raise SolverError(
            f"Unknown learning rate policy: '{name}'. lr_policy is one of "
            f"{', '.join(_POLICIES)}.{did_you_mean(name, _POLICIES)}",
            where,
        )
    for field in _NEEDED.get(name, ()):
        value = getattr(param, field)
        given = len(value) > 0 if field == "stepvalue" else param.HasField(field)
        if not given:
            raise SolverError(f"lr_policy '{name}' needs {field}, which is not given", where)
        if field in ("stepsize", "max_iter") and name != "sigmoid" and value < 1:
            raise SolverError(f"{field} must be at least 1. Received: {value}", where)


def learning_rate(param: Any, iteration: int) -> float:
    """Return the rate of an iteration.

    With i the iteration: fixed: base_lr; step: base_lr * gamma ^ floor(i / stepsize);
    exp: base_lr * gamma ^ i; inv: base_lr * (1 + gamma * i) ^ -power; multistep: base_lr * gamma ^
    (stepvalues reached); poly: base_lr * (1 - i / max_iter) ^ power; sigmoid: base_lr / (1 +
    exp(-gamma * (i - stepsize))).
    """
    return param.base_lr * _POLICIES[param.lr_policy](param, iteration)


def current_step(param: Any, iteration: int) -> int:
    """Return how many stepvalues of policy multistep have been reached.

    The original keeps a counter that advances by at most one a call; with rising stepvalues and
    one call an iteration both are the same number.
    """
    return sum(iteration >= value for value in param.stepvalue)
