"""What to change in a script that was written for Python 2, by the error that it raises."""

from __future__ import annotations

import re

_NAMES = {
    "basestring": "str",
    "cmp": "(a > b) - (a < b)",
    "execfile": "exec(open(FILE).read())",
    "file": "open",
    "long": "int",
    "raw_input": "input",
    "reduce": "functools.reduce",
    "reload": "importlib.reload",
    "unichr": "chr",
    "unicode": "str",
    "xrange": "range",
}
_METHODS = {
    "has_key": "key in mapping",
    "iteritems": "items",
    "iterkeys": "keys",
    "itervalues": "values",
    "next": "next(iterator)",
}
_MODULES = {
    "ConfigParser": "configparser",
    "Queue": "queue",
    "StringIO": "io",
    "Tkinter": "tkinter",
    "cPickle": "pickle",
    "cStringIO": "io",
    "urllib2": "urllib.request",
    "urlparse": "urllib.parse",
}
# A statement that Python 3 cannot read, and what it is now.
_STATEMENTS = (
    (r"\bprint\b(?!\s*\()", "print is a function, print(...)"),
    (r"\bexec\b(?!\s*\()", "exec is a function, exec(...)"),
    (r"\bexcept\b.*,", "an exception is caught by except NAME as error:"),
    (r"\braise\b.*,", "an exception is raised by raise NAME(message)"),
    (r"<>", "<> is != now"),
    (r"`", "backquotes are repr(...) now"),
    (r"\b0[0-7]+\b", "octal numbers begin with 0o"),
)
_ADVICE = (
    "This is Python 2, and Python 3 runs here: {now}. `futurize`, of the package future, changes a "
    "whole script"
)


def advice(error: Exception) -> str | None:
    """Return what to write instead, if an error is due to Python 2 code; else None."""
    now = None
    name = getattr(error, "name", None) or ""
    if isinstance(error, SyntaxError):
        line = error.text or ""
        now = next((new for old, new in _STATEMENTS if re.search(old, line)), None)
        if isinstance(error, TabError):
            now = "a block is indented by tabs or by spaces, not by both"
    for kind, names in (
        (ModuleNotFoundError, _MODULES),
        (NameError, _NAMES),
        (AttributeError, _METHODS),
    ):
        if isinstance(error, kind) and name in names:
            now = f"{name} is {names[name]} now"
    return None if now is None else _ADVICE.format(now=now)
