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

from ..core.errors import CaffeKDError, UsageError
from ..python_layers import as_caffe, user_code
from .command_parser import CommandParser
from .guard import guarded
from .python2 import advice

SUMMARY = "run a Python script written for pycaffe, as it is"
GROUP = "caffe"
EXAMPLE = "script.py"
DESCRIPTION = """Runs a Python script, or with -m a module, in which `import caffe` imports this
package, also in processes that it starts with multiprocessing. If another Caffe is installed, it
refuses: write `import caffe_kd as caffe` in the script instead. What the script adds to sys.path
does not change this, so it may still add the folder of a Caffe that was never built. Layers of type
Python run, as the script itself does."""

# What lies between this command and the script in a traceback.
_BETWEEN = (__file__, "<frozen runpy>", runpy.__file__)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = words[: 2 if words[:1] == ["-m"] else 1]  # the rest is for the script
    arguments = parser().parse_args(own)
    script, module = arguments.script, arguments.module
    if not script and not module:
        parser().error("a SCRIPT is required, or -m MODULE")
    if script and not Path(script).is_file():
        raise UsageError(f"there is no script '{script}'. Looked from {Path.cwd()}")
    user_code.allow()
    folder = Path(script).resolve().parent if script else Path.cwd()
    words = [script or module, *words[len(own) :]]
    with user_code.user_import_path([]), _as_started(words, folder):
        if module and not _is_there(module):
            raise CaffeKDError(f"No module named {module}. Looked from {Path.cwd()}")
        return _run(script, module)


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("run", DESCRIPTION, EXAMPLE, words="SCRIPT | -m MODULE [ARGUMENTS ...]")
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="the Python file")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="a module to run instead")
    return parser


def _is_there(module: str) -> bool:
    """Return whether a module is found; True too if an import within its packages fails."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as error:
        return not f"{module}.".startswith(f"{error.name}.")
    except Exception:
        return True  # reported with its traceback when it is run


@contextmanager
def _as_started(words: Sequence[str], folder: Path) -> Iterator[None]:
    """Let ``caffe`` be this package, and give the script its arguments and import path."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = list(words)
    sys.path.insert(0, str(folder))
    try:
        _import_caffe()  # before the script can change where modules are found
        # Processes that multiprocessing spawns get the path, not what was imported.
        sys.path.append(str(Path(as_caffe.__file__).parent))
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _import_caffe() -> None:
    loaded = sys.modules.get("caffe")
    spec = importlib.util.find_spec("caffe") if loaded is None else None
    other = getattr(loaded, "__file__", None) if spec is None else spec.origin
    if other is not None and loaded is not sys.modules["caffe_kd"]:
        raise CaffeKDError(
            f"`import caffe` imports another Caffe here ({other}). Write `import caffe_kd as "
            "caffe` in the script, or run it where no other Caffe is installed"
        )
    import_module("caffe")


def _run(script: str | None, module: str) -> int:
    """Run the script or module as Python does; return its exit status."""
    try:
        if script:
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception as error:
        _print_traceback(error)
        return 1
    return 0


def _print_traceback(error: Exception) -> None:
    """Print the traceback that Python would print, from the script on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _BETWEEN:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
    hint = advice(error)
    if hint is not None:
        print(hint, file=sys.stderr)
