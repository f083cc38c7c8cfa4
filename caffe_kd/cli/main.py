"""``caffe_kd COMMAND``: finds the command's module and hands the rest of the line to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import did_you_mean
from ..version import VERSION
from .common import guarded

COMMANDS = {
    "quickstart": "train a teacher and a student on handwritten digits, and distil",
    "train": "run a solver; with a teacher in it, distil",
    "test": "score a net's weights on its test data",
    "export_onnx": "write a trained net as ONNX",
    "classify": "tell what an exported model sees in a picture",
    "make_deploy": "write the net that is deployed from the one that was trained",
    "compose_kd": "print the net that teacher, student and distiller make",
    "get_mnist": "get the handwritten digits",
    "convert_mnist_data": "turn IDX files into an LMDB",
    "convert_imageset": "turn a folder of pictures into an LMDB",
    "bench": "measure speed against plain PyTorch",
    "plot_training_log": "draw the curves of training logs",
    "upgrade_net_proto_text": "write an old net's prototxt in the current format",
    "upgrade_net_proto_binary": "write an old caffemodel in the current format",
    "upgrade_solver_proto_text": "write an old solver's prototxt in the current format",
}
# The short names of the commands that bear a tool's name.
SHORT = {
    "export": "export_onnx",
    "compose": "compose_kd",
    "plot": "plot_training_log",
    "upgrade": "upgrade_net_proto_text",
}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "-help", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] in ("-version", "--version"):
        print(f"caffe_kd {VERSION}")
        return 0
    name = SHORT.get(words[0], words[0])
    if name not in COMMANDS:
        print(
            f"error: unknown command '{words[0]}'.{did_you_mean(words[0], [*COMMANDS, *SHORT])}\n"
            f"{_usage()}",
            file=sys.stderr,
        )
        return 2
    status: int = import_module(f"{__package__}.{name}").main(words[1:])
    return status


def _usage() -> str:
    lines = [f"  {name:25s} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: caffe_kd COMMAND [FLAGS]    (caffe_kd COMMAND -h tells its flags)",
            "",
            *lines,
            "",
            "Short: " + ", ".join(f"{short} = {name}" for short, name in SHORT.items()),
        ]
    )
