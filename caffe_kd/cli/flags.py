"""Flags that several commands share, in Caffe's spelling, and what their values mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import examples
from ..core.errors import UsageError
from ..python_layers import user_code


def add(to: Any, name: str, need: str | None = None, **options: Any) -> None:
    """Add a flag in either spelling: ``-name x`` and ``--name=x``.

    ``need`` makes it required: it is the error's sentence if the flag is missing. A solver or a
    model may be a packaged example.
    """
    if (name.endswith("solver") or name == "model") and "action" not in options:
        options.setdefault("type", prototxt)
    kind = options.get("type")
    if kind in (int, int32, float) and "choices" not in options:
        options.setdefault("metavar", "X" if kind is float else "N")
    action = to.add_argument(f"-{name}", f"--{name}", **options)
    if need is not None:
        action.required, action.need = True, need


def prototxt(paths: str) -> str:
    """Return the file that an argument names, or the packaged example of that name.

    The files that examples name are then found beside them, their data and output in the current
    folder. ``paths`` may be several, separated by commas.
    """
    return ",".join(_file_or_example(path) for path in paths.split(","))


def _file_or_example(path: str) -> str:
    example = examples.packaged(path)
    if example is None:
        return path
    print(f"note: {path} is not here: using the example {example}", file=sys.stderr)
    return str(example)


class _AllowPythonLayers(argparse.Action):
    """Lets code that a prototxt names run for the rest of the command."""

    def __call__(self, *_: Any) -> None:
        user_code.allow()


def _load_layers(path: str) -> None:
    """Run a user's Python file, which registers layer types.

    Raises:
        UsageError: there is no such file, or it does not run.
    """
    import runpy
    import traceback

    if not Path(path).is_file():
        raise UsageError(f"-layers {path}: no such file")
    try:
        runpy.run_path(path)
    except Exception as error:
        # Where in the user's own file it went wrong; the frames around it are ours and Python's.
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        position = f"{path}:{lines[-1]}" if lines else path
        raise UsageError(f"-layers {position}: {type(error).__name__}: {error}") from error


class _LoadLayers(argparse.Action):
    """Runs a user's Python file, which registers layer types."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        _load_layers(value)
        setattr(namespace, self.dest, value)


def layers(to: Any) -> None:
    """Add the flag for a user's own layer types, which are registered when it is parsed."""
    add(
        to,
        "layers",
        action=_LoadLayers,
        metavar="FILE",
        help="a Python file that registers layer types of your own",
    )


def own_code(to: Any) -> None:
    """Add the flags that let a user's own code run: layer types, and layers of type Python."""
    layers(to)
    add(
        to,
        "python_layers",
        action=_AllowPythonLayers,
        nargs=0,
        default=False,
        help="run the code of layers of type Python, from the modules that the prototxt names",
    )


def state(to: Any) -> None:
    """Add the flags that select among a net's layers besides its phase."""
    add(to, "level", type=int32, default=0, help="the net's level (default: 0)")
    add(to, "stage", metavar="NAMES", help="the net's stages, separated by commas")


def input_shape(to: Any) -> None:
    """Add the flag that gives the shapes of absent data; ``input_shapes`` reads it."""
    add(
        to,
        "input_shape",
        action="append",
        default=[],
        metavar="BLOB=N,C,H,W",
        help="the shape of an input whose data is absent; BLOB= and N may be left out; may be "
        "given once for each of several blobs",
    )


def deploy(to: Any) -> None:
    """Add the flags that determine which net is deployed; ``deploy_options`` reads them."""
    state(to)
    input_shape(to)
    add(
        to,
        "outputs",
        metavar="BLOBS",
        help="the outputs, separated by commas; layers after them are left out, such as Python "
        "layers (default: the net's predictions)",
    )


def deploy_options(arguments: argparse.Namespace, net: Any) -> Any:
    """Return the DeployOptions of the flags; print which stages a net depends on, if none is given.

    Raises:
        UsageError: a value of -input_shape is not a shape.
    """
    from ..export.deploy import DeployOptions, stages_asked_for

    stages, asked_for = comma_list(arguments.stage), stages_asked_for(net)
    if asked_for and not stages and not net.state.stage:
        print(
            f"note: layers of this net depend on its stage ({', '.join(asked_for)}), and none is "
            "given: -stage NAMES",
            file=sys.stderr,
        )
    shapes = input_shapes(arguments.input_shape)
    return DeployOptions(arguments.level, stages, shapes, comma_list(arguments.outputs))


