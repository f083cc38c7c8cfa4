"""``pycaffe_classify``: Caffe's python/classify.py, images to probabilities as .npy."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import DataError, UsageError
from . import flags, preprocessing
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..pycaffe.classifier import Classifier

    Images = Sequence[str] | NDArray[Any]

SUMMARY = "classify images as Caffe's classify.py, into an .npy"
GROUP = "caffe"
EXAMPLE = (
    "image.jpg probabilities.npy "
    "--model_def deploy.prototxt "
    "--pretrained_model net.caffemodel "
    "--mean_file ''"
)
DESCRIPTION = """Classifies images with a net and its weights, and writes the probabilities [images,
classes] as .npy: Caffe's python/classify.py, with its flags and defaults. Input is an image, a
folder of images, which are taken in the order of their names, or an .npy of images [N, height,
width, channel], RGB from 0 to 1. A net with one input channel gets grey images. For an ONNX model,
use classify, which prints the most likely classes."""


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    size = preprocessing.integers(arguments.images_dim, "images_dim")
    if len(size) != 2:
        raise UsageError(
            f"--images_dim takes height and width, as 256,256. Received: {arguments.images_dim}"
        )
    import numpy as np

    from ..core.files import replacing
    from ..pycaffe.classifier import Classifier

    classifier = preprocessing.build(Classifier, arguments, lambda mean: mean, image_dims=size)
    channels = preprocessing.check_channels(classifier, (1, 3))
    images = _images(os.path.expanduser(arguments.input_file), arguments.ext, channels)
    print(f"Classifying {len(images)} inputs.", flush=True)
    start = time.perf_counter()
    predictions = np.concatenate(
        [
            classifier.predict(batch, oversample=not arguments.center_only)
            for batch in _batches(images, classifier, color=channels == 3)
        ]
    )
    print(f"Done in {time.perf_counter() - start:.2f} s.")
    output = arguments.output_file
    output += "" if output.endswith(".npy") else ".npy"  # as np.save has it
    print(f"Saving results into {output}")
    with replacing(output) as temporary, open(temporary, "wb") as file:
        np.save(file, predictions)
    return 0


def _images(path: str, suffix: str, channels: int) -> Images:
    """Return the names of image files, or an array of images.

    Raises:
        DataError: there are none, or the array has another shape or number of channels.
    """
    if path.endswith("npy"):
        print(f"Loading file: {path}")
        array = preprocessing.read_array(path)
        if array.ndim != 4 or array.shape[3] != channels or 0 in array.shape:
            raise DataError(
                f"must hold images [N, height, width, {channels}]. Received: {array.shape}", path
            )
        return array
    if os.path.isdir(path):
        print(f"Loading folder: {path}")
        files = sorted(glob.glob(f"{glob.escape(path)}/*.{suffix}"))
        if not files:
            raise DataError(f"there is no image *.{suffix}; --ext gives another suffix", path)
        return files
    print(f"Loading file: {path}")
    return [path]


def _batches(images: Images, classifier: Classifier, color: bool) -> Iterator[list[NDArray[Any]]]:
    """Yield the images in batches of the net's size, so that few are in memory.

    The net gets the same batches as if all images were given together.
    """
    from ..pycaffe.io import load_image

    size = max(1, classifier.blobs[classifier.inputs[0]].num)
    for start in range(0, len(images), size):
        some = images[start : start + size]
        yield [load_image(x, color) if isinstance(x, str) else x for x in some]


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("pycaffe_classify", DESCRIPTION, EXAMPLE)
    parser.add_argument("input_file", help="an image, a folder of images, or an .npy")
    parser.add_argument("output_file", help="the .npy to write")
    preprocessing.add_flags(parser)
    flags.add(
        parser,
        "center_only",
        action="store_true",
        help="predict from the centre crop only (default: the mean over ten crops)",
    )
    flags.add(
        parser,
        "images_dim",
        default="256,256",
        metavar="H,W",
        help="the size that images get before they are cropped (default: 256,256)",
    )
    flags.add(parser, "ext", default="jpg", help="the suffix of a folder's images (default: jpg)")
    return parser
