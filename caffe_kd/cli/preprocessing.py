"""What Caffe's classify.py and detect.py share: the flags that describe a net for images.

Source: BVLC/caffe's python/classify.py and python/detect.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.errors import DataError, NetError, UsageError
from . import flags

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

    from ..pycaffe.classifier import ImageInputNet

    Array = NDArray[Any]
    Built = TypeVar("Built", bound=ImageInputNet)

_REFERENCE = "models/bvlc_reference_caffenet"
# What Caffe's scripts use if a flag is not given, relative to the root of its checkout.
_DEFAULTS = {
    "model_def": f"{_REFERENCE}/deploy.prototxt",
    "pretrained_model": f"{_REFERENCE}/bvlc_reference_caffenet.caffemodel",
    "mean_file": "python/caffe/imagenet/ilsvrc_2012_mean.npy",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the net, its device, and the preprocessing of images for its input."""
    for name, what in (
        ("model_def", "the net's deploy prototxt"),
        ("pretrained_model", "its weights, a .caffemodel"),
        ("mean_file", "the mean to subtract, .npy or .binaryproto; '' for none"),
    ):
        help = f"{what} (default: $CAFFE_ROOT/{_DEFAULTS[name]}; CAFFE_ROOT is . where it is unset)"
        flags.add(parser, name, metavar="FILE", help=help)
    flags.add(parser, "gpu", action="store_true", help="compute on the CUDA device")
    flags.add(parser, "input_scale", type=float, help="factor that is applied after the mean")
    flags.add(
        parser,
        "raw_scale",
        type=float,
        default=255.0,
        help="factor that is applied before the mean (default: 255)",
    )
    flags.add(
        parser,
        "channel_swap",
        default="2,1,0",
        metavar="ORDER",
        help="the order of channels (default: 2,1,0, which turns RGB into BGR); '' to keep it",
    )
    flags.own_code(parser)


def build(
    kind: Callable[..., Built],
    arguments: argparse.Namespace,
    change_mean: Callable[[Array], Array],
    **own: Any,
) -> Built:
    """Return the net that the flags describe.

    Args:
        kind: ``Classifier`` or ``Detector``.
        arguments: the flags.
        change_mean: converts the mean first.
        **own: further arguments of ``kind``.

    Raises:
        UsageError: a flag is wrong, or the file that is its default is missing.
        CaffeKDError: a file is missing or wrong.
    """
    model = _file(arguments.model_def, "model_def")
    weights = _file(arguments.pretrained_model, "pretrained_model")
    mean_file = arguments.mean_file
    if mean_file != "":
        mean_file = _file(mean_file, "mean_file", "; --mean_file '' subtracts none")
    mean = change_mean(_read_mean(mean_file)) if mean_file else None
    swap = integers(arguments.channel_swap, "channel_swap") if arguments.channel_swap else None
    _set_mode(arguments.gpu)
    try:
        net = kind(
            model,
            weights,
            mean=mean,
            input_scale=arguments.input_scale,
            raw_scale=arguments.raw_scale,
            channel_swap=swap,
            **own,
        )
    except ValueError as error:  # the mean's shape
        raise DataError(str(error), mean_file) from None
    if swap is not None and not set(swap) <= set(range(len(swap))):
        raise UsageError(
            f"--channel_swap takes the channels' numbers, 0 to {len(swap) - 1}. "
            f"Received: {arguments.channel_swap}"
        )
    return net


def integers(text: str, name: str) -> list[int]:
    """Return the numbers of a flag's value, ``256,256``."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--{name} takes whole numbers, separated by commas. Received: {text}"
        ) from None


def check_channels(net: ImageInputNet, known: tuple[int, ...]) -> int:
    """Return how many channels the net's input has.

    Raises:
        NetError: images are not read with as many.
    """
    channels: int = net.blobs[net.inputs[0]].channels
    if channels not in known:
        raise NetError(
            f"images are read with {' or '.join(map(str, known))} channels, but the input "
            f"'{net.inputs[0]}' of the net has {channels}"
        )
    return channels


def read_array(path: str | Path) -> Array:
    """Return the numbers of a .npy file, which stay on disk until they are used.

    Raises:
        ParseError: the file is missing or cannot be read.
        DataError: it is damaged, or holds something else; objects are not loaded.
    """
    import numpy as np

    from ..core.files import reading

    try:
        with reading(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"is not an array (.npy), or is damaged: {error}", str(path)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise DataError("must hold one array of numbers (.npy)", str(path))
    return array


def _file(given: str | None, name: str, hint: str = "") -> str:
    if given is not None:
        return os.path.expanduser(given)
    path = Path(os.environ.get("CAFFE_ROOT") or ".") / _DEFAULTS[name]
    if not path.is_file():
        raise UsageError(f"--{name} is not given, and its default {path} does not exist{hint}")
    return str(path)


def _read_mean(path: str) -> Array:
    import numpy as np

    if path.endswith(".npy"):
        return np.array(read_array(path))
    from ..proto.binary import read_blob

    values = np.asarray(read_blob(path))
    return values[0] if values.ndim == 4 and len(values) == 1 else values


def _set_mode(gpu: bool) -> None:
    from ..pycaffe import mode

    if not gpu:
        mode.set_mode_cpu()
        print("CPU mode")
        return
    mode.set_mode_gpu()
    print("GPU mode" if mode.device().type == "cuda" else "CPU mode")
