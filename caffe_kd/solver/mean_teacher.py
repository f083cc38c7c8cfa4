"""A teacher whose weights are a running mean of the student's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SolverError
from ..layers import Layer
from ..net import Net


class MeanTeacher:
    """Follows the student's parameters.

    After update t = 1, 2, …::

        theta' <- a * theta' + (1 - a) * theta        a = min(1 - 1 / (t + 1), ema)

    It starts as the student. All parameter blobs count, the sums that BatchNorm keeps too; the
    teacher's layers are in phase TEST, so that its BatchNorm answers by those and its Dropout lets
    everything through.

    Args:
        name: the teacher's name; its layer ``<name>/conv1`` follows the student's ``conv1``.
        ema: the greatest a, 0 to below 1.
        nets: the train net and the test nets, some of which have the teacher's layers.

    Attributes:
        layers: the names of its layers in the nets.

    Raises:
        SolverError: the student lacks a layer of the teacher's, or its shapes differ.

    Source: Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780.
    """

    def __init__(
        self, name: str, ema: float, nets: Sequence[Net], where: str | None = None
    ) -> None:
        self.name = name
        self.ema = ema
        self.layers: set[str] = set()
        self._where = where
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for net in nets:
            for step in net.steps:
                if step.layer.name.startswith(f"{name}/"):
                    self.layers.add(step.layer.name)
                    pairs |= {
                        id(mine): (mine, theirs) for mine, theirs in self._pairs(step.layer, nets)
                    }
        self._means = [mean for mean, _ in pairs.values()]
        self._followed = [student for _, student in pairs.values()]

    def _pairs(self, layer: Layer, nets: Sequence[Net]) -> list[tuple[Tensor, Tensor]]:
        own = layer.name.removeprefix(f"{self.name}/")
        steps = (net.step_of(own) for net in nets)
        student = next((found.layer for found in steps if found is not None), None)
        shapes = [] if student is None else student.blob_shapes
        if shapes != layer.blob_shapes:
            raise SolverError(
                f"the teacher '{self.name}' follows the student, whose layer '{own}' has "
                f"parameters of the shapes {shapes}, where the teacher's has {layer.blob_shapes}: "
                "its net must be the student's",
                self._where,
            )
        if student is None:
            return []
        return list(zip(layer.parameters_in_order, student.parameters_in_order, strict=True))

    @torch.no_grad()
    def start(self) -> None:
        """Be as the student is."""
        torch._foreach_copy_(self._means, self._followed)

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Go a step towards the student, of which so many updates are done."""
        keep = min(1 - 1 / (updates + 1), self.ema)
        torch._foreach_mul_(self._means, keep)
        torch._foreach_add_(self._means, self._followed, alpha=1 - keep)
