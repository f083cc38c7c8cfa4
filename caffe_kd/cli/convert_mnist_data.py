"""``convert_mnist_data``: turns IDX files into an LMDB, as Caffe's converter does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import DataError
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    import numpy as np


SUMMARY = "turn IDX files into an LMDB"
GROUP = "caffe"
EXAMPLE = (
    "data/mnist/train-images-idx3-ubyte data/mnist/train-labels-idx1-ubyte output/mnist_train_lmdb"
)
DESCRIPTION = "Writes the images and labels of two IDX files (plain or .gz) as an LMDB of Datum."


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    convert(
        Path(arguments.images), Path(arguments.labels), Path(arguments.out), arguments.overwrite
    )
    return 0


def convert(images_path: Path, labels_path: Path, out: Path, overwrite: bool = False) -> None:
    """Write the samples of two IDX files as an LMDB: key ``%08d``, Datum of one channel.

    Raises:
        DataError: a file is missing or damaged, the counts differ, or ``out`` exists.
    """
    from ..data.backends.idx import locate, read_pair
    from ..data.backends.lmdb import write_lmdb
    from ..data.stand_in import WHAT, is_stand_in

    if out.exists() and not overwrite:
        raise DataError("exists already; give -overwrite to replace it", str(out))
    images, labels = read_pair(images_path, labels_path)
    if is_stand_in(locate(str(images_path))):
        print(f"note: {images_path} is of {WHAT}", file=sys.stderr)
    print(f"A total of {len(images)} items.")
    print(f"Rows: {images.shape[1]} Cols: {images.shape[2]}")
    count = write_lmdb(out, _samples(images, labels), overwrite)
    print(f"Processed {count} files.")


def _samples(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[bytes, bytes]]:
    from ..proto import caffe_pb2

    _, height, width = images.shape
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        datum = caffe_pb2.Datum(
            channels=1, height=height, width=width, data=image.tobytes(), label=int(label)
        )
        yield b"%08d" % index, datum.SerializeToString()


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("convert_mnist_data", DESCRIPTION, EXAMPLE)
    parser.add_argument("images", metavar="IMAGES", help="e.g. train-images-idx3-ubyte")
    parser.add_argument("labels", metavar="LABELS", help="e.g. train-labels-idx1-ubyte")
    parser.add_argument("out", metavar="OUT", help="the folder of the database to be made")
    parser.add_argument(
        "-backend", "--backend", choices=["lmdb"], default="lmdb", help="default: %(default)s"
    )
    parser.add_argument(
        "-overwrite", "--overwrite", action="store_true", help="replace a database at OUT"
    )
    return parser
