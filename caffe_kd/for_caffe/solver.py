"""Writes the solver with which BVLC Caffe trains a composed net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import SolverError
from ..proto import caffe_pb2 as pb
from ..solver.plan import TrainingPlan
from . import FIRST_OWN_FIELD

# Fields of this package that are replaced by the composed net.
_NETS = ("teacher", "student", "distiller_net", "layer", "inject")
_OF_CAFFE = ("net", "net_param", "train_net", "train_net_param", "weights")
_TEST_NETS = ("test_net", "test_net_param")


def settings_to_leave_out(solver: Any) -> list[str]:
    """Return a solver's fields, beside those that name nets, that BVLC Caffe lacks."""
    given = [field for field, _ in solver.ListFields() if field.number >= FIRST_OWN_FIELD]
    return [field.name for field in given if field.name not in _NETS]


def solver_for_caffe(plan: TrainingPlan, net: str, weights: Sequence[str]) -> Any:
    """Return a plan's solver for BVLC Caffe.

    Args:
        plan: what is trained.
        net: the file of the composed net, of all phases.
        weights: the files to start from.

    Raises:
        SolverError: it tests on other nets than the one it trains.
    """
    for name in _TEST_NETS:
        if getattr(plan.solver, name):
            raise SolverError(
                f"{name} is not the composed net: write that net with -phase TEST, and the "
                "solver by hand",
                plan.where(name),
            )
    solver = pb.SolverParameter()
    solver.CopyFrom(plan.solver)
    for name in (*_NETS, *_OF_CAFFE, *settings_to_leave_out(solver)):
        solver.ClearField(name)
    solver.net = net
    solver.weights.extend(weights)
    return solver
