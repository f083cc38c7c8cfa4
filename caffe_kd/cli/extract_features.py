"""``extract_features``: writes a net's blobs for many samples, as Caffe's tool does."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import NetError, UsageError, did_you_mean
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from torch import Tensor

    from ..logs.log import Log
    from ..net import Net

SUMMARY = "write a net's blobs for many samples into an LMDB"
GROUP = "caffe"
EXAMPLE = "net.caffemodel net.prototxt fc7,prob fc7_lmdb,prob_lmdb 10 lmdb GPU 0"
DESCRIPTION = """Runs batches of the data of a net's prototxt through the net, in phase TEST, and
writes some of its blobs into databases: for each sample a Datum with float_data, its key the
sample's number in ten digits. A Data layer reads them like images of CHANNELS x HEIGHT x WIDTH."""
PROGRESS_EVERY = 1000


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    names = flags.comma_list(arguments.blobs)
    paths = [Path(path) for path in flags.comma_list(arguments.databases)]
    _check(arguments, names, paths)
    from ..logs.log import Log
    from ..net import load_net
    from ..net.weights import load_for_use
    from ..proto.upgrade import Notes
    from ..solver.device import choose_device

    device, message = choose_device(_gpu(arguments), None)
    with Log() as log:
        log.info(message)
        notes = Notes()
        stages = flags.comma_list(arguments.stage)
        net = load_net(arguments.model, level=arguments.level, stages=stages, notes=notes)
        for note in notes.lines:
            log.info(note)
        load_for_use(net, [arguments.weights], log)
        for name in names:
            if name not in net.shapes:
                raise NetError(
                    f"Unknown feature blob name {name} in the network {arguments.model}."
                    f"{did_you_mean(name, net.shapes)} It has: {', '.join(net.shapes)}"
                )
        net.to_device(device, channels_last=False)
        log.info("Extracting Features")
        extract(net, dict(zip(names, paths, strict=True)), arguments.batches, log)
        log.info("Successfully extracted the features!")
    return 0


def extract(net: Net, databases: dict[str, Path], batches: int, log: Log) -> None:
    """Run batches through a net and write its blobs into an LMDB each, by name.

    Raises:
        DataError: a database is there already or cannot be written; then none is made.
        NetError: a blob has more than four axes, which no Datum holds.
    """
    import torch

    from ..data.backends.lmdb import LmdbWriter

    with ExitStack() as stack, torch.no_grad():
        writers = {n: stack.enter_context(LmdbWriter(p)) for n, p in databases.items()}
        for _ in range(batches):
            net()
            for name, writer in writers.items():
                for value in _datums(name, net.blobs[name]):
                    writer.put(b"%010d" % writer.count, value)
                    if writer.count % PROGRESS_EVERY == 0:
                        _log_progress(log, name, writer.count)
    for name, writer in writers.items():
        if writer.count % PROGRESS_EVERY:
            _log_progress(log, name, writer.count)


def _log_progress(log: Log, name: str, count: int) -> None:
    log.info(f"Extracted features of {count} query images for feature blob {name}")


def _datums(name: str, blob: Tensor) -> Iterator[bytes]:
    """Yield the samples of a blob, each as a Datum."""
    from ..proto import caffe_pb2 as pb

    if blob.dim() > 4:
        raise NetError(
            f"blob '{name}' has {blob.dim()} axes: Cannot use legacy accessors on Blobs with > 4 "
            "axes, and a Datum has channels, height and width"
        )
    count, channels, height, width = (*blob.shape, 1, 1, 1, 1)[:4]
    values = blob.detach().float().cpu().contiguous().numpy().reshape(count, -1)
    for sample in values:
        datum = pb.Datum(channels=channels, height=height, width=width)
        datum.float_data.extend(sample)
        yield datum.SerializeToString()


def _check(arguments: argparse.Namespace, names: list[str], paths: list[Path]) -> None:
    if len(names) != len(paths) or not names or len({*names}) < len(names):
        raise UsageError(
            "the number of blob names and dataset names must be equal, and no blob named twice. "
            f"Received: {arguments.blobs} and {arguments.databases}"
        )
    if len({*paths}) < len(paths):
        raise UsageError(f"each blob needs a database of its own. Received: {arguments.databases}")
    if arguments.batches < 1:
        raise UsageError(f"num_mini_batches must be at least 1. Received: {arguments.batches}")
    if arguments.db_type != "lmdb":
        raise UsageError(
            f"db_type {arguments.db_type}: a LevelDB can be read, not written. Write lmdb"
        )


def _gpu(arguments: argparse.Namespace) -> str | None:
    """Return the device number that the last arguments or -gpu ask for."""
    if arguments.mode != "GPU":
        return str(arguments.gpu) if arguments.gpu is not None else None
    return str(arguments.device.removeprefix("DEVICE_ID="))


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("extract_features", DESCRIPTION, EXAMPLE)
    add = parser.add_argument
    add("weights", metavar="pretrained_net_param", help="the caffemodel")
    add("model", type=flags.prototxt, metavar="feature_extraction_proto_file",
        help="the net's prototxt, with its data")  # fmt: skip
    add("blobs", metavar="blob1[,blob2...]", help="the blobs to write")
    add("databases", metavar="db1[,db2...]", help="the databases to make, one for each blob")
    add("batches", metavar="num_mini_batches", type=flags.int32, help="how many batches to run")
    add("db_type", choices=["lmdb", "leveldb"], help="lmdb; a leveldb cannot be written")
    add("mode", nargs="?", choices=["CPU", "GPU"], default="CPU", help="(default: CPU)")
    add("device", nargs="?", default="0", metavar="DEVICE_ID", help="the GPU's (default: 0)")
    flags.add(parser, "gpu", metavar="N", help="the CUDA device to run on, as GPU N at the end")
    flags.state(parser)
    flags.own_code(parser)
    return parser
