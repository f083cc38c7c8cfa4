"""``to_torch``: writes a net as PyTorch code of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write a trained net as PyTorch code of its own"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output student.py"
)
DESCRIPTION = """Writes the deployed net as one readable Python file that needs PyTorch and
safetensors alone, and its weights beside it as .safetensors. In Python: from NAME import load;
net = load(); net(images). A layer that has no such form is an error that lists all of them; for a
type of your own, a function that its file registers with caffe_kd.export.torch_emitters.emits
writes it."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    from ..export.torch_code import write_torch
    from ..net import read_net

    net = read_net(arguments.model)
    options = flags.deploy_options(arguments, net)
    output = Path(arguments.output or f"{Path(arguments.model).stem}.py")
    weights = write_torch(net, arguments.model, arguments.weights, output, options)
    print(f"wrote {output} and {weights}")
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("to_torch", DESCRIPTION, EXAMPLE)
    flags.add(parser, "model", required=True, metavar="NET", help="the net's prototxt")
    flags.add(parser, "weights", required=True, metavar="FILE", help="its .caffemodel")
    flags.add(
        parser,
        "output",
        metavar="FILE",
        help="the .py file to write (default: the prototxt's name, here)",
    )
    flags.deploy(parser)
    flags.own_code(parser)
    return parser
