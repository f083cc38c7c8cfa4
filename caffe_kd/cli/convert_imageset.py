"""``convert_imageset``: turns a folder of images into an LMDB, as Caffe's tool does."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import CaffeKDError, DataError, UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "turn a folder of images into an LMDB"
GROUP = "caffe"
EXAMPLE = "-gray -resize_width 28 -resize_height 28 -shuffle images/train output/train_lmdb"
DESCRIPTION = """Turns images into an LMDB of Datum, uint8, BGR or grey. LISTFILE has lines
"path label", the path below ROOTFOLDER, the label a whole number. Without it ROOTFOLDER has one
folder per class: labels are the indices of the sorted folder names, which are written to labels.txt
beside the database. An image that cannot be read is reported and left out."""
EPILOG = """Images are read, resized and encoded by OpenCV, as in Caffe; proportions are not kept.
The order of -shuffle is the same each time. -encoded keeps a file's own bytes if it is not resized
and its suffix is the wanted format; such an image keeps its colours, even with -gray."""
SWITCHES = ("gray", "shuffle", "check_size", "encoded")
PROGRESS_EVERY = 1000

Line = tuple[str, int]
"""An image's path below the root folder, and its label."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_intermixed_args([word for w in words for word in _switch(w)])
    if len(arguments.paths) not in (2, 3):
        parser().error("ROOTFOLDER [LISTFILE] DB_NAME are needed")
    if arguments.backend != "lmdb":
        raise UsageError("-backend leveldb: a LevelDB can be read, not written. Write lmdb")
    _check_size(arguments.resize_width, arguments.resize_height)
    if arguments.encode_type and not arguments.encoded:
        print("encode_type specified, assuming encoded=true.")
        arguments.encoded = True
    root, *lists, out = map(Path, arguments.paths)
    if out.exists():
        raise DataError("exists already; remove it, or give the database another name", str(out))
    if lists:
        from ..data.image_list import read_list

        listed = read_list(lists[0])
        lines = list(zip(listed.paths, listed.labels.tolist(), strict=True))
    else:
        lines, classes = read_folders(root)
        _write_labels(out.with_name("labels.txt"), classes, root)
    if arguments.shuffle:
        print("Shuffling data")
        random.Random(0).shuffle(lines)
    elif not lists:
        print("note: the samples are in order, class by class; to train on them, give -shuffle")
    convert(root, lines, out, arguments)
    return 0


def _check_size(width: int, height: int) -> None:
    from ..data.image_file import MOST_PIXELS

    if (width, height) != (0, 0) and (min(width, height) < 1 or width * height > MOST_PIXELS):
        raise UsageError(
            f"-resize_width and -resize_height go together, each from 1, at most {MOST_PIXELS} "
            f"pixels. Received: {width} and {height}"
        )


def read_folders(root: Path) -> tuple[list[Line], list[str]]:
    """Return the images in a folder's folders, each of which is a class, and the classes.

    Raises:
        DataError: there are no folders, or no images in one.
    """
    from ..data.image_file import SUFFIXES

    if not root.is_dir():
        raise DataError("no such folder", str(root))
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    if not classes:
        raise DataError("without LISTFILE it needs a folder per class, and has none", str(root))
    lines: list[Line] = []
    for label, name in enumerate(classes):
        files = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError("no images in this class's folder", str(root / name))
        lines += [(path.relative_to(root).as_posix(), label) for path in files]
    return lines, classes


def _write_labels(path: Path, classes: list[str], root: Path) -> None:
    """Write the classes' names, unless they are there; a training and a test set share them."""
    from ..core.files import read_bytes, write_atomically

    content = "".join(f"{name}\n" for name in classes).encode("utf-8", "surrogateescape")
    if path.exists() and read_bytes(path, max_bytes=1 << 24) != content:
        raise DataError(
            f"lists other classes than the folders of {root}: {', '.join(classes)}. Labels are "
            "indices into that list: use the same folders for all databases beside it, or write "
            "this one elsewhere",
            str(path),
        )
    write_atomically(path, content)
    say(f"Labels 0 to {len(classes) - 1} are the lines of {path}: {', '.join(classes)}")


def convert(root: Path, lines: Sequence[Line], out: Path, options: argparse.Namespace) -> None:
    """Write the images as an LMDB: key ``%08d_path``, the number being the line's.

    Raises:
        DataError: no image can be read, or with -check_size one has another size.
    """
    from ..data.backends.lmdb import write_lmdb

    print(f"A total of {len(lines)} images.")
    count = write_lmdb(out, _samples(root, lines, options))
    left_out = len(lines) - count
    print(f"Processed {count} files." + (f" Left out: {left_out}." if left_out else ""))


