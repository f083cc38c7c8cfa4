"""``summarize``: lists a net's layers with their shapes and parameters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from . import common
from .doctor import read_shape

DESCRIPTION = """Lists a net's layers in one phase: name, type, shapes of the tops, parameters and
multiply-adds of a record. Where the data is not here, -input_shape tells the shape of its records;
doctor tells more of the net."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("summarize", DESCRIPTION)
    parser.add_argument("net", metavar="NET", help="the net's prototxt")
    common.flag(
        parser,
        "phase",
        choices=["TRAIN", "TEST"],
        default="TEST",
        help="the net's phase (default: TEST)",
    )
    common.flag(parser, "level", type=common.int32, default=0, help="the net's level (default: 0)")
    common.flag(parser, "stage", metavar="NAMES", help="the net's stages, separated by commas")
    common.flag(
        parser,
        "input_shape",
        action="append",
        default=[],
        metavar="BLOB=C,H,W",
        help="the shape of a record, where its data is absent; may be given for several blobs",
    )
    arguments = parser.parse_args(argv)
    given = dict(read_shape(shape) for shape in arguments.input_shape)
    from ..doctor.cost import cost_of
    from ..doctor.report import cost_as_text
    from ..doctor.survey import survey
    from ..net import read_net
    from ..proto import caffe_pb2 as pb
    from ..proto.filter import filter_net

    param, phase = read_net(arguments.net), pb.Phase.Value(arguments.phase)
    stages = [*param.state.stage, *common.comma_list(arguments.stage)]
    state = pb.NetState(phase=phase, level=arguments.level, stage=stages)
    found = survey(filter_net(param, state), phase, Path(arguments.net), given)
    for absent in found.absent:
        what = absent.reason or "give its records' shape, as -input_shape data=3,28,28"
        print(f"note: {absent.error}: {what}", file=sys.stderr)
    for layer in found.unrun:
        print(f"note: layer '{layer.name}' (Python) is not run, and left out", file=sys.stderr)
    for _, error in found.problems:
        print(f"error: {error}", file=sys.stderr)
    steps = found.net.steps if found.net is not None else []
    if found.net is not None and steps:
        print("\n".join(cost_as_text(cost_of(found.net))))
    return 1 if found.problems or not steps else 0
