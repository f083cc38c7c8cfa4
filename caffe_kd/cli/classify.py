"""``classify``: prints the most likely classes of images, by an exported model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.errors import DataError, UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

if TYPE_CHECKING:
    import numpy as np

SUMMARY = "classify images with an exported model"
GROUP = "deploy"
EXAMPLE = "images/seven.png -model output/mnist/student.onnx -top 3"
DESCRIPTION = """Classifies images with an ONNX model and prints the most likely classes. An image
is resized to the model's input size, without keeping its proportions, and converted to grey or BGR;
transparent parts become white. A model that export_onnx wrote with -preprocess takes the pixels;
others name the mean and scale of the data they were trained on, which are applied."""

_BRIGHT = 128  # of 0 to 255


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_intermixed_args(argv)
    if arguments.top < 1:
        raise UsageError(f"-top must be at least 1. Received: {arguments.top}")
    from ..core.files import read_bytes
    from ..data.image_file import MOST_BYTES, decode_on_white
    from ..export.classifier import Classifier

    model = Classifier(arguments.model, arguments.scale, _numbers(arguments.mean))
    names = class_names(arguments.labels, model.classes)
    _log(model.description + (", pixel inverted" if arguments.invert else ""))
    if not model.scale_is_known:
        _log(
            "note: the model does not name the scale of its pixels, which stay 0 to 255. If it was "
            "trained on 0 to 1, as Caffe's LeNet, give -scale 0.00390625"
        )
    channels, height, width = model.input_shape
    for path in arguments.images:
        data = read_bytes(path, MOST_BYTES)
        pixels = decode_on_white(data, path, color=channels == 3, size=(height, width))
        if arguments.invert:
            pixels = 255 - pixels
        elif channels == 1 and _is_on_paper(pixels):
            _log(
                f"note: {path} is dark on a light background. MNIST's digits are light on dark; "
                "for a net that was trained on them, give -invert"
            )
        _print(path, model(pixels), names, arguments.top)
    return 0


def _log(text: str) -> None:
    print(text, file=sys.stderr)


def _print(path: str, probabilities: np.ndarray, names: Sequence[str], top: int) -> None:
    say(f"{path}:")
    for index in (-probabilities).argsort(kind="stable")[:top]:
        say(f"  {probabilities[index]:.4f}  {names[index]}")


def _is_on_paper(pixels: np.ndarray) -> bool:
    """Return whether most of a grey image's border is bright."""
    import numpy as np

    (image,) = pixels
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return bool(np.median(border) >= _BRIGHT)


def class_names(path: str | None, classes: int) -> list[str]:
    """Return the classes' names from a file of one per line, else their numbers."""
    from ..core.files import read_bytes

    if path is None:
        return [str(index) for index in range(classes)]
    names = read_bytes(path, max_bytes=1 << 24).decode("utf-8", "replace").splitlines()
    if len(names) != classes:
        raise DataError(
            f"one name per line is needed for each of the model's {classes} classes. Received: "
            f"{len(names)} lines",
            path,
        )
    return names


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in flags.comma_list(text)]
    except ValueError:
        raise UsageError(f"-mean takes numbers, as 104,117,123. Received: {text}") from None


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("classify", DESCRIPTION, EXAMPLE)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG, GIF, BMP, TIFF, …")
    flags.add(parser, "model", required=True, metavar="FILE", help="the .onnx file")
    flags.add(parser, "labels", metavar="FILE", help="the classes' names, one a line")
    flags.add(
        parser,
        "top",
        type=int,
        default=5,
        metavar="K",
        help="how many classes to print (default: 5)",
    )
    flags.add(parser, "invert", action="store_true", help="swap dark and light, for ink on paper")
    flags.add(parser, "mean", metavar="B,G,R", help="to subtract from the pixels of 0 to 255")
    flags.add(parser, "scale", type=float, help="to multiply the pixels by, after the mean")
    return parser
