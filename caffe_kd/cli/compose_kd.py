"""``compose_kd``: prints the net that is composed of teacher, student and distiller."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import CaffeKDError, UsageError
from . import flags, output
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "print the composed net of teacher and student"
GROUP = "check"
EXAMPLE = "-solver prototxt/mnist/kd_solver.prototxt"
DESCRIPTION = """Prints, as prototxt, the net a solver would train: the student's layers, the
teacher's under teacher/<name> and frozen, and the distiller's. With -for caffe, the net with which
BVLC Caffe (built with WITH_PYTHON_LAYER) does the same."""

_HOW_TO = """To train it with BVLC Caffe:
  - {solver}{lacks}
  - PYTHONPATH must have the folder of pycaffe, and a folder in which caffe_kd/plugin lies
    (that folder alone is enough: {plugin})"""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from ..solver.plan import Overrides, read_plan

    overrides = Overrides(
        teacher_weights=arguments.teacher_weights,
        temperature=arguments.temperature,
        alpha=arguments.alpha,
        count_blobs=None if arguments.weights_output else _count_blobs,
    )
    plan = read_plan(arguments.solver, overrides)
    net = plan.composed
    if arguments.phase == "TRAIN":
        net = plan.train.param
    elif arguments.phase == "TEST":
        if not plan.tests:
            raise UsageError("-phase TEST: the solver has no test net (no test_iter)")
        net = plan.tests[0].param
    if arguments.target:
        net = _for_caffe(plan, net, arguments)
    output.put_prototxt(net, arguments.output)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("compose_kd", DESCRIPTION, EXAMPLE)
    flags.add(parser, "solver", required=True, metavar="FILE", help="the solver's prototxt")
    flags.add(parser, "output", metavar="FILE", help="write there instead of to stdout")
    flags.add(
        parser,
        "phase",
        choices=["TRAIN", "TEST", "ALL"],
        default="ALL",
        help="only the layers of this phase (default: ALL, with their include rules)",
    )
    flags.add(parser, "teacher_weights", metavar="FILE", help="weights of the teacher")
    flags.distilling(parser)
    flags.add(
        parser,
        "for",
        choices=["caffe"],
        dest="target",
        help="write a net for BVLC Caffe, with the plugin's layers in place of this package's",
    )
    flags.add(
        parser,
        "weights_output",
        metavar="FILE",
        help="with -for caffe: write the teachers' weights there, under the names in this net",
    )
    flags.add(
        parser,
        "solver_output",
        metavar="FILE",
        help="with -for caffe and -output: write the solver for the net there",
    )
    flags.add(
        parser,
        "databases",
        metavar="FOLDER",
        help="with -for caffe: write LMDBs there of data that BVLC Caffe cannot read (backend: "
        "IDX, first, count, leave_out), unless they exist already",
    )
    return parser


def _check(arguments: Any) -> None:
    """Refuse flags that need others which are not given."""
    for name in ("weights_output", "databases", "solver_output"):
        if getattr(arguments, name) and not arguments.target:
            raise UsageError(f"-{name} needs -for caffe")
    if arguments.solver_output and (not arguments.output or arguments.phase != "ALL"):
        raise UsageError("-solver_output needs -output, and a net of all phases (-phase ALL)")


def _count_blobs(net: Any, missing: CaffeKDError) -> Mapping[str, int]:
    """Warn that a teacher's weights are missing: only its number of parameters depends on them."""
    from ..analysis.reading import blob_counts

    output.say_to_stderr(f"compose_kd: warning: {missing}")
    return blob_counts(net)


def _for_caffe(plan: Any, net: Any, arguments: Any) -> Any:
    """Return the net for BVLC Caffe; write its weights, and print how to train it."""
    from ..for_caffe import net as for_caffe
    from ..for_caffe.databases import Databases
    from ..for_caffe.solver import settings_to_leave_out
    from ..proto.binary import write_weights

    databases = None
    if arguments.databases:
        databases = Databases(Path(arguments.databases), output.say_to_stderr)
    net = for_caffe.net_for_caffe(net, plan.ema_teachers, databases)
    weights = for_caffe.weights_for_caffe(plan, net)
    if arguments.weights_output:
        write_weights(arguments.weights_output, for_caffe.layers_with(net, weights), weights)
        output.say_to_stderr(f"wrote {arguments.weights_output}")
    if arguments.solver_output:
        _put_solver(plan, weights, arguments)
    lacks = ", ".join(settings_to_leave_out(plan.solver))
    how_to = _HOW_TO.format(
        solver=f"caffe train -solver {arguments.solver_output or 'FILE (see -solver_output)'}",
        lacks=lacks and f", without {lacks}, which it does not have",
        plugin=Path(__file__).resolve().parents[1] / "plugin",
    )
    print(how_to, file=sys.stderr)
    return net


def _put_solver(plan: Any, weights: Mapping[str, Any], arguments: Any) -> None:
    """Write the solver that trains the net from the weights."""
    from ..for_caffe.solver import solver_for_caffe

    if weights and not arguments.weights_output:
        raise UsageError("-solver_output needs -weights_output, for the teacher's weights")
    files = [arguments.weights_output] if weights else []
    files += map(str, plan.student_weights)
    output.put_prototxt(solver_for_caffe(plan, arguments.output, files), arguments.solver_output)
