"""The device that nets run on, and the random seed: settings of the whole process."""

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
    """Run nets built from now on on the CPU."""
    _state["gpu"] = False


def set_mode_gpu() -> None:
    """Run nets built from now on on the CUDA device of ``set_device``, by default the first.

    Without a CUDA device they run on the CPU, as with ``solver_mode: GPU``; the first time a line
    on stderr says so.
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
    """Select the CUDA device for ``set_mode_gpu``; without one a line on stderr says so.

    Raises:
        UsageError: there are CUDA devices, but not this one.
    """
    count = torch.cuda.device_count()
    if not count:
        _fall_back(f"set_device({number})")
        return
    if not 0 <= number < count:
        raise UsageError(f"there are {count} CUDA devices here. Received: set_device({number})")
    _state["device"] = number


def device() -> torch.device:
    """Return the device that nets run on."""
    return torch.device("cuda", _state["device"]) if _state["gpu"] else _CPU


def set_exact_sums(exact: bool | None) -> None:
    """Whether nets built from now on sum products in float64 in the forward pass.

    Near ties in pooling and ReLU then fall as in Caffe, which sums in shorter blocks than today's
    libraries. It takes about twice the time. With None, the default, it depends on the solver:
    those of type SGD and Nesterov on the CPU sum exactly, and their losses equal Caffe's; the
    other types divide by tiny roots, which undoes that.
    """
    _state["exact_sums"] = exact


def exact_sums(solver_type: str | None = None) -> bool:
    """Whether to sum exactly, in a net on its own or in the net of a solver of the given type."""
    if _state["exact_sums"] is None:
        return solver_type in ("SGD", "Nesterov") and not _state["gpu"]
    return bool(_state["exact_sums"])


def set_random_seed(seed: int) -> None:
    """Seed the random numbers of fillers, data and Dropout."""
    torch.manual_seed(seed)
    _state["seeded"] = True  # even where torch had this seed already


def is_seeded() -> bool:
    """Whether the user has seeded torch."""
    return bool(_state["seeded"]) or torch.default_generator.initial_seed() != _FIRST_SEED


def seed_once() -> None:
    """Seed torch differently in each run, as Caffe does, unless a seed was set."""
    if not is_seeded():
        torch.seed()


def layer_type_list() -> list[str]:
    """Return the registered layer types."""
    return list(layer_types())


# ---- several processes: Caffe trains on several GPUs through NCCL; here there is only one


def solver_count() -> int:
    """Return how many solvers train together: always 1."""
    return 1


def set_solver_count(count: int) -> None:
    """Accept a count of 1.

    Raises:
        UsageError: there is more than one.
    """
    if count != 1:
        raise UsageError(f"training runs in one process here. Received: solver_count={count}")


def solver_rank() -> int:
    """Return this solver's rank: always 0."""
    return 0


def set_solver_rank(rank: int) -> None:
    """Accept rank 0.

    Raises:
        UsageError: the rank is not 0.
    """
    if rank != 0:
        raise UsageError(f"training runs in one process here. Received: solver_rank={rank}")


def set_multiprocess(multiprocess: bool) -> None:
    """Accept a single process.

    Raises:
        UsageError: ``multiprocess`` is true.
    """
    if multiprocess:
        raise UsageError("training runs in one process here. Received: multiprocess=True")


def has_nccl() -> bool:
    """Whether solvers can train together through NCCL: never."""
    return False


class NCCL:
    """Connects solvers on several GPUs in Caffe; not supported here, so it raises."""

    def __init__(self, solver: object, uid: str) -> None:
        raise UsageError("NCCL is not supported: training runs in one process. See has_nccl()")

    @staticmethod
    def new_uid() -> str:
        """Raise, since there is no NCCL."""
        raise UsageError("NCCL is not supported: training runs in one process. See has_nccl()")
