"""The six update rules.

Each rule keeps a history per parameter and changes parameters in place. ``g`` is the gradient
after clipping and weight decay, ``r`` the rate: the policy's rate times the blob's lr_mult.
Parameters of equal (lr_mult, decay_mult) are updated together, by multi-tensor kernels.

Source: Caffe's solvers; Duchi et al. 2011 (AdaGrad), Tieleman and Hinton 2012 (RMSProp), Zeiler
2012 (AdaDelta), Kingma and Ba 2015 (Adam), Sutskever et al. 2013 (Nesterov).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import SolverError, did_you_mean
from ..core.multi_tensor import adam_, foreach, sgd_

Tensors = list[Tensor]


class Update:
    """One rule's history and step for the parameters of one (lr_mult, decay_mult) group.

    Attributes:
        slots: how many history blobs the rule keeps for a parameter.
    """

    slots = 1
    # Whether the rule's own kernel adds the L2 decay; if not, it is added to g before.
    decays = False
    # Whether the history holds r * g, so that it stays 0 for a blob with lr_mult 0.
    rate_in_history = False

    def __init__(self, solver: Any, params: Tensors) -> None:
        self.solver = solver
        self.params = params
        self._history = [[torch.zeros_like(p) for p in params] for _ in range(self.slots)]

    @staticmethod
    def check(solver: Any) -> None:
        """Raise SolverError if the solver has a setting that the rule does not support."""

    def history(self) -> list[Tensors]:
        """Return the history as Caffe would hold it: one list over the parameters a slot."""
        return self._history

    def restore(self, history: Sequence[Tensors]) -> None:
        """Load a history in the form that ``history`` returns."""
        for mine, given in zip(self._history, history, strict=True):
            foreach("copy_", mine, given)

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        """Update the parameters; ``decay`` is not 0 only if the rule ``decays``."""
        raise NotImplementedError


class SGD(Update):
    """``h = momentum * h + r * g; w -= h``.

    The rate is inside the history, so a drop of the rate does not shrink the momentum at once.
    """

    decays = True

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        sgd_(self.params, grads, self._history[0], rate, self.solver.momentum, decay)


class Nesterov(Update):
    """``h' = momentum * h + r * g; w -= (1 + momentum) * h' - momentum * h``."""

    rate_in_history = True

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        momentum = self.solver.momentum
        (history,) = self._history
        foreach("add_", self.params, history, alpha=momentum)
        foreach("mul_", history, momentum)
        foreach("add_", history, grads, alpha=rate)
        foreach("sub_", self.params, history, alpha=1 + momentum)


def _refuse_momentum(solver: Any, rule: str) -> None:
    if solver.momentum != 0:
        raise SolverError(
            f"Momentum cannot be used with {rule}. Received: momentum={solver.momentum:g}; "
            "leave it out"
        )


class AdaGrad(Update):
    """``h += g^2; w -= r * g / (sqrt(h) + delta)``."""

    @staticmethod
    def check(solver: Any) -> None:
        _refuse_momentum(solver, "AdaGrad")

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        (history,) = self._history
        foreach("addcmul_", history, grads, grads)
        self._descend(grads, rate)

    def _descend(self, grads: Tensors, rate: float) -> None:
        roots = foreach("sqrt", self._history[0])
        foreach("add_", roots, self.solver.delta)
        foreach("addcdiv_", self.params, grads, roots, value=-rate)


class RMSProp(AdaGrad):
    """``h = d * h + (1 - d) * g^2; w -= r * g / (sqrt(h) + delta)``, d = rms_decay."""

    @staticmethod
    def check(solver: Any) -> None:
        _refuse_momentum(solver, "RMSProp")
        if not 0 <= solver.rms_decay < 1:
            raise SolverError(
                f"rms_decay should lie between 0 and 1. Received: {solver.rms_decay:g}"
            )

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        (history,) = self._history
        foreach("mul_", history, self.solver.rms_decay)
        foreach("addcmul_", history, grads, grads, value=1 - self.solver.rms_decay)
        self._descend(grads, rate)


class AdaDelta(Update):
    """``h = m h + (1 - m) g^2; u = g sqrt((s + delta) / (h + delta)); s = m s + (1 - m) u^2``.

    Then ``w -= r * u``; m is momentum, h the first history blob and s the second.
    """

    slots = 2

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        momentum, delta = self.solver.momentum, self.solver.delta
        squares, updates = self._history
        foreach("mul_", squares, momentum)
        foreach("addcmul_", squares, grads, grads, value=1 - momentum)
        ratio = foreach("add", updates, delta)
        foreach("div_", ratio, foreach("add", squares, delta))
        foreach("sqrt_", ratio)
        foreach("mul_", ratio, grads)
        foreach("mul_", updates, momentum)
        foreach("addcmul_", updates, ratio, ratio, value=1 - momentum)
        foreach("sub_", self.params, ratio, alpha=rate)


class Adam(Update):
    """``m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; w -= r c m / (sqrt(v) + delta)``.

    ``c = sqrt(1 - b2^t) / (1 - b1^t)`` with t the iteration counted from 1, b1 = momentum, b2 =
    momentum2.
    """

    slots = 2
    decays = True

    @staticmethod
    def check(solver: Any) -> None:
        for name in ("momentum", "momentum2"):
            value = getattr(solver, name)
            if not 0 <= value < 1:
                raise SolverError(f"Adam needs 0 <= {name} < 1. Received: {value:g}")

    def step(self, grads: Tensors, rate: float, iteration: int, decay: float) -> None:
        solver = self.solver
        first, second = self._history
        betas = solver.momentum, solver.momentum2
        adam_(
            self.params,
            grads,
            (first, second),
            betas,
            rate,
            decay,
            delta=solver.delta,
            step=iteration + 1,
        )


RULES: dict[str, type[Update]] = {
    rule.__name__: rule
    for rule in (
        SGD,
        Nesterov,
        AdaGrad,
        RMSProp,
        AdaDelta,
        Adam,
    )
}


def rule_of(solver: Any, where: str | None = None) -> type[Update]:
    """Return the rule that a solver's ``type`` names.

    Raises:
        SolverError: the type is unknown or its settings are wrong.
    """
    rule = RULES.get(solver.type)
    if rule is None:
        raise SolverError(
            f"Unknown solver type: '{solver.type}'. type is one of {', '.join(RULES)}."
            f"{did_you_mean(solver.type, RULES)}",
            where,
        )
    try:
        rule.check(solver)
    except SolverError as error:
        raise SolverError(error.message, where) from None
    return rule


class Updater:
    """Clips, decays and applies the gradients of all learnable parameters of a net.

    Args:
        solver: the SolverParameter.
        params: the parameters in Caffe's order, as (blob, lr_mult, decay_mult). Those with lr_mult
            0 do not change, but have a history, which weight decay may enter.

    Source: Caffe's SGDSolver::ApplyUpdate: clip the summed gradient, divide by iter_size, decay,
    then the rule.
    """

    def __init__(
        self, solver: Any, params: Sequence[tuple[Tensor, float, float]], where: str | None = None
    ) -> None:
        self.solver = solver
        self.rule = rule_of(solver, where)
        if solver.regularization_type not in ("L1", "L2"):
            raise SolverError(
                "Unknown regularization type: "
                f"'{solver.regularization_type}'. regularization_type is L1 or L2",
                where,
            )
        self._all = [p for p, _, _ in params]
        groups: dict[tuple[float, float], list[int]] = {}
        for index, (blob, lr_mult, decay_mult) in enumerate(params):
            decays = solver.weight_decay * decay_mult != 0 and not self.rule.rate_in_history
            if blob.requires_grad or decays:
                groups.setdefault((lr_mult, decay_mult), []).append(index)
        self._groups = [
            (lr_mult, decay_mult, indices, self.rule(solver, [self._all[i] for i in indices]))
            for (lr_mult, decay_mult), indices in groups.items()
        ]
        self.learning = [p for p in self._all if p.requires_grad]

    def clear(self) -> None:
        """Clear the gradients of the last iteration."""
        for blob in self.learning:
            blob.grad = None

    @torch.no_grad()
    def apply(self, rate: float, iteration: int) -> tuple[float, float] | None:
        """Update all parameters from their gradients.

        Returns:
            (norm, scale) if the gradient was scaled down by ``clip_gradients``, else None.
        """
        clipped = self._clip()
        for lr_mult, decay_mult, indices, update in self._groups:
            grads = [self._grad(i) for i in indices]
            if self.solver.iter_size > 1:
                foreach("div_", grads, float(self.solver.iter_size))
            decay = self.solver.weight_decay * decay_mult
            if decay and self.solver.regularization_type == "L1":
                foreach("add_", grads, foreach("sign", update.params), alpha=decay)
                decay = 0.0
            elif decay and not update.decays:
                foreach("add_", grads, update.params, alpha=decay)
                decay = 0.0
            update.step(grads, rate * lr_mult, iteration, decay)
        return clipped

    def _grad(self, index: int) -> Tensor:
        """Return a blob's gradient: zeros if it is frozen or the loss does not depend on it."""
        blob = self._all[index]
        return torch.zeros_like(blob) if blob.grad is None else blob.grad

    def _clip(self) -> tuple[float, float] | None:
        limit = self.solver.clip_gradients
        if limit < 0:
            return None
        grads = [p.grad for p in self.learning if p.grad is not None]
        if not grads:
            return None
        norms = foreach("norm", grads)
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if not norm > limit:  # also if the norm is NaN
            return None
        scale = limit / norm
        foreach("mul_", grads, scale)
        return norm, scale

    def history(self) -> Tensors:
        """Return the history in Caffe's order: slot by slot, over every parameter."""
        slots: list[Tensors] = [
            [torch.zeros_like(p) for p in self._all] for _ in range(self.rule.slots)
        ]
        for _, _, indices, update in self._groups:
            for slot, tensors in zip(slots, update.history(), strict=True):
                for index, tensor in zip(indices, tensors, strict=True):
                    slot[index] = tensor
        return [tensor for slot in slots for tensor in slot]

    @torch.no_grad()
    def restore(self, history: Tensors) -> None:
        """Load a history in the form that ``history`` returns."""
        count = len(self._all)
        slots = [history[s * count : (s + 1) * count] for s in range(self.rule.slots)]
        for _, _, indices, update in self._groups:
            update.restore([[slot[i] for i in indices] for slot in slots])
