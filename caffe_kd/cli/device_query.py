"""``device_query``: tells of the CUDA devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import common

if TYPE_CHECKING:
    from ..log import Log

DESCRIPTION = """Tells what PyTorch knows of the CUDA devices, in the original's lines. Without -gpu
all are told; where there is none, that is told, and is no error."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("device_query", DESCRIPTION)
    common.flag(parser, "gpu", metavar="N", help="devices, separated by commas, or all")
    common.glog_flags(parser)
    arguments = parser.parse_args(argv)
    import torch

    from ..log import Log

    count = torch.cuda.device_count()
    with Log() as log:
        if not count and arguments.gpu in (None, "all"):
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
            log.info(f"No CUDA device. PyTorch {torch.__version__} is built for {built}.")
            return 0
        numbers = common.gpu_numbers(arguments.gpu or "all", count)
        log.info(f"Querying GPUs {','.join(map(str, numbers))}")
        for number in numbers:
            _tell(number, log)
    return 0


def _tell(number: int, log: Log) -> None:
    import torch

    device = torch.cuda.get_device_properties(number)
    for what, value in (
        ("Device id", number),
        ("Major revision number", device.major),
        ("Minor revision number", device.minor),
        ("Name", device.name),
        ("Total global memory", device.total_memory),
        ("Warp size", device.warp_size),
        ("Number of multiprocessors", device.multi_processor_count),
    ):
        log.info(f"{what + ':':31s}{value}")
