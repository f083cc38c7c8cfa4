"""``compute_image_mean``: writes the mean of a database's images, as Caffe's tool does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    import numpy as np

    from ..data.source import SampleSource

SUMMARY = "write the mean image of a database"
GROUP = "caffe"
EXAMPLE = "output/mnist_train_lmdb output/mnist/mean.binaryproto"
DESCRIPTION = """Computes the mean image of a database and writes it as a binaryproto, which
transform_param { mean_file } reads. Prints the mean of each channel, in the images' order (blue,
green, red), which transform_param { mean_value } takes."""
PROGRESS_EVERY = 10_000


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    samples = _open(Path(arguments.input_db), arguments.backend)
    from ..data.mean_image import mean_of, write_mean

    print("Starting iteration")
    mean = mean_of(samples, _report)
    if len(samples) % PROGRESS_EVERY:
        print(f"Processed {len(samples)} files.")
    if arguments.output_file:
        print(f"Write to {arguments.output_file}")
        write_mean(Path(arguments.output_file), mean)
    print(f"Number of channels: {len(mean)}")
    for channel, value in enumerate(channel_means(mean)):
        print(f"mean_value channel [{channel}]: {value:g}")
    return 0


def _open(path: Path, backend: str | None) -> SampleSource:
    from ..data.backends import open_source, recognizing
    from ..proto import caffe_pb2 as pb

    if backend is None:
        backend = next(iter(recognizing(path)), "LMDB")
    kind = pb.DataParameter.DB.Value(backend.upper())
    return open_source(pb.DataParameter(source=str(path), backend=kind), Path)


def _report(seen: int) -> None:
    if seen % PROGRESS_EVERY == 0:
        print(f"Processed {seen} files.")


def channel_means(mean: np.ndarray) -> list[float]:
    """Return the mean of each channel of a mean image, summed in float32 as in Caffe."""
    import numpy as np

    sums: list[Any] = [np.cumsum(channel, dtype=np.float32)[-1] for channel in mean]
    return [float(total / np.float32(mean[0].size)) for total in sums]


def parser() -> CommandParser:
    """Return the command's parser."""
    from ..data import backends

    parser = CommandParser("compute_image_mean", DESCRIPTION, EXAMPLE)
    parser.add_argument("input_db", metavar="INPUT_DB", help="the database")
    parser.add_argument(
        "output_file",
        metavar="OUTPUT_FILE",
        nargs="?",
        help="the mean image (default: none)",
    )
    flags.add(
        parser,
        "backend",
        choices=[name.lower() for name in backends.names()],
        help="the database's kind (default: what INPUT_DB looks like, or lmdb)",
    )
    return parser
