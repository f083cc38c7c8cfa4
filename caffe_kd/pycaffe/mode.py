"""Where nets are computed, and with which random numbers: the settings of the whole process."""

from __future__ import annotations

import sys
from typing import Any

import torch

from ..core.errors import UsageError
from ..layers import layer_types

_CPU = torch.device("cpu")
_FIRST_SEED = torch.default_generator.initial_seed()
_state: dict[str, Any] = {
    "gpu": False,
    "device": 0,
    "exact_sums": None,
    "seeded": False,
    "fell_back": False,  # to the CPU, where a GPU was asked for
}


def set_mode_cpu() -> None:
    """Compute nets built from now on by the CPU."""
    _state["gpu"] = False


def set_mode_gpu() -> None:
    """Compute nets built from now on by the CUDA device that ``set_device`` chose, the first one.

    Without a CUDA device they are computed by the CPU, as with ``solver_mode: GPU``; the first time
    a line on stderr says so.
    """
    if not torch.cuda.is_available():
        _fall_back("set_mode_gpu()")
        return
    _state["gpu"] = True


def _fall_back(call: str) -> None:
    if not _state["fell_back"]:
        print(f"Use CPU. ({call}, but there is no CUDA device)", file=sys.stderr)
    _state["fell_back"] = True


def set_device(number: int) -> None:
    """Choose the CUDA device for ``set_mode_gpu``; without one a line on stderr says so.

    Raises:
        UsageError: there are others, but no such device.
    """
    count = torch.cuda.device_count()
    if not count:
        _fall_back(f"set_device({number})")
        return
    if not 0 <= number < count:
        raise UsageError(f"there are {count} CUDA devices here. Received: set_device({number})")
    _state["device"] = number


def device() -> torch.device:
    """Return where nets are computed."""
    return torch.device("cuda", _state["device"]) if _state["gpu"] else _CPU


def set_exact_sums(exact: bool | None) -> None:
    """Let nets built from now on sum products in float64 on the way forward, or not.

    Near ties in pooling and rectifiers then fall as in the original, whose sums are in shorter
    blocks than those of today's libraries. It takes about twice the time. None, the state at the
    start, lets solvers choose: those of type SGD and Nesterov on the CPU sum exactly, and their
    losses equal the original's; the other types divide by tiny roots, which undoes that.
    """
    _state["exact_sums"] = exact


def exact_sums(solver_type: str | None = None) -> bool:
    """Whether to sum exactly, in a net of its own or in a solver's of the given type."""
    if _state["exact_sums"] is None:
        return solver_type in ("SGD", "Nesterov") and not _state["gpu"]
    return bool(_state["exact_sums"])


def set_random_seed(seed: int) -> None:
    """Make the random numbers of fillers, data and Dropout come out the same each time."""
    torch.manual_seed(seed)
    _state["seeded"] = True  # also where torch had this seed already


def is_seeded() -> bool:
    """Whether somebody has set torch's random numbers."""
    return bool(_state["seeded"]) or torch.default_generator.initial_seed() != _FIRST_SEED


def seed_once() -> None:
    """Let random numbers differ from run to run, as the original's do, unless a seed was set."""
    if not is_seeded():
        torch.seed()


def layer_type_list() -> list[str]:
    """Return the types of layers there are."""
    return list(layer_types())


# ---- several processes: the original trains on several GPUs through NCCL; here one trains alone


def solver_count() -> int:
    """Return how many solvers train together: always 1."""
    return 1


def set_solver_count(count: int) -> None:
    """Accept one solver.

    Raises:
        UsageError: more are asked for.
    """
    if count != 1:
        raise UsageError(f"training runs in one process here. Received: solver_count={count}")


def solver_rank() -> int:
    """Return this solver's number: always 0."""
    return 0


def set_solver_rank(rank: int) -> None:
    """Accept the first solver.

    Raises:
        UsageError: another one is asked for.
    """
    if rank != 0:
        raise UsageError(f"training runs in one process here. Received: solver_rank={rank}")


def set_multiprocess(multiprocess: bool) -> None:
    """Accept a single process.

    Raises:
        UsageError: several are asked for.
    """
    if multiprocess:
        raise UsageError("training runs in one process here. Received: multiprocess=True")


def has_nccl() -> bool:
    """Whether solvers can train together through NCCL: never."""
    return False


class NCCL:
    """What ties solvers on several GPUs together in the original; here it can only refuse."""

    def __init__(self, solver: object, uid: str) -> None:
        raise UsageError("NCCL is not there: training runs in one process. See has_nccl()")

    @staticmethod
    def new_uid() -> str:
        """Refuse, as there is nothing to name."""
        raise UsageError("NCCL is not there: training runs in one process. See has_nccl()")
