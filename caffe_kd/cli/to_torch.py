"""``to_torch``: writes a net as PyTorch code of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import common

DESCRIPTION = """Writes the deployed net as one readable Python file that needs PyTorch and
safetensors alone, and its weights beside it as .safetensors. In Python: from NAME import load;
net = load(); net(images). A layer that has no such form is an error that lists all of them; for a
type of your own, a function that its file registers with caffe_kd.export.torch_emitters.emits
writes it."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.torch_code import write_torch
    from ..net import read_net

    net = read_net(arguments.model)
    options = common.deploy_options(arguments, net)
    output = Path(arguments.output or f"{Path(arguments.model).stem}.py")
    weights = write_torch(net, arguments.model, arguments.weights, output, options)
    print(f"wrote {output} and {weights}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = common.new_parser("to_torch", DESCRIPTION)
    common.flag(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    common.flag(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    common.flag(
        parser,
        "output",
        metavar="FILE",
        help="the .py file to write (default: the prototxt's name, here)",
    )
    common.deploy_flags(parser)
    common.user_code_flags(parser)
    return parser
