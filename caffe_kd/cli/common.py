"""What the commands share: flags in Caffe's spelling, and what their values mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.errors import NetError, UsageError
from ..python_layers import user_code
from .guard import guarded as guarded


def new_parser(name: str, description: str, **options: Any) -> argparse.ArgumentParser:
    """Return a parser that takes no abbreviated flags."""
    return argparse.ArgumentParser(
        prog=name, description=description, allow_abbrev=False, **options
    )


def flag(to: Any, name: str, **options: Any) -> None:
    """Add a flag in either spelling: ``-name x`` and ``--name=x``."""
    to.add_argument(f"-{name}", f"--{name}", **options)


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
        place = f"{path}:{lines[-1]}" if lines else path
        raise UsageError(f"-layers {place}: {type(error).__name__}: {error}") from error


class _LoadLayers(argparse.Action):
    """Runs a user's Python file, which registers layer types."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        _load_layers(value)
        setattr(namespace, self.dest, value)


def layers_flag(to: Any) -> None:
    """Add the flag that names a user's own layer types, which are known once it is parsed."""
    flag(
        to,
        "layers",
        action=_LoadLayers,
        metavar="FILE",
        help="a Python file that registers layer types of your own",
    )


def user_code_flags(to: Any) -> None:
    """Add the flags that let a user's own code run: layer types, and layers of type Python."""
    layers_flag(to)
    flag(
        to,
        "python_layers",
        action=_AllowPythonLayers,
        nargs=0,
        default=False,
        help="run the code of layers of type Python, from the modules that the prototxt names",
    )


def state_flags(to: Any) -> None:
    """Add the flags that choose among a net's layers beside its phase."""
    flag(to, "level", type=int32, default=0, help="the net's level (default: 0)")
    flag(to, "stage", metavar="NAMES", help="the net's stages, separated by commas")


def input_shape_flag(to: Any) -> None:
    """Add the flag that stands for absent data; ``input_shapes`` takes it."""
    flag(
        to,
        "input_shape",
        action="append",
        default=[],
        metavar="BLOB=N,C,H,W",
        help="the shape of an input, where its data is absent; C,H,W and no BLOB will do; may be "
        "given for several blobs",
    )


def deploy_flags(to: Any) -> None:
    """Add the flags that determine which net is deployed; ``deploy_options`` takes them."""
    state_flags(to)
    input_shape_flag(to)
    flag(
        to,
        "outputs",
        metavar="BLOBS",
        help="the outputs, separated by commas; layers behind them are left out, such as Python "
        "layers (default: the net's predictions)",
    )


def deploy_options(arguments: argparse.Namespace, net: Any) -> Any:
    """Return the DeployOptions of the flags; print which stages a net depends on, if none is given.

    Raises:
        UsageError: a shape is none.
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


def distilling_flags(to: Any) -> None:
    """Add the flags that have the last word on every DistillingLoss."""
    flag(to, "temperature", type=float, help="temperature of every DistillingLoss")
    flag(to, "alpha", type=float, help="alpha of every DistillingLoss, 0 to 1")


def teacher_cache_flag(to: Any) -> None:
    """Add the flag that says whether a teacher's answers are remembered."""
    flag(
        to,
        "teacher_cache",
        choices=["auto", "off", "memory", "disk"],
        default="auto",
        help="remember what the teacher and other frozen layers answer for each record "
        "(default: auto, in memory where nothing random stands before them)",
    )


def digits_flags(to: Any) -> None:
    """Add the flags that say where the handwritten digits come from."""
    flag(
        to,
        "dir",
        metavar="FOLDER",
        default="data/mnist",
        help="where the digits are or shall be (default: %(default)s)",
    )
    flag(to, "no_download", action="store_true", help="leave the network alone")


class _Idle(argparse.Action):
    """Takes a flag and tells that it has no effect."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        print(f"note: {rest[-1]} does nothing in {parser.prog}", file=sys.stderr)


class _OnStderr(_Idle):
    """Takes a flag that sends the log to stderr, where ours goes anyhow."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        if rest[1] in ("0", "false"):
            super().__call__(parser, *rest)


# Flags of glog's that stand alone or with =VALUE, and those that have a value; of these only the
# first two, and train's log_dir, have a meaning here.
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


def glog_flags(to: Any) -> None:
    """Take the flags that the original has by glog, but for log_dir."""
    for name in GLOG_SWITCHES[:2]:
        flag(
            to,
            name,
            nargs="?",
            const="1",
            choices=["0", "1", "false", "true"],
            action=_OnStderr,
            help="for old scripts: the log is on stderr always",
        )
    idle_flags(to, *GLOG_SWITCHES[2:], nargs="?")
    idle_flags(to, *_GLOG_VALUES)


def idle_flags(to: Any, *names: str, nargs: str | None = None) -> None:
    """Take flags of the original's caffe that it takes with every command, but not all heed."""
    for name in names:
        flag(to, name, nargs=nargs, action=_Idle, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def int32(text: str) -> int:
    """Return the number a flag gives, which a field of a prototxt can hold."""
    value = int(text)
    if not -(2**31) <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is beyond 32 bits")
    return value


def input_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that ``-input_shape`` gives, by the name of their blob.

    What their numbers mean is ``doctor.sample_shapes.with_batch``'s matter.

    Raises:
        UsageError: one is none.
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


def print_prototxt(message: Any) -> None:
    """Print a message as prototxt, with escapes where stdout cannot show its letters."""
    from ..proto import text

    content = text.to_text(message)
    try:
        content.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        content = text.to_text(message, as_utf8=False)
    print(content, end="")


def put_prototxt(message: Any, path: str | None) -> None:
    """Write a message as prototxt to a file, or to stdout where none is named."""
    from ..proto import text

    if path:
        text.write(path, message)
        print(f"wrote {path}", file=sys.stderr)
    else:
        print_prototxt(message)


def read_current_net(path: str) -> Any:
    """Read a net's prototxt of any year; tell on stderr what was upgraded.

    Raises:
        NetError: a field has no successor.
    """
    from ..net import read_net
    from ..proto.upgrade import Notes

    notes = Notes()
    net = read_net(path, notes)
    for line in notes.lines:
        print(line, file=sys.stderr)
    if notes.problems:
        raise NetError("has fields without a successor, see above; remove them", path)
    return net


def say(sentence: str) -> None:
    """Print a sentence at once, among the log lines."""
    print(f"== {sentence}", flush=True)


def comma_list(text: str | None) -> list[str]:
    """Split ``a,b`` into its parts."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]
