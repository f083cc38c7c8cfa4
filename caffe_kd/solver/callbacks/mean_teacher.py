"""A teacher whose weights are a running mean of the student's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import SolverError
from ...core.multi_tensor import foreach
from ...layers import Layer
from ...net import Net
from .. import snapshot
from ..callback import Callback
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver


class MeanTeacher(Callback):
    """Averages the student's parameters.

    After update t = 1, 2, …::

        theta' <- a * theta' + (1 - a) * theta        a = min(1 - 1 / (t + 1), ema)

    It starts as a copy of the student. All parameter blobs are averaged, BatchNorm's running sums
    too; the teacher's layers are in phase TEST, so that its BatchNorm uses them and its Dropout
    passes everything.

    Args:
        name: the teacher's name; its layer ``<name>/conv1`` averages the student's ``conv1``.
        ema: the largest a, at least 0 and below 1.
        nets: the train net and the test nets, some of which have the teacher's layers.

    Raises:
        SolverError: the student lacks a layer of the teacher's, or its shapes differ.

    Source: Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780.
    """

    def __init__(
        self, name: str, ema: float, nets: Sequence[Net], where: str | None = None
    ) -> None:
        self.teacher = name
        self.ema = ema
        self._where = where
        pairs: dict[int, tuple[Tensor, Tensor]] = {}
        for net in nets:
            for node in net.nodes:
                if node.layer.name.startswith(f"{name}/"):
                    pairs |= {
                        id(mine): (mine, theirs) for mine, theirs in self._pairs(node.layer, nets)
                    }
        self._averages = [average for average, _ in pairs.values()]
        self._student = [student for _, student in pairs.values()]
        self.copy_student()

    def _pairs(self, layer: Layer, nets: Sequence[Net]) -> list[tuple[Tensor, Tensor]]:
        own = layer.name.removeprefix(f"{self.teacher}/")
        nodes = (net.node_of(own) for net in nets)
        student = next((found.layer for found in nodes if found is not None), None)
        shapes = [] if student is None else student.blob_shapes
        if shapes != layer.blob_shapes:
            raise SolverError(
                f"the teacher '{self.teacher}' averages the student (ema), whose layer '{own}' has "
                f"parameters of shapes {shapes}, but the teacher's has {layer.blob_shapes}: its "
                "net must be the student's",
                self._where,
            )
        if student is None:
            return []
        return list(zip(layer.parameters_in_order, student.parameters_in_order, strict=True))

    @torch.no_grad()
    def copy_student(self) -> None:
        """Copy the student's parameters."""
        foreach("copy_", self._averages, self._student)

    def on_start(self, solver: Solver) -> None:
        """Copy the student before its first update, as weights may have been loaded."""
        if solver.iter == 0:
            self.copy_student()

    @torch.no_grad()
    def after_update(self, solver: Solver) -> None:
        """Update the averages."""
        updates = solver.iter + 1
        keep = min(1 - 1 / (updates + 1), self.ema)
        foreach("mul_", self._averages, keep)
        foreach("add_", self._averages, self._student, alpha=1 - keep)

    def on_restore(self, solver: Solver, weights: Path) -> None:
        """Load the teacher's weights of the snapshot."""
        snapshot.read_ema_weights(self.teacher, solver.nets, weights)


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield a callback for each teacher that averages the student."""
    where = solver.plan.where("ema")
    for name, ema in solver.plan.ema_teachers.items():
        yield MeanTeacher(name, ema, solver.nets, where)