def _samples(
    root: Path, lines: Sequence[Line], options: argparse.Namespace
) -> Iterator[tuple[bytes, bytes]]:
    size, in_color = None, 0
    for index, (name, label) in enumerate(lines):
        path = f"{root}/{name}"  # also where the name begins with a slash
        try:
            datum, shape = _datum(path, label, options)
        except CaffeKDError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        size = size or shape
        in_color += options.gray and datum.encoded and _is_color(datum)
        if options.check_size and shape != size:
            raise DataError(
                f"Incorrect data field size: (channels, height, width) is {shape}, of the images "
                f"before {size}. Give -resize_width and -resize_height",
                path,
            )
        yield f"{index:08d}_{name}".encode("utf-8", "surrogateescape"), datum.SerializeToString()
        if (index + 1) % PROGRESS_EVERY == 0:
            print(f"Processed {index + 1} files.")
    if in_color:
        print(
            f"note: {in_color} files are stored as they are, in colour despite -gray, as in Caffe. "
            "transform_param { force_gray: true } reads them in grey"
        )


def _datum(path: str, label: int, options: argparse.Namespace) -> tuple[Any, tuple[int, ...]]:
    """Return an image as a Datum, and its shape [C, H, W]."""
    from ..core.files import read_bytes
    from ..data.image_file import MOST_BYTES, decode_image
    from ..proto import caffe_pb2

    data = read_bytes(path, MOST_BYTES)
    size = (options.resize_height, options.resize_width) if options.resize_height else None
    image = decode_image(data, path, not options.gray, size)
    datum = caffe_pb2.Datum(label=label)
    if options.encoded:
        datum.encoded = True
        datum.data = _encoded(data, image, path, options)
    else:
        datum.channels, datum.height, datum.width = image.shape
        datum.data = image.tobytes()
    return datum, image.shape


def _encoded(data: bytes, image: np.ndarray, path: str, options: argparse.Namespace) -> bytes:
    """Return an image as a file: its own bytes if they can stay, else encoded.

    Source: ReadImageToDatum. If a file's suffix names no format, Caffe stops; here its content
    determines the format.
    """
    from ..data.image_file import ENCODINGS, encode_image

    suffix = Path(path).suffix[1:].lower()
    kind = options.encode_type.lower() or suffix
    if options.resize_height or suffix not in (kind, "jpeg" if kind == "jpg" else kind):
        return encode_image(image, kind if kind in ENCODINGS else "png")
    return data


def _is_color(datum: Any) -> bool:
    from ..data.image_file import read_header

    return not read_header(datum.data).is_gray


def _switch(word: str) -> list[str]:
    """Translate ``--gray=true``, as Caffe's scripts have it, to ``-gray``."""
    name, sign, value = word.lstrip("-").partition("=")
    if not sign or name not in SWITCHES or value.lower() not in ("true", "false", "1", "0"):
        return [word]
    return [f"-{name}"] if value.lower() in ("true", "1") else []


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser(
        "convert_imageset",
        DESCRIPTION,
        EXAMPLE,
        EPILOG,
        words="[FLAGS] ROOTFOLDER [LISTFILE] DB_NAME",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help=argparse.SUPPRESS)
    flags.add(parser, "gray", action="store_true", help="convert to grey, one channel")
    flags.add(parser, "shuffle", action="store_true", help="shuffle the images")
    flags.add(
        parser,
        "backend",
        choices=["lmdb", "leveldb"],
        default="lmdb",
        help="lmdb (the default); a leveldb cannot be written",
    )
    flags.add(parser, "resize_width", type=int, default=0, metavar="N", help="0: unchanged")
    flags.add(parser, "resize_height", type=int, default=0, metavar="N", help="0: unchanged")
    flags.add(parser, "check_size", action="store_true", help="require that all sizes are equal")
    flags.add(
        parser, "encoded", action="store_true", help="store encoded image files; their own bytes "
        "if nothing changes",
    )  # fmt: skip
    flags.add(
        parser, "encode_type", choices=["", "png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp"],
        default="", metavar="TYPE", help="with -encoded, the format: png, jpg, ... (default: the "
        "file's own)",
    )  # fmt: skip
    return parser
