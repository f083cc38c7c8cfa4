"""``run``: runs a Python script that was written for pycaffe, as it is."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from .. import user_code
from ..errors import CaffeKDError, UsageError
from . import common

DESCRIPTION = """Runs a Python script in which `import caffe` gives this package. Where the original
Caffe is installed, it refuses: there write `import caffe_kd as caffe` in the script. What the
script adds to sys.path does not matter, so that the folder of an original that was never built may
stand in it. Layers of type Python run, as the script itself does."""


@common.guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = common.parser("run", DESCRIPTION, usage="run [-h] SCRIPT [ARGUMENTS ...]")
    parser.add_argument("script", metavar="SCRIPT", help="the Python file; the rest is for it")
    words = list(sys.argv[1:] if argv is None else argv)
    script = parser.parse_args(words[:1]).script
    if not Path(script).is_file():
        raise UsageError(f"there is no script '{script}'. Looked from {Path.cwd()}")
    user_code.allow()
    with user_code.surroundings([]), _as_started([script, *words[1:]]):
        return _run(script)


@contextmanager
def _as_started(words: Sequence[str]) -> Iterator[None]:
    """Let ``caffe`` be this package and the script find its words and neighbours."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = list(words)
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    try:
        _import_caffe()  # before the script can change where modules are found
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _import_caffe() -> None:
    loaded = sys.modules.get("caffe")
    spec = importlib.util.find_spec("caffe") if loaded is None else None
    original = getattr(loaded, "__file__", None) if spec is None else spec.origin
    if original is not None and loaded is not sys.modules["caffe_kd"]:
        raise CaffeKDError(
            f"`import caffe` is the original Caffe here ({original}). Write `import caffe_kd as "
            "caffe` in the script, or run it where the original is not installed"
        )
    import_module("caffe")


def _run(script: str) -> int:
    """Run the script as Python does; return its exit status."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception as error:
        _tell(error, script)
        return 1
    return 0


def _tell(error: Exception, script: str) -> None:
    """Print the traceback that Python would print, from the script on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
