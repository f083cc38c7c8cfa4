"""``synthesize``: makes training images from a trained net alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UsageError
from . import flags
from .command_parser import CommandParser
from .guard import guarded

if TYPE_CHECKING:
    from ..export.preprocess import Preprocess

SUMMARY = "make training images from a trained net alone"
GROUP = "train"
EXAMPLE = (
    "-model prototxt/mnist/teacher_train_test.prototxt "
    "-weights output/mnist/teacher_iter_9380.caffemodel "
    "-output output/synthetic_lmdb"
)
DESCRIPTION = """Makes images that a trained classifier takes for its classes, for distillation
without the data it was trained on, and writes them as an LMDB of pixels, each labelled with the
net's class. A Data layer with the net's own transform_param reads them like real ones."""
EPILOG = """methods:
  noise      Each image begins as noise and is changed until the net sees a given class in it:
             cross entropy + total variation + l2 + distance to the BatchNorm statistics.
  generator  A small net learns to make images that the net classifies with confidence, that give
             it strong features, and in which all classes are equally frequent (DAFL, arXiv
             1904.01186)."""
# The flags for the fields of a method's settings: type, method, help.
_NUMBERS: dict[str, tuple[type, str, str]] = {
    "iterations": (int, "both", "of Adam; with noise, for each batch"),
    "batch": (int, "both", "images made together"),
    "rate": (float, "both", "Adam's learning rate"),
    "total_variation": (float, "noise", "weight of the difference of neighbouring pixels"),
    "l2": (float, "noise", "weight of the mean square of the pixels, as 0 to 1"),
    "statistics": (float, "noise", "weight of the distance to the BatchNorm statistics"),
    "one_hot": (float, "generator", "weight of confident predictions"),
    "balance": (float, "generator", "weight of equally frequent classes"),
    "activation": (float, "generator", "weight of strong features"),
}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    import torch

    from ..core.errors import DataError
    from ..logs.log import Log
    from ..solver.device import choose_device
    from ..synthesis import database, generator, noise
    from ..synthesis.teacher import PixelTeacher

    out = Path(arguments.output)
    if out.exists() and not arguments.overwrite:
        raise DataError("exists already; give -overwrite to replace it", str(out))
    device, message = choose_device(arguments.gpu, None)
    given = {k: getattr(arguments, k) for k in _NUMBERS if getattr(arguments, k) is not None}
    with Log() as log:
        log.info(message)
        teacher = PixelTeacher(
            Path(arguments.model),
            Path(arguments.weights),
            arguments.blob,
            arguments.shape,
            _preprocess(arguments),
            device,
        )
        numbers = torch.Generator().manual_seed(arguments.seed)
        made: Any
        if arguments.method == "noise":
            settings = noise.NoiseSettings(**given)
            log.info(f"Settings: {settings}")
            if not teacher.has_statistics:
                log.info("The net has no BatchNorm layers, whose statistics would help")
            made = noise.synthesize(teacher, arguments.count, settings, numbers, log.progress)
        else:
            trained = generator.GeneratorSettings(**given)
            log.info(f"Settings: {trained}")
            made = generator.synthesize(teacher, arguments.count, trained, numbers, log.progress)
        log.info(f"Making {arguments.count} images of {' x '.join(map(str, teacher.shape))}")
        written = database.write(out, made, teacher, arguments.overwrite)
        log.info(f"Images of each class: {', '.join(map(str, written.classes))}")
        log.info(f"The net gives its class a probability of {written.confidence:.3f} on average")
        missing = [str(c) for c, n in enumerate(written.classes) if not n]
        if missing:
            log.warning(f"No image of class {', '.join(missing)}: try another seed or method")
    print(f"{out}: {arguments.count} images. To train on them:")
    print(f'data_param {{ source: "{out.as_posix()}" backend: LMDB batch_size: 64 }}')
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.count < 1:
        raise UsageError(f"-count must be at least 1. Received: {arguments.count}")
    for name, (kind, method, _) in _NUMBERS.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if method not in ("both", arguments.method):
            raise UsageError(f"-{name} is for -method {method}")
        least = 1 if kind is int else 0
        if not least <= value < float("inf"):
            raise UsageError(f"-{name} must be at least {least}. Received: {value}")


def _preprocess(arguments: argparse.Namespace) -> Preprocess | None:
    """Return the mean and scale that the flags give; None: the net's own."""
    if arguments.mean is None and arguments.scale is None:
        return None
    import numpy as np

    from ..export.preprocess import Preprocess

    mean = arguments.mean
    values = None if mean is None else np.array(mean, np.float32).reshape(-1, 1, 1)
    return Preprocess(values, 1.0 if arguments.scale is None else arguments.scale)


def _shape(text: str) -> tuple[int, int, int]:
    parts = [int(part) for part in text.split(",")]
    if len(parts) != 3 or min(parts) < 1:
        raise argparse.ArgumentTypeError("takes channels,rows,columns, as 1,28,28")
    return parts[0], parts[1], parts[2]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("synthesize", DESCRIPTION, EXAMPLE, EPILOG)
    for name, options in {
        "model": {"metavar": "FILE", "help": "the net's prototxt, of training or deployment"},
        "weights": {"metavar": "FILE", "help": "its caffemodel"},
        "output": {"metavar": "DB", "help": "the LMDB to be made"},
    }.items():
        flags.add(parser, name, required=True, **options)
    add = flags.add
    add(parser, "method", choices=["noise", "generator"], default="generator",
        help="(default: generator)")  # fmt: skip
    add(parser, "count", metavar="N", type=flags.int32, default=10000,
        help="how many images (default: 10000)")  # fmt: skip
    add(parser, "seed", metavar="N", type=flags.int32, default=1, help="(default: 1)")
    add(parser, "overwrite", action="store_true", help="replace a database at DB")
    add(parser, "blob", metavar="NAME", help="the logits (default: the bottom of the net's loss)")
    add(parser, "shape", metavar="C,H,W", type=_shape, help="of the images, if the net's data, "
        "which gives it, is absent")  # fmt: skip
    add(parser, "scale", metavar="X", type=float, help="of the pixels, if the prototxt has no "
        "transform_param: input = (pixel - mean) * scale")  # fmt: skip
    add(
        parser, "mean", metavar="X,...", type=_floats, help="of the pixels, one or for each channel"
    )
    flags.gpu(parser)
    flags.own_code(parser)
    settings = parser.add_argument_group("settings")
    for name, (kind, method, what) in _NUMBERS.items():
        number = flags.int32 if kind is int else float
        whose = "" if method == "both" else f"{method}: "
        add(settings, name, metavar="N" if kind is int else "X", type=number, help=whose + what)
    return parser
