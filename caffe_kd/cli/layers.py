"""``layers``: prints the layer types, or the documentation of one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..core.errors import UsageError, did_you_mean
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..layers import Layer

_HEAD = ["| type | what it does | bottoms | tops | from | ONNX |", "|---|---|---|---|---|---|"]


SUMMARY = "list the layer types, or describe one"
GROUP = "check"
EXAMPLE = "Convolution"
DESCRIPTION = """Prints the layer types in tables, as Caffe's documentation groups them: what each
does, how many bottoms and tops it takes, which fork it comes from, and its form in ONNX. With a
type: its documentation, a sample in prototxt, and its settings."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)

    from ..layers import layer_types

    known = layer_types()
    if arguments.type and arguments.type not in known:
        hint = did_you_mean(arguments.type, known)
        raise UsageError(f"there is no layer type '{arguments.type}'.{hint}")
    if arguments.type:
        lines = description(known[arguments.type])
    else:
        lines = brief(known.values()) if arguments.brief else table(known.values())
    for line in lines:
        print(line)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("layers", DESCRIPTION, EXAMPLE)
    parser.add_argument("type", nargs="?", metavar="TYPE", help="the type to describe")
    flags.add(parser, "brief", action="store_true", help="only the names, by origin")
    flags.layers(parser)
    return parser


def description(kind: type[Layer]) -> list[str]:
    """Return the documentation of a type: its row of the table, docstring and settings."""
    from ..proto import describe

    bottoms, tops = (_bounds(*bounds) for bounds in (kind.bottoms, kind.tops))
    lines = [
        f"{kind.type}, from {kind.origin}. Bottoms: {bottoms}. Tops: {tops}. "
        f"In ONNX: {onnx_form(kind)}.",
        "",
        *inspect.cleandoc(kind.__doc__ or "").splitlines(),
        "",
    ]
    message = describe.message_of(kind.param_field) if kind.param_field else None
    if message is None:
        return [*lines, "It has no settings of its own."]
    return [*lines, f"{kind.param_field}:", *(f"  {x}" for x in describe.lines(message))]


def table(types: Iterable[type[Layer]]) -> list[str]:
    """Return a Markdown table for each folder of types, with a row per type, under its title."""
    from ..layers.docstring import by_folder

    lines = []
    for title, kinds in by_folder(types).items():
        lines += [f"## {title}", "", *_HEAD, *(_row(kind) for kind in kinds), ""]
    return lines[:-1]


def _row(kind: type[Layer]) -> str:
    from ..layers.docstring import docstring_of

    summary = " ".join(docstring_of(kind).summary.split()).replace("|", "\\|")
    bottoms, tops = (_bounds(*bounds) for bounds in (kind.bottoms, kind.tops))
    return f"| {kind.type} | {summary} | {bottoms} | {tops} | {kind.origin} | {onnx_form(kind)} |"


def brief(types: Iterable[type[Layer]]) -> list[str]:
    """Return a Markdown table of the names, a row for each origin: Caffe, the forks, ours."""
    by_origin: dict[str, list[str]] = {}
    for kind in types:
        by_origin.setdefault(kind.origin, []).append(kind.type)
    forks = sorted(set(by_origin) - {"Caffe", "caffe_kd"}, key=str.lower)
    rows = ["| from | types |", "|---|---|"]
    for origin in ("Caffe", *forks, "caffe_kd"):
        names = by_origin.get(origin, [])
        rows.append(f"| {origin} ({len(names)}) | {', '.join(sorted(names, key=str.lower))} |")
    return rows


def onnx_form(kind: type[Layer]) -> str:
    """Return how a layer type is exported to ONNX."""
    from ..export.deploy import becomes_input, is_left_out
    from ..layers import Layer

    if is_left_out(kind):
        return "left out"
    if becomes_input(kind):
        return "an input"
    if kind.no_onnx:
        return "none"
    return "through torch.onnx" if kind.onnx is Layer.onnx else "own operators"


def _bounds(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} or more"
    return str(low) if low == high else f"{low} to {high}"
