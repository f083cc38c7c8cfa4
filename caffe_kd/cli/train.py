"""``train``: runs a solver; with a teacher in it, distils."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import UsageError
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..solver.plan import TrainingPlan

SUMMARY = "run a solver; with a teacher in it, distil"
GROUP = "train"
EXAMPLE = "-solver prototxt/mnist/kd_solver.prototxt -export_onnx output/mnist/student.onnx"
DESCRIPTION = """Trains the net of a solver prototxt. If the solver names a teacher and a
distiller_net, the teacher is distilled into the student. Flags may be written -name value or
--name=value."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.snapshot and arguments.weights:
        raise UsageError("Give a snapshot to resume training or weights to finetune but not both.")
    if arguments.gradient_shares < 0:
        raise UsageError(
            f"-gradient_shares must not be negative. Received: {arguments.gradient_shares}"
        )
    _check_tensorboard(arguments.tensorboard, arguments.tensorboard_histograms)
    from ..solver.plan import Overrides, read_plan

    plan = read_plan(
        arguments.solver,
        Overrides(
            weights=[arguments.weights] if arguments.weights else [],
            teacher_weights=arguments.teacher_weights,
            temperature=arguments.temperature,
            alpha=arguments.alpha,
            max_iter=arguments.max_iter,
            level=arguments.level,
            stages=flags.comma_list(arguments.stage),
        ),
    )
    if arguments.print_net:
        output.print_prototxt(plan.composed)
        return 0
    from ..solver.options import Options
    from ..solver.run import RunOptions, export, train

    if arguments.export_onnx and plan.students:
        raise UsageError(
            "-export_onnx: the solver has several students. Export each when it is trained: "
            "export_onnx -model NET -weights <snapshot_prefix>_<student>_iter_<N>.caffemodel"
        )
    if arguments.output:
        into_folder(plan, Path(arguments.output))
    solver = train(
        plan,
        RunOptions(
            gpu=arguments.gpu,
            snapshot=arguments.snapshot or None,
            progress=False if arguments.no_progress else None,
            log=_log_asked_for(arguments.log, arguments.log_dir),
            effects=(arguments.sigint_effect, arguments.sighup_effect, arguments.sigterm_effect),
            options=Options(
                arguments.teacher_cache,
                arguments.exact_sums,
                arguments.gradient_shares,
                Path(arguments.tensorboard) if arguments.tensorboard else None,
                arguments.tensorboard_histograms,
            ),
        ),
    )
    if arguments.export_onnx:
        _, lines = export(plan, solver, Path(arguments.export_onnx))
        print("\n".join(lines))
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("train", DESCRIPTION, EXAMPLE)
    caffe = parser.add_argument_group("as in Caffe")
    flags.add(
        caffe,
        "solver",
        need="Need a solver definition to train",
        metavar="FILE",
        help="the solver's prototxt",
    )
    flags.add(
        caffe,
        "weights",
        metavar="FILES",
        help="caffemodels to start from, separated by commas; they are the teacher's if the solver "
        "names none for it, else the student's",
    )
    flags.add(caffe, "snapshot", metavar="FILE", help="a .solverstate to resume from")
    flags.gpu(caffe, "train")
    flags.state(caffe)
    for name, effect, meaning in (
        ("sigint_effect", "stop", "Ctrl-C"),
        ("sighup_effect", "snapshot", "the hangup signal"),
        ("sigterm_effect", "stop", "SIGTERM or SIGUSR1, from Slurm or docker stop,"),
    ):
        flags.add(
            caffe,
            name,
            choices=["snapshot", "stop", "none"],
            default=effect,
            help=f"what {meaning} does (default: {effect}; stop also writes a snapshot)",
        )
    flags.add(
        caffe, "log_dir", metavar="FOLDER", help="put the log there, under the name glog gives it"
    )
    flags.glog(caffe)
    flags.idle(caffe, "model", "phase", "iterations")
    own = parser.add_argument_group("distillation and results")
    flags.add(own, "teacher_weights", metavar="FILE", help="weights of the teacher")
    flags.distilling(own)
    flags.add(own, "max_iter", type=flags.int32, help="train to this iteration")
    flags.add(own, "output", metavar="FOLDER", help="put snapshots and the log there")
    flags.add(own, "log", metavar="FILE", help="the log file (default: beside the snapshots)")
    flags.add(own, "export_onnx", metavar="FILE", help="after training, write the student as ONNX")
    flags.add(
        own,
        "print_net",
        action="store_true",
        help="print the composed net that would be trained, and stop",
    )
    flags.own_code(own)
    flags.teacher_cache(own)
    flags.add(
        own,
        "exact_sums",
        action="store_true",
        help="sum in float64 in the forward pass, so that near ties are decided as in Caffe (LeNet "
        "takes twice as long)",
    )
    flags.add(
        own,
        "gradient_shares",
        type=flags.int32,
        default=0,
        metavar="N",
        help="every N iterations log each loss term's share of the student's gradient, which takes "
        "one more backward pass per term",
    )
    flags.add(
        own,
        "tensorboard",
        metavar="FOLDER",
        help="write what is displayed and tested for TensorBoard: losses, the objective's terms, "
        "learning rate, test outputs, test images with softened outputs",
    )
    flags.add(
        own,
        "tensorboard_histograms",
        action="store_true",
        help="with -tensorboard, write histograms of the parameters at each test too",
    )
    flags.no_progress(own)
    return parser


def _check_tensorboard(folder: str | None, histograms: bool) -> None:
    """Refuse flags for TensorBoard that cannot be met.

    Raises:
        UsageError: the package is not installed, or histograms are requested without a folder.
    """
    if histograms and not folder:
        raise UsageError("-tensorboard_histograms needs -tensorboard FOLDER")
    if not folder:
        return
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise UsageError(
            "-tensorboard needs TensorBoard: pip install tensorboard, or -e '.[tensorboard]' of a "
            "checkout"
        ) from None


def into_folder(plan: TrainingPlan, folder: Path) -> None:
    """Move the solver's snapshots (and with them the log) into a folder."""
    plan.solver.snapshot_prefix = str(folder / Path(plan.solver.snapshot_prefix).name)


def _log_asked_for(file: str | None, folder: str | None) -> Path | None:
    """Return the log file of ``-log``, or of ``-log_dir``, where ``caffe.INFO`` links to it.

    Source: glog, which old scripts rely on to find the newest log.
    """
    if file or not folder:
        return Path(file) if file else None
    start, user = time.strftime("%Y%m%d-%H%M%S"), os.environ.get("USER", "invalid-user")
    path = Path(folder) / f"caffe.{platform.node()}.{user}.log.INFO.{start}.{os.getpid()}"
    newest = path.with_name("caffe.INFO")
    with contextlib.suppress(OSError):  # a system without links, or a folder that Log reports
        path.parent.mkdir(parents=True, exist_ok=True)
        newest.unlink(missing_ok=True)
        newest.symlink_to(path.name)
    return path
