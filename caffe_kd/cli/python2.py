"""What to change in a script that was written for Python 2, from the error that it ends with."""

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
    (r"\bprint\b(?!\s*\()", "print is a function: print(...)"),
    (r"\bexec\b(?!\s*\()", "exec is a function: exec(...)"),
    (r"\bexcept\b.*,", "except NAME as error:"),
    (r"\braise\b.*,", "raise NAME(message)"),
    (r"<>", "!="),
    (r"`", "repr(...)"),
    (r"\b0[0-7]+\b", "octal numbers begin with 0o"),
)
_ADVICE = "This is Python 2, and Python 3 runs here. Now it is written: {now}. " + (
    "`futurize` of the package future changes a whole script"
)


def advice(error: Exception) -> str | None:
    """Return what to write instead, if an error comes from Python 2's form; else None."""
    now = None
    if isinstance(error, SyntaxError):
        line = error.text or ""
        now = next((new for old, new in _STATEMENTS if re.search(old, line)), None)
        if isinstance(error, TabError):
            now = "tabs or spaces, not both"
    elif isinstance(error, ModuleNotFoundError):
        now = _MODULES.get(error.name or "")
    elif isinstance(error, NameError):
        now = _NAMES.get(error.name or "")
    elif isinstance(error, AttributeError):
        now = _METHODS.get(error.name or "")
    return None if now is None else _ADVICE.format(now=now)
