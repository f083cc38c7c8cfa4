"""``pycaffe_train``: Caffe's python/train.py, which drives a solver through pycaffe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    import torch

    from ..pycaffe.solver import Solver

SUMMARY = "train as Caffe's train.py"
GROUP = "caffe"
EXAMPLE = "--solver prototxt/mnist/student_solver.prototxt"
DESCRIPTION = """Trains a solver's net for max_iter iterations: Caffe's python/train.py, with its
flags. As there, the update rule is SGD whatever type the solver names, --snapshot continues for
max_iter more iterations, and snapshots are written at the solver's intervals but not at the end.
Training runs on one GPU, or on the CPU if there is none and --gpus is not given. train_kd does all
that the solver says."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..pycaffe.glog import LOG
    from ..pycaffe.solver import SGDSolver
    from ..solver.plan import read_plan

    LOG.info(_use_device(arguments.gpus))
    plan = read_plan(arguments.solver)
    if plan.solver.type != "SGD":
        LOG.warning(
            f'type: "{plan.solver.type}" has no effect: Caffe\'s train.py updates by SGD, '
            "and so does this one. train_kd follows the solver's type"
        )
        plan.solver.type = "SGD"
    solver = SGDSolver.of(plan)
    if arguments.snapshot:
        solver.restore(arguments.snapshot)
    if arguments.timing:
        watch = StopWatch(solver)
        solver.add_callback(watch.begin, watch.end)
    solver.step(solver.param.max_iter)
    return 0


def _use_device(gpus: list[int] | None) -> str:
    """Choose the device; return what to log about it.

    Raises:
        UsageError: several are named, or one that is not here.
    """
    import torch

    from ..pycaffe import mode

    count = torch.cuda.device_count()
    if not count and len(gpus or [0]) == 1:
        mode.set_mode_cpu()
        return "Use CPU. (There is no CUDA device)"
    number, *others = gpus or [0]
    named = f"--gpus {' '.join(map(str, [number, *others]))}"
    if others:
        raise UsageError(f"{named}: training runs on one GPU, in one process; name one")
    if not 0 <= number < count:
        raise UsageError(f"{named}: there are {count} CUDA devices here, 0 to {count - 1}")
    mode.set_device(number)
    mode.set_mode_gpu()
    return f"Using devices [{number}]"


class StopWatch:
    """Measures each layer's passes in the training loop, and logs them every ``display``.

    A layer's forward time is that of its call. Its backward time is from when the gradient of its
    top is known to when that of the next layer's is, in the order of the backward pass.
    """

    def __init__(self, solver: Solver) -> None:
        self._solver = solver
        self._began = 0.0
        self._forward: dict[int, float] = {}
        self._back: list[tuple[float, int]] = []  # when, and which layer begins
        self._back_ended = 0.0
        self._nodes = solver.net._graph.nodes
        for index, node in enumerate(self._nodes):
            if node.layer is not None:
                node.layer.register_forward_pre_hook(partial(self._enter, index))
                node.layer.register_forward_hook(partial(self._leave, index))
        for param in solver.net._graph.net.params:
            if param.blob.requires_grad:
                param.blob.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    self._accumulated
                )

    def begin(self) -> None:
        """Begin an iteration."""
        self._began = self._now()

    def end(self) -> None:
        """End an iteration's passes, and log their times where the solver displays."""
        total = self._now() - self._began
        display = self._solver.param.display
        if not display or self._solver.iter % display:
            return
        from ..pycaffe.glog import LOG

        ends = [when for when, _ in self._back[1:]] + [self._back_ended]
        back: dict[int, float] = {}
        for (when, index), then in zip(self._back, ends, strict=True):
            back[index] = back.get(index, 0.0) + then - when
        for index in sorted(self._forward):
            LOG.info(self._line("forw", index, self._forward[index]))
        for index in sorted(self._forward, reverse=True):
            LOG.info(self._line("back", index, back.get(index, 0.0)))
        LOG.info(f"solver total: {1000 * total:.2f}")

    def _line(self, direction: str, index: int, seconds: float) -> str:
        return f"{direction} {index:3d} {self._nodes[index].name:>8s} : {1000 * seconds:.2f}"

    def _now(self) -> float:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        return time.perf_counter()

    def _enter(self, index: int, *_: Any) -> None:
        if index == 0:  # of several passes of an iteration the last counts
            self._back.clear()
        self._forward[index] = -self._now()

    def _leave(self, index: int, _layer: Any, _bottoms: Any, result: Any) -> None:
        self._forward[index] += self._now()
        for top in result if isinstance(result, tuple) else (result,):
            if top.requires_grad:
                top.register_hook(partial(self._arrived, index))

    def _arrived(self, index: int, _gradient: torch.Tensor) -> None:
        self._back_ended = self._now()
        self._back.append((self._back_ended, index))

    def _accumulated(self, _param: torch.Tensor) -> None:
        self._back_ended = self._now()


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("pycaffe_train", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.add(parser, "snapshot", metavar="FILE", help="a .solverstate to resume from")
    flags.add(
        parser,
        "gpus",
        type=flags.int32,
        nargs="+",
        metavar="N",
        help="the CUDA device (default: 0, or the CPU if there is none)",
    )
    flags.add(parser, "timing", action="store_true", help="log how long each layer takes")
    flags.own_code(parser)
    return parser
