"""``draw_net``: draws a net, or the nets of a solver, as a graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import CaffeKDError, UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..analysis.reading import Target

SUMMARY = "draw a net, or teacher and student side by side"
GROUP = "check"
EXAMPLE = "prototxt/mnist/kd_solver.prototxt output/mnist/kd.png"
DESCRIPTION = """Draws a net's prototxt as PNG, SVG, PDF or dot: layers as boxes, blobs as arrows
with their shapes. For a solver it draws the nets that it trains: each teacher, what student and
teachers share, and the student, side by side. Data and weights need not be present; shapes that
depend on absent data are left out unless -input_shape gives them."""

_FORMATS = ("png", "svg", "pdf", "dot", "gv")
_PHASES = ("ALL", "TRAIN", "TEST")


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if Path(arguments.output).suffix[1:].lower() not in _FORMATS:
        raise UsageError(
            f"OUTPUT must end with .{', .'.join(_FORMATS)}. Received: {arguments.output}"
        )
    given = flags.input_shapes(arguments.input_shape)
    from ..analysis.reading import ReadOptions, read_target
    from ..proto.filter import is_included
    from ..pycaffe.draw import Drawing, shapes_of

    stages = flags.comma_list(arguments.stage)
    target = read_target(arguments.net, ReadOptions(None, given, arguments.level, stages))
    if target.unplanned is not None and not target.layers:
        raise target.unplanned
    phase = arguments.phase or ("ALL" if target.solver is None else "TRAIN")
    views = [v for v in target.views if phase in ("ALL", v.phase_name)]
    if phase != "ALL":
        layers = _layers_in(views, phase)
    elif stages or arguments.level:
        layers = [x for x in target.layers if any(is_included(x, v.param.state) for v in views)]
    else:
        layers = target.layers
    built = [view.inference.net for view in views if view.inference.net is not None]
    lanes, titles = _lanes(target)
    rankdir = arguments.rankdir or ("LR" if target.solver is None else "TB")
    drawing = Drawing(layers, shapes_of(built), rankdir, arguments.display_lrm, lanes, titles)
    drawing.write(arguments.output)
    print(f"wrote {arguments.output}: {len(drawing.nodes)} layers", file=sys.stderr)
    return 0


def _layers_in(views: Sequence[Any], phase: str) -> Sequence[Any]:
    if not views:
        raise CaffeKDError(f"the net has no data or input in phase {phase}")
    layers: Sequence[Any] = views[0].param.layer
    return layers


def _lanes(target: Target) -> tuple[dict[str, int], dict[int, str]]:
    """Return each layer's column, and the columns' headings; nothing if there is no teacher.

    From left to right: the teachers, shared layers and the distiller, the student.
    """
    names = [name for name, _ in target.teachers]
    if not names or target.student is None:
        return {}, {}
    lanes = {}
    middle = len(names)
    own = {layer.name for layer in target.student.layer if layer.bottom}
    for layer in target.layers:
        teacher = layer.name.partition("/")[0] if "/" in layer.name else None
        if teacher in names:
            lanes[layer.name] = names.index(teacher)
        else:
            lanes[layer.name] = middle + 1 if layer.name in own else middle
    return lanes, {**dict(enumerate(names)), middle + 1: "student"}


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("draw_net", DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "net",
        type=flags.prototxt,
        metavar="NET",
        help="a net's or a solver's prototxt",
    )
    parser.add_argument("output", metavar="OUTPUT", help="the image file, .png, .svg, .pdf or .dot")
    flags.add(
        parser,
        "rankdir",
        metavar="DIR",
        help="the direction of the graph: TB (top to bottom), BT, LR or RL (default: LR for a net, "
        "TB for a solver)",
    )
    flags.add(
        parser,
        "phase",
        choices=_PHASES,
        help="the layers of that phase (default: ALL for a net, TRAIN for a solver)",
    )
    flags.add(
        parser, "display_lrm", action="store_true", help="write the learning rate's multipliers"
    )
    flags.state(parser)
    flags.input_shape(parser)
    flags.own_code(parser)
    return parser
