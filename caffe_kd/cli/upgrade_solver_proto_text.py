"""``upgrade_solver_proto_text``: writes a solver's prototxt of any year in the current format."""

from __future__ import annotations

from collections.abc import Sequence

from . import upgrade
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write an old solver's prototxt in the current format"
GROUP = "caffe"
EXAMPLE = "old_solver.prototxt new_solver.prototxt"
DESCRIPTION = """Reads a solver's prototxt of any year and writes it in the current format:
solver_type: ADAM becomes type: "Adam", and nets written inside the solver are upgraded too."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return upgrade.run(parser().parse_args(argv), _kind)


def parser() -> CommandParser:
    """Return the command's parser."""
    return upgrade.new_parser("upgrade_solver_proto_text", DESCRIPTION, EXAMPLE)


def _kind() -> upgrade.Kind:
    from ..proto import caffe_pb2 as pb
    from ..proto import text
    from ..proto.upgrade import upgrade_solver

    return upgrade.Kind(
        "SolverParameter text proto",
        lambda path: text.read(path, pb.SolverParameter()),
        upgrade_solver,
        text.write,
    )
