"""``caffe_kd COMMAND``: finds the command's module and hands the rest of the line to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from ..core.errors import did_you_mean
from ..version import VERSION
from .common import GLOG_SWITCHES, guarded

COMMANDS = {
    "quickstart": "train a teacher and a student on handwritten digits, and distil",
    "train": "run a solver; with a teacher in it, distil",
    "born_again": "train generations of a net, each taught by the one before it",
    "alternate": "train a teacher and a student in turns",
    "search_kd": "look for a solver's best settings on validation records",
    "test": "score a net's weights on its test data",
    "time": "measure each layer's forward and backward pass",
    "device_query": "tell of the CUDA devices",
    "export_onnx": "write a trained net as ONNX",
    "to_torch": "write a trained net as PyTorch code of its own",
    "classify": "tell what an exported model sees in a picture",
    "make_deploy": "write the net that is deployed from the one that was trained",
    "merge_layers": "fold BatchNorm and Scale into the layers before them",
    "refresh_statistics": "take the averages of batch normalisation once more, with fixed weights",
    "draw_net": "draw a net, or teacher and student side by side, as a picture",
    "compose_kd": "print the net that teacher, student and distiller make",
    "hinton_mnist": "reproduce the MNIST experiments of the distillation paper",
    "get_mnist": "get the handwritten digits",
    "convert_mnist_data": "turn IDX files into an LMDB",
    "convert_imageset": "turn a folder of pictures into an LMDB",
    "methods": "train a student by each distillation method, side by side",
    "compute_image_mean": "write the mean image of a database",
    "synthesize": "make training images from a trained net alone",
    "extract_features": "write a net's blobs for many records into an LMDB",
    "doctor": "tell what to know before trusting a net or solver, and what it costs",
    "explain_kd": "print the objective that a solver really optimises, term by term",
    "dark_knowledge": "draw what a teacher knows beyond the labels",
    "run": "run a Python script written for pycaffe, as it is",
    "pycaffe_classify": "classify pictures as the original's classify.py, into an .npy",
    "pycaffe_detect": "classify windows of pictures, as the original's detect.py",
    "pycaffe_train": "train as the original's train.py",
    "verify": "hold a net's blobs against recorded ones, layer by layer",
    "layers": "list the layer types, or describe one",
    "fields": "list the fields of a message of the schema",
    "formats": "list the file formats",
    "bench": "measure speed against plain PyTorch",
    "plot_training_log": "draw the curves of training logs",
    "parse_log": "write a training log as tables of numbers",
    "summarize": "list a net's layers with their shapes and parameters",
    "fuzz": "feed damaged files to every reader",
    "upgrade_net_proto_text": "write an old net's prototxt in the current format",
    "upgrade_net_proto_binary": "write an old caffemodel in the current format",
    "upgrade_solver_proto_text": "write an old solver's prototxt in the current format",
}
OF_THE_ORIGINAL = ("train", "test", "time", "device_query")
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
    words = _command_first(words)
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


def _command_first(words: list[str]) -> list[str]:
    """Return the words with the command at the head; the original's lets flags stand before it."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        name = words[at].lstrip("-")
        at += 1 if "=" in name or name in GLOG_SWITCHES else 2
    if at < len(words) and words[at] in OF_THE_ORIGINAL:
        return [words[at], *words[:at], *words[at + 1 :]]
    return words


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
