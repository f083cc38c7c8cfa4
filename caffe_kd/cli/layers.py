"""``layers``: tells which layer types there are."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..core.errors import UsageError, did_you_mean
from . import common

if TYPE_CHECKING:
    from ..layers import Layer


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = _parser().parse_args(argv)

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


def _parser() -> argparse.ArgumentParser:
    parser = common.parser(
        "layers",
        "Prints the layer types as a table: what each does, how many bottoms and tops it takes, "
        "which fork it comes from, and what becomes of it in ONNX. With a type: its documentation "
        "and its settings.",
    )
    parser.add_argument("type", nargs="?", metavar="TYPE", help="the type to describe")
    common.flag(
        parser, "brief", action="store_true", help="the names alone, by where they are from"
    )
    common.layers_flag(parser)
    return parser


def description(kind: type[Layer]) -> list[str]:
    """Return what there is to say of a type: its row of the table, docstring and settings."""
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
    """Return a Markdown table with a row a type."""
    rows = ["| type | what it does | bottoms | tops | from | ONNX |", "|---|---|---|---|---|---|"]
    for kind in types:
        sentence = (kind.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
        bottoms, tops = (_bounds(*bounds) for bounds in (kind.bottoms, kind.tops))
        rows.append(
            f"| {kind.type} | {sentence} | {bottoms} | {tops} | {kind.origin} | {onnx_form(kind)} |"
        )
    return rows


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
    """Tell what becomes of a layer type when a net is exported."""
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
