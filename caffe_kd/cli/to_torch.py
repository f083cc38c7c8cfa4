"""``to_torch``: writes a net as standalone PyTorch code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "write a trained net as standalone PyTorch code"
GROUP = "deploy"
EXAMPLE = (
    "-model prototxt/mnist/student_train_test.prototxt "
    "-weights output/mnist/student_iter_18760.caffemodel "
    "-output student.py"
)
DESCRIPTION = """Writes the deployed net as one readable Python file that needs only PyTorch and
safetensors, and its weights beside it as .safetensors. In Python: from NAME import load;
net = load(); net(images). Layers that cannot be written as PyTorch code are an error that lists all
of them; a type of your own needs a function that writes its code, registered with
caffe_kd.export.torch_emitters.emits."""


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
        help="the .py file to write (default: the prototxt's name, in the current folder)",
    )
    flags.deploy(parser)
    flags.own_code(parser)
    return parser
