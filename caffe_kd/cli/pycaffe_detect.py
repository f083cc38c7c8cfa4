"""``pycaffe_detect``: Caffe's python/detect.py, windows of images to predictions."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError, UsageError
from . import flags, preprocessing
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..pycaffe.detector import Detector

    Array = NDArray[Any]

SUMMARY = "classify windows of images as Caffe's detect.py"
GROUP = "caffe"
EXAMPLE = (
    "windows.csv detections.csv "
    "--crop_mode list "
    "--model_def deploy.prototxt "
    "--pretrained_model net.caffemodel"
)
DESCRIPTION = """Classifies windows of images, as R-CNN does: Caffe's python/detect.py, with its
flags and defaults. Input is a .csv with the columns filename, ymin, xmin, ymax and xmax for
--crop_mode list, or for selective_search, which needs its own MATLAB program, a .txt of file names.
Output is a .csv with the columns filename, ymin, xmin, ymax, xmax, class0, class1 and so on; with
any other suffix a pandas table in HDF5, key df, for which pandas and tables must be installed."""

_COORDINATES = ("ymin", "xmin", "ymax", "xmax")
_MODES = ("list", "selective_search")
_MOST_BYTES = 1 << 30
_MOST = 2**31  # pixels along an edge
_AT_ONCE = 64  # windows, or as many as the net takes

Window = tuple[float, float, float, float]


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    as_csv = arguments.output_file.lower().endswith("csv")
    if not as_csv and None in (importlib.util.find_spec(name) for name in ("pandas", "tables")):
        raise UsageError(
            f"{arguments.output_file}: HDF5 is written by pandas and tables, which are not both "
            "here: pip install pandas tables, or give an output that ends with .csv"
        )
    start = time.perf_counter()
    windows = _windows(arguments.input_file, arguments.crop_mode)
    from ..pycaffe.detector import Detector

    detector = preprocessing.build(
        Detector, arguments, _one_value_each, context_pad=arguments.context_pad
    )
    preprocessing.check_channels(detector, (3,))
    if arguments.crop_mode == "list":
        found = list(_detect(detector, windows))
    else:
        found = _search(detector, list(windows))
    if not found:
        raise DataError("has no windows", arguments.input_file)
    print(f"Processed {len(found)} windows in {time.perf_counter() - start:.3f} s.", flush=True)
    start = time.perf_counter()
    _write(found, arguments.output_file, as_csv)
    print(f"Saved to {arguments.output_file} in {time.perf_counter() - start:.3f} s.")
    return 0


def _one_value_each(mean: Array) -> Array:
    """Return the mean of each channel, with which the context outside an image is filled."""
    return mean.mean(1).mean(1) if mean.ndim == 3 else mean


# ---- the input


def _windows(path: str, mode: str) -> dict[str, list[Window]]:
    """Return each image's windows; the images in the order in which they first appear.

    Raises:
        UsageError: it is neither .txt nor .csv, or a .txt, which has no windows, with mode list.
    """
    print("Loading input...", flush=True)
    kind = path.lower()[-3:]
    if kind not in ("txt", "csv"):
        raise UsageError(f"Unknown input file type: not in txt or csv. Received: {path}")
    if kind == "txt" and mode == "list":
        raise UsageError(f"--crop_mode list takes windows from a .csv. Received: {path}")
    from ..core.files import read_bytes

    text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig", "surrogateescape")
    if kind == "txt":
        return {line.strip(): [] for line in text.splitlines() if line.strip()}
    return _rows(text, path, _COORDINATES if mode == "list" else ())


def _rows(text: str, path: str, wanted: Sequence[str]) -> dict[str, list[Window]]:
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    found: dict[str, list[Window]] = {}
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in ("filename", *wanted) if name not in header]
        if missing:
            raise DataError(
                f"has no column {', '.join(missing)}. Expected a first line such as "
                "filename,ymin,xmin,ymax,xmax",
                f"{path}:1",
            )
        for row in reader:
            if not row:
                continue
            cells = dict(zip(header, row, strict=False))
            windows = found.setdefault(cells.get("filename", ""), [])
            if wanted:
                ymin, xmin, ymax, xmax = (_number(cells.get(name, "")) for name in wanted)
                windows.append((ymin, xmin, ymax, xmax))
    except (csv.Error, ValueError) as error:
        raise DataError(str(error), f"{path}:{reader.line_num}") from None
    return found


def _number(text: str) -> float:
    """Return an edge of a window, whole where it is written so."""
    try:
        value = int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError:
        value = math.nan
    if not -_MOST < value < _MOST:
        raise ValueError(f"a window's edges must be numbers of pixels. Received: {text[:50]!r}")
    return value


# ---- detection


def _detect(detector: Detector, windows: dict[str, list[Window]]) -> Iterator[dict[str, Any]]:
    """Yield the detections, computed for some windows at a time so that few crops are in memory.

    The net gets the same batches as if all windows were given together.
    """
    batch = max(1, detector.blobs[detector.inputs[0]].num)
    size = batch * math.ceil(_AT_ONCE / batch)
    pairs = ((name, window) for name, own in windows.items() for window in own)
    while some := list(islice(pairs, size)):
        of: dict[str, list[Window]] = {}
        for name, window in some:
            of.setdefault(name, []).append(window)
        yield from detector.detect_windows(of.items())


def _search(detector: Detector, names: list[str]) -> list[dict[str, Any]]:
    try:
        return detector.detect_selective_search(names)
    except UsageError as error:
        raise UsageError(f"{error}: --crop_mode list takes them from a .csv") from None


# ---- the output


def _write(found: list[dict[str, Any]], path: str, as_csv: bool) -> None:
    from ..core.files import replacing, write_atomically

    if as_csv:
        write_atomically(path, _csv(found).encode("utf-8", "surrogateescape"))
        return
    import warnings

    import pandas  # type: ignore[import-not-found, import-untyped, unused-ignore]

    table = pandas.DataFrame({"prediction": [x["prediction"] for x in found]})
    table.index = pandas.Index([x["filename"] for x in found], name="filename", dtype=object)
    for index, name in enumerate(_COORDINATES):
        table[name] = [x["window"][index] for x in found]
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions are arrays, which it pickles
        table.to_hdf(temporary, key="df", mode="w")


def _csv(found: list[dict[str, Any]]) -> str:
    """Return the table that pandas would write: a line for each window."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    classes = found[0]["prediction"].size
    writer.writerow(["filename", *_COORDINATES, *(f"class{index}" for index in range(classes))])
    for each in found:
        values = (str(value) for value in each["prediction"].flat)
        writer.writerow([each["filename"], *each["window"], *values])
    return out.getvalue()


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("pycaffe_detect", DESCRIPTION, EXAMPLE)
    parser.add_argument("input_file", help="a .csv of windows, or a .txt of image files")
    parser.add_argument("output_file", help="the .csv, or HDF5, to write")
    preprocessing.add_flags(parser)
    flags.add(
        parser,
        "crop_mode",
        choices=_MODES,
        default="selective_search",
        help="where windows come from (default: selective_search)",
    )
    flags.add(
        parser,
        "context_pad",
        type=flags.int32,
        default=16,
        metavar="PIXELS",
        help="how many pixels around the window belong to the input (default: 16)",
    )
    return parser
