"""One training from its plan to its end, with its log and signals, and the export of its student.

What ``train`` does for the command line and the recipes do again and again.
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
    """How a training is run, whatever it trains.

    Attributes:
        gpu: the CUDA device, as in ``-gpu``; None: the solver's choice.
        snapshot: a solverstate to resume from.
        log: the log file; None: a new one beside the snapshots.
        quiet: whether the log's lines go to the file only, and warnings alone to stderr too; an
            error that ends the training is left to the caller, who shows it.
        label: what the progress line, and the warnings of a quiet run, begin with.
        progress: whether stderr shows a progress line; None: if it is a terminal.
        effects: what SIGINT, SIGHUP and SIGTERM do: snapshot, stop (which snapshots too) or none.
        resume_hint: is logged after a stop; None: how -snapshot resumes.
        options: what is asked of the solver beyond its prototxt.
        callbacks: what else takes part in the training loop.
        at_end: is called after the last iteration, while the log is still open.
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
    """Train as planned, with a log on stderr and in a file.

    Raises:
        Stopped: a signal has ended the training; the log says how it is resumed.
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
    return f"To go on: -snapshot {solver.snapshots[1]}"


def new_log(plan: TrainingPlan) -> Path:
    """Make the run's log beside its snapshots, named by its start; no two runs share one."""
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
