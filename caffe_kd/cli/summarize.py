"""``summarize``: lists a net's layers, their connections, shapes and parameters."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError, printable_name
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say, say_to_stderr

if TYPE_CHECKING:
    import argparse

SUMMARY = "list a net's layers with their shapes and parameters"
GROUP = "check"
EXAMPLE = "prototxt/mnist/student_train_test.prototxt"
DESCRIPTION = """Lists a net's layers as Caffe's summarize.py does: name, type, (name and
multipliers of parameters, if they are not 1), bottoms -> tops, and for convolution and pooling
kernel/stride+pad outputs/group. On a terminal each blob has a colour; a top that no layer takes is
underlined, a bottom that no layer makes has a red background. A second table has, for one phase,
the shapes of the tops, the parameters, and the multiply-adds for a sample. If the data is absent,
-input_shape gives the shape of its samples. doctor reports more about the net."""

_COLOURS = ("92", "93", "94", "95", "97", "96", "42", "43;30", "100", "44", "103;30", "107;30")
_UNMADE, _UNTAKEN, _PLAIN = "\033[41m", "\033[1;4m", "\033[0m"
_ESCAPE = re.compile(r"\033\[[\d;]+m")


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if arguments.max_width < 1:
        raise UsageError(f"--max-width must be at least 1. Received: {arguments.max_width}")
    given = flags.input_shapes(arguments.input_shape)
    from ..net import read_net

    net = read_net(arguments.net)
    print(*aligned(rows(net, sys.stdout.isatty()), arguments.max_width), sep="\n")
    return _print_cost(net, arguments, given)


# ---- Caffe's table


def rows(net: Any, is_coloured: bool) -> list[list[str]]:
    """Return name, type, parameters, bottoms, arrow, tops and geometry of each layer.

    Source: BVLC/caffe's tools/extra/summarize.py, which prints no geometry of kernels that are not
    square.
    """
    untaken: set[str] = set()
    for layer in net.layer:
        untaken = (untaken | set(layer.top)) - set(layer.bottom)
    colours: dict[str, str] = {}
    table = []
    for layer in net.layer:
        tops = []
        for index, top in enumerate(layer.top):
            colour = colours.setdefault(top, f"\033[{_COLOURS[len(colours) % len(_COLOURS)]}m")
            text = f"{_UNTAKEN if top in untaken else ''}{printable_name(top)}"
            if index < len(layer.loss_weight):
                text = f"{_float(layer.loss_weight[index])} * {text}"
            tops.append(f"{colour}{text}{_PLAIN}")
        bottoms = [
            f"{colours.get(name, _UNMADE)}{printable_name(name)}{_PLAIN}" for name in layer.bottom
        ]
        kind = layer.type
        if kind == "Python":
            kind = f"{layer.python_param.module}.{layer.python_param.layer}"
        params = [_parameter(param) for param in layer.param]
        multipliers = f"({', '.join(params)})" if any(params) else ""
        names = map(printable_name, (layer.name, kind, multipliers))
        cells = [*names, ", ".join(bottoms), "->", ", ".join(tops)]
        cells.append(_geometry(layer))
        table.append(cells if is_coloured else [_ESCAPE.sub("", cell) for cell in cells])
    return table


def _parameter(param: Any) -> str:
    parts = [param.name] if param.name else []
    parts += [f"x{_float(param.lr_mult)}"] if param.lr_mult != 1 else []
    parts += [f"Dx{_float(param.decay_mult)}"] if param.decay_mult != 1 else []
    return " ".join(parts)


def _float(value: float) -> str:
    """Return a float32 as Python would write it: 2.0, 0.1."""
    return str(float(f"{value:.7g}"))


def _geometry(layer: Any) -> str:
    """Return ``kernel/stride+pad outputs/group``, without what is at its default."""
    if layer.type in ("Convolution", "Deconvolution"):
        param = layer.convolution_param
        text = _window(param, lambda name: list(getattr(param, name)))
        text += f" {param.num_output}" + (f"/{param.group}" if param.group != 1 else "")
        return text.strip()
    if layer.type == "Pooling":
        param = layer.pooling_param
        if param.global_pooling:
            return "global"
        return _window(param, lambda name: [getattr(param, name)])
    return ""


def _window(param: Any, sizes: Callable[[str], list[int]]) -> str:
    text = ""
    for sign, name, short, default in (
        ("", "kernel_size", "kernel", None),
        ("/", "stride", "stride", 1),
        ("+", "pad", "pad", 0),
    ):
        sides = [f"{short}_h", f"{short}_w"]
        if any(param.HasField(side) for side in sides):
            values = [getattr(param, side) for side in sides]
        else:
            values = sizes(name)
        if set(values) - {default}:
            text += sign + "x".join(map(str, values))
    return text


def aligned(table: list[list[str]], max_width: int) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as their widest cell, up to a limit.

    A cell wider than ``max_width`` overflows; the cells after it stay aligned if they can.
    """
    width = [
        min(max_width, 1 + max(len(_ESCAPE.sub("", cell)) for cell in column))
        for column in zip(*table, strict=True)
    ]
    for row in table:
        line, right = "", 0
        for cell, size in zip(row, width, strict=True):
            right += size
            line += f"{cell} "
            line += " " * (right - len(_ESCAPE.sub("", line)))
        yield line.rstrip()


# ---- the table of one phase


def _print_cost(net: Any, arguments: argparse.Namespace, given: dict[str, tuple[int, ...]]) -> int:
    """Print shapes, parameters and multiply-adds in the phase; return the exit status."""
    from ..analysis.cost import cost_of
    from ..analysis.shape_inference import infer_shapes
    from ..doctor.report import cost_as_text
    from ..proto import caffe_pb2 as pb
    from ..proto.filter import filter_net

    phase = pb.Phase.Value(arguments.phase)
    stages = [*net.state.stage, *flags.comma_list(arguments.stage)]
    state = pb.NetState(phase=phase, level=arguments.level, stage=stages)
    found = infer_shapes(filter_net(net, state), phase, Path(arguments.net), given, net)
    for absent in found.absent:
        what = absent.reason or "give its samples' shape, as -input_shape data=1,3,28,28"
        say_to_stderr(f"note: {absent.error}: {what}")
    for layer in found.unrun:
        say_to_stderr(f"note: layer '{layer.name}' (Python) is not run; it is left out")
    for _, error in found.problems:
        say_to_stderr(f"error: {error}")
    if found.net is not None and found.net.nodes:
        say("", *cost_as_text(cost_of(found.net)))
    return 1 if found.problems else 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("summarize", DESCRIPTION, EXAMPLE)
    parser.add_argument("net", type=flags.prototxt, metavar="NET", help="the net's prototxt")
    parser.add_argument(
        "-w",
        "--max-width",
        type=int,
        default=30,
        metavar="N",
        help="the greatest width of a column of the first table (default: 30)",
    )
    flags.add(
        parser,
        "phase",
        choices=["TRAIN", "TEST"],
        default="TEST",
        help="the second table's phase (default: TEST)",
    )
    flags.state(parser)
    flags.input_shape(parser)
    return parser