def distilling(to: Any) -> None:
    """Add the flags that override the settings of every DistillingLoss."""
    add(to, "temperature", type=float, help="temperature of every DistillingLoss")
    add(to, "alpha", type=float, help="alpha of every DistillingLoss, 0 to 1")


def teacher_cache(to: Any) -> None:
    """Add the flag that determines whether a teacher's outputs are cached."""
    add(
        to,
        "teacher_cache",
        choices=["auto", "off", "memory", "disk"],
        default="auto",
        help="cache the outputs of the teacher and other frozen layers for each sample "
        "(default: auto, in memory if nothing random comes before them)",
    )


def digits(to: Any) -> None:
    """Add the flags for where the handwritten digits come from."""
    add(
        to,
        "dir",
        metavar="FOLDER",
        default="data/mnist",
        help="where the digits are, or where to put them (default: %(default)s)",
    )
    add(to, "no_download", action="store_true", help="do not use the network")


def gpu(to: Any, purpose: str = "run") -> None:
    """Add the flag that names the device."""
    add(to, "gpu", metavar="N", help=f"the CUDA device to {purpose} on (default: the CPU)")


def no_progress(to: Any) -> None:
    """Add the flag that leaves the progress line out."""
    add(to, "no_progress", action="store_true", help="no progress line, even on a terminal")


class _Idle(argparse.Action):
    """Accepts a flag and prints that it has no effect."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        print(f"note: {rest[-1]} does nothing in {parser.prog}", file=sys.stderr)


class _OnStderr(_Idle):
    """Accepts a flag that sends the log to stderr, where ours goes anyway."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        if rest[1] in ("0", "false"):
            super().__call__(parser, *rest)


# glog's flags that are given alone or with =VALUE, and those that take a value. Only the first two,
# and train's log_dir, have an effect here.
GLOG_SWITCHES = (
    "logtostderr",
    "alsologtostderr",
    "nologtostderr",
    "noalsologtostderr",
    "colorlogtostderr",
    "log_prefix",
    "nolog_prefix",
    "stop_logging_if_full_disk",
)
_GLOG_VALUES = ("minloglevel", "stderrthreshold", "logbuflevel", "logbufsecs", "max_log_size")


def glog(to: Any) -> None:
    """Accept the flags that Caffe has from glog, except log_dir."""
    for name in GLOG_SWITCHES[:2]:
        add(
            to,
            name,
            nargs="?",
            const="1",
            choices=["0", "1", "false", "true"],
            action=_OnStderr,
            help="for old scripts: the log always goes to stderr",
        )
    idle(to, *GLOG_SWITCHES[2:], nargs="?")
    idle(to, *_GLOG_VALUES)


def idle(to: Any, *names: str, nargs: str | None = None) -> None:
    """Accept flags that Caffe accepts with every command, and that have no effect in this one."""
    for name in names:
        add(to, name, nargs=nargs, action=_Idle, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def int32(text: str) -> int:
    """Return the number a flag gives, which a field of a prototxt can hold."""
    value = int(text)
    if not -(2**31) <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is beyond 32 bits")
    return value


def input_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that ``-input_shape`` gives, by the name of their blob.

    ``net.sample_shapes.with_batch`` determines what their numbers mean.

    Raises:
        UsageError: one is not a shape.
    """
    return dict(_input_shape(text) for text in given)


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``data=3,28,28``; without a name it is for any data layer."""
    name, _, numbers = text.rpartition("=")
    sizes = comma_list(numbers)
    if not sizes or not all(e.isdigit() and 0 < int(e) < 2**31 for e in sizes):
        raise UsageError(
            f"-input_shape takes an input's shape, as data=1,3,28,28. Received: {text}"
        )
    return name, tuple(int(size) for size in sizes)


def comma_list(text: str | None) -> list[str]:
    """Split ``a,b`` into its parts."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
