"""A user's own Python code, named by a prototxt: whether it may run, its imports, its errors.

A prototxt must not run code by itself. A program that builds a net runs its Python layers, as
pycaffe does; a command runs none unless a flag allows it.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import NetError

_PACKAGE = "caffe_kd"
_allowed = True


def is_allowed() -> bool:
    """Return whether code that a prototxt names may run."""
    return _allowed


def allow() -> None:
    """Allow code that a prototxt names to run, until the enclosing ``forbidden`` ends."""
    global _allowed
    _allowed = True


@contextmanager
def forbidden() -> Iterator[None]:
    """Forbid code that a prototxt names to run, unless ``allow`` is called inside."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


# ---- its imports


@contextmanager
def user_import_path(folders: Sequence[str]) -> Iterator[None]:
    """Append folders to the import path, and make ``caffe`` an alias of this package.

    ``import caffe``, with its submodules, gives this package where Caffe is not installed, and
    only inside the ``with`` block.
    """
    added = [folder for folder in folders if folder not in sys.path]
    finder = _CaffeFinder()
    sys.path.extend(added)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for folder in added:
            if folder in sys.path:
                sys.path.remove(folder)
        for name in finder.made:
            sys.modules.pop(name, None)


def alias_as_caffe() -> None:
    """Make ``caffe`` an alias of this package from now on."""
    sys.meta_path.insert(0, _CaffeFinder())
    sys.modules["caffe"] = sys.modules[_PACKAGE]


class _CaffeFinder(MetaPathFinder, Loader):
    """Finds this package and its modules under the name ``caffe``."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        top, _, rest = name.partition(".")
        if top != "caffe":
            return None
        if rest:
            ours = sys.modules.get("caffe") is sys.modules[_PACKAGE]
        else:
            ours = not self._is_installed()
        return ModuleSpec(name, self) if ours else None

    def _is_installed(self) -> bool:
        others = [f for f in sys.meta_path if not isinstance(f, _CaffeFinder)]
        specs = [finder.find_spec("caffe", None) for finder in others]
        # A folder that merely has the name (a namespace package) has a spec without origin.
        return any(spec is not None and spec.origin is not None for spec in specs)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        self.made.append(name)
        sys.modules[name] = _module(name.split(".")[1:])


def _module(parts: Sequence[str]) -> ModuleType:
    module = sys.modules[_PACKAGE]
    for part in parts:
        child = getattr(module, part, None)
        if not isinstance(child, ModuleType):
            child = importlib.import_module(f"{module.__name__}.{part}")
        module = child
    return module


# ---- its errors

_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_OURS = (str(Path(__file__).parents[1]) + os.sep, "<frozen ")
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in _PATHS)


def location(error: BaseException) -> str:
    """Return where in the user's own files an error was raised, innermost first, or "".

    Frames of this package are left out, and those of installed packages if there are others.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    frames_of_users = [f for f in frames if not f.filename.startswith(_OURS)]
    own = [f for f in frames_of_users if not _is_installed(f.filename)] or frames_of_users
    return ", called from ".join(f"{f.filename}:{f.lineno} (in {f.name})" for f in own[:-4:-1])


def _is_installed(file: str) -> bool:
    return file.startswith(_INSTALLED) or f"{os.sep}site-packages{os.sep}" in file


def files(error: BaseException) -> set[str]:
    """Return the files outside this package that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    return {frame.filename for frame in frames if not frame.filename.startswith(_OURS)}


class UserCodeError(NetError):
    """A NetError that can also be of a user's exception class, whatever arguments that takes."""

    __str__ = Exception.__str__

    def __init__(self, message: str, where: str | None) -> None:
        Exception.__init__(self, f"{where}: {message}" if where else message)
        self.message = message
        self.where = where


def as_net_error(error: Exception, what: str, where: str | None) -> NetError:
    """Return a NetError that an ``except`` for the user's error catches too.

    Args:
        error: what the user's code raised.
        what: the layer, and which of its methods was running.
        where: ``file:line`` of the layer.
    """
    at = location(error)
    message = f"{what} failed{' at ' if at else ''}{at}: {type(error).__name__}: {error}"
    kind = type(error)
    try:
        result: NetError = type(kind.__name__, (UserCodeError, kind), {})(message, where)
    except TypeError:  # a class that cannot be subclassed, or that has another constructor
        return UserCodeError(message, where)
    result.__dict__.update({k: v for k, v in vars(error).items() if k not in ("message", "where")})
    return result
