"""``compute_image_mean``: writes the mean of a database's images, as Caffe's tool does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError
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
    mean = mean_of(samples)
    if arguments.output_file:
        print(f"Write to {arguments.output_file}")
        _write(Path(arguments.output_file), mean)
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


def mean_of(samples: SampleSource) -> np.ndarray:
    """Return the mean image, float32 [C, H, W]; encoded images are decoded as they are stored.

    Raises:
        DataError: a sample is damaged, or has another shape than the first.

    Source: Caffe's sums are float32 and add the samples in order, and so do these.
    """
    import numpy as np

    print("Starting iteration")
    total = np.zeros(samples.read(0)[0].shape, np.float32)
    for index in range(len(samples)):
        image, _ = samples.read(index)
        if image.shape != total.shape:
            raise DataError(
                f"Incorrect data field size: sample {index} is {image.shape} (channels, height, "
                f"width), the first is {total.shape}. A mean image needs images of one size; "
                "convert_imageset -resize_width W -resize_height H resizes them",
                samples.name,
            )
        total += image
        if (index + 1) % PROGRESS_EVERY == 0:
            print(f"Processed {index + 1} files.")
    if len(samples) % PROGRESS_EVERY:
        print(f"Processed {len(samples)} files.")
    return total / np.float32(len(samples))


def channel_means(mean: np.ndarray) -> list[float]:
    """Return the mean of each channel of a mean image, summed in float32 as in Caffe."""
    import numpy as np

    sums: list[Any] = [np.cumsum(channel, dtype=np.float32)[-1] for channel in mean]
    return [float(total / np.float32(mean[0].size)) for total in sums]


def _write(path: Path, mean: np.ndarray) -> None:
    from ..core.files import write_atomically
    from ..proto import caffe_pb2 as pb

    channels, height, width = mean.shape
    blob = pb.BlobProto(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.ravel())
    write_atomically(path, blob.SerializeToString())


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
