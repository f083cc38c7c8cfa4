"""``device_query``: prints the properties of the CUDA devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

SUMMARY = "print the CUDA devices"
GROUP = "caffe"
EXAMPLE = "-gpu all"
DESCRIPTION = """Prints what PyTorch knows of the CUDA devices, in Caffe's lines: of all devices, or
of those that -gpu names. If there is none it says so, which is not an error."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    import torch

    from ..logs.log import Log
    from ..solver.device import gpu_numbers

    count = torch.cuda.device_count()
    with Log() as log:
        if not count and arguments.gpu in (None, "", "all"):
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
            log.info(f"No CUDA device. PyTorch {torch.__version__} is built for {built}.")
            return 0
        if not count:
            raise UsageError(f"-gpu {arguments.gpu}: there are 0 CUDA devices here")
        numbers = gpu_numbers(arguments.gpu or "all", count)
        log.info(f"Querying GPUs {','.join(map(str, numbers))}")
        for number in numbers:
            for line in lines(number, torch.cuda.get_device_properties(number)):
                log.info(line)
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("device_query", DESCRIPTION, EXAMPLE)
    flags.add(parser, "gpu", metavar="N", help="devices, separated by commas, or all")
    flags.glog(parser)
    flags.idle(parser, "solver", "model", "phase", "level", "stage", "snapshot", "weights")
    flags.idle(parser, "iterations", "sigint_effect", "sighup_effect", "log_dir")
    return parser


def lines(number: int, device: Any) -> list[str]:
    """Return Caffe's lines about a device, as far as this PyTorch knows its properties."""
    facts = (
        ("Major revision number", "major"),
        ("Minor revision number", "minor"),
        ("Name", "name"),
        ("Total global memory", "total_memory"),
        ("Total shared memory per block", "shared_memory_per_block"),
        ("Warp size", "warp_size"),
        ("Maximum threads per block", "max_threads_per_block"),
        ("Clock rate", "clock_rate"),
        ("Number of multiprocessors", "multi_processor_count"),
    )
    known = [("Device id", number)]
    known += [(what, getattr(device, name)) for what, name in facts if hasattr(device, name)]
    return [f"{what + ':':31s}{value}" for what, value in known]
