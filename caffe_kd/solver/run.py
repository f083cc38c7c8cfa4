"""A training run with its log and signal handling, and the export of its student.

The command line and the recipes both use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import CaffeKDError, Stopped
from ..core.files import new_file
from ..export.pipeline import Exported, export_net
from ..logs.log import Log
from ..proto import caffe_pb2 as pb
from ..proto import text
from .callback import Action, Callback
from .device import choose_device
from .options import Options
from .plan import TrainingPlan
from .signals import SignalActions
from .solver import Solver


@dataclass(frozen=True)
class RunOptions:
    """How a training is run.

    Attributes:
        gpu: the CUDA device, as in ``-gpu``; None: as the solver says.
        snapshot: a solverstate to resume from.
        log: the log file; None: a new one beside the snapshots.
        quiet: whether only warnings go to stderr, and the other lines to the log file only; an
            error that ends the training is then reported by the caller.
        label: a prefix of the progress line and of a quiet run's warnings.
        progress: whether stderr shows a progress line; None: if it is a terminal.
        effects: the actions for SIGINT, SIGHUP and SIGTERM: snapshot, stop (with a snapshot) or
            none.
        resume_hint: a line to log after a stop; None: how to resume with -snapshot.
        options: settings beyond the solver's prototxt.
        callbacks: further callbacks for the training loop.
        at_end: a function to call after the last iteration, while the log is still open.
    """

    gpu: str | None = None
    snapshot: str | Path | None = None
    log: Path | None = None
    quiet: bool = False
    label: str = ""
    progress: bool | None = None
    effects: tuple[str, str, str] = ("stop", "snapshot", "stop")
    resume_hint: str | None = None
    options: Options = field(default_factory=Options)
    callbacks: Sequence[Callback] = ()
    at_end: Callable[[Solver], None] | None = None


def train(plan: TrainingPlan, run: RunOptions | None = None) -> Solver:
    """Run the training of a plan, with a log on stderr and in a file.

    Raises:
        Stopped: a signal has ended the training; the log says how to resume it.
        CaffeKDError: a setting or file is wrong, or the loss became NaN or infinite.
    """
    run = run or RunOptions()
    wants_gpu = None
    if plan.solver.HasField("solver_mode"):
        wants_gpu = plan.solver.solver_mode == pb.SolverParameter.GPU
    device, device_line = choose_device(run.gpu, wants_gpu, plan.solver.device_id)
    path = run.log or new_log(plan)
    actions = map(Action, run.effects)
    with (
        Log(path, progress=run.progress, quiet=run.quiet, label=run.label) as log,
        SignalActions(*actions) as sig,
    ):
        log.info(f"Log file: {path}")
        log.info(device_line)
        try:
            solver = Solver(plan, log, device, run.options, [sig, *run.callbacks])
            log.info("Starting Optimization")
            solver.solve(run.snapshot)
            if solver.stopped:
                raise Stopped(run.resume_hint or _resume_hint(solver), sig.stopped_by)
            if run.at_end is not None:
                run.at_end(solver)
        except CaffeKDError as error:
            (log.info if isinstance(error, Stopped) else log.error)(str(error))
            error.logged = not run.quiet
            raise
        log.info("Optimization Done.")
    return solver


def _resume_hint(solver: Solver) -> str:
    if solver.snapshots is None:
        return "Stopped without a snapshot"
    return f"To resume: -snapshot {solver.snapshots[1]}"


def new_log(plan: TrainingPlan) -> Path:
    """Create a new log file beside the snapshots, named by the time."""
    start = time.strftime("%Y%m%d-%H%M%S")
    return new_file(Path(f"{plan.solver.snapshot_prefix}_{start}.log"))


def export(plan: TrainingPlan, solver: Solver, path: Path) -> tuple[Exported, list[str]]:
    """Write the trained student as ONNX, and beside it a ``deploy.prototxt`` for its weights.

    Returns:
        What was exported, and a line for the user about each file.
    """
    weights, _ = solver.newest_snapshot()
    exported = export_net(plan.student, plan.train.file, weights, path)
    deploy = path.with_name("deploy.prototxt")
    text.write(deploy, exported.net.param)
    difference = exported.report.difference
    return exported, [
        f"{path}: the student; greatest difference to the net {difference:.1e}",
        f"{deploy}: the student's net, for {weights}",
    ]
