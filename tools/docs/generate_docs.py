"""Writes the generated part of the documents: what stands below a marker line in each.

    python tools/docs/generate_docs.py

Commands and flags come from the commands' parsers, layer types from their docstrings, fields from
caffe.proto. What stands above the line is written by hand. A test compares.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

COMMAND = "python tools/docs/generate_docs.py"
MARK = f"<!-- Below this line everything is written by: {COMMAND} -->"
FIRST_OWN = 51001  # the numbers of fields that Caffe does not have begin here
CAFFES = ("LayerParameter", "FillerParameter")  # of these only what is added is listed


def commands_page() -> Iterator[str]:
    """Yield the commands by their groups, then each with its flags."""
    from caffe_kd.cli.commands import GROUPS, commands

    for key, title in GROUPS.items():
        yield from (f"## {title}", "")
        rows = ((f"[{n}](#{n})", c.summary) for n, c in commands().items() if c.group == key)
        yield from _table(("command", "what it does"), rows)
    for name in commands():
        yield from _command(name, import_module(f"caffe_kd.cli.{name}").parser())


def _command(name: str, parser: Any) -> Iterator[str]:
    actions = [
        action
        for action in parser._actions  # argparse has no public list of them
        if action.help != argparse.SUPPRESS and "-h" not in action.option_strings
    ]
    yield from (f"### {name}", "", _sentence(parser.description), "")
    yield from ("```text", parser.command_line(), "```", "")
    if actions:
        rows = ((f"`{_spelling(a)}`", _help(parser, a)) for a in actions)
        yield from _table(("argument", ""), rows)
    yield from ("```text", parser.epilog, "```", "")


def _spelling(action: argparse.Action) -> str:
    """Return how an argument is written: ``-max_iter N``, ``LOG...``."""
    value = action.metavar or ("|".join(map(str, action.choices or ())) or action.dest.upper())
    text = " ".join(value) if isinstance(value, tuple) else value
    text = {"*": f"[{text}...]", "+": f"{text}...", "?": f"[{text}]"}.get(str(action.nargs), text)
    if not action.option_strings:
        return text
    return action.option_strings[0] if action.nargs == 0 else f"{action.option_strings[0]} {text}"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = {**vars(action), "prog": parser.prog}
    return _sentence((action.help or "") % values)


def layers_page() -> Iterator[str]:
    """Yield the layer types, by folder, with docstring and sample."""
    from caffe_kd.cli.layers import brief, onnx_form
    from caffe_kd.layers import layer_types
    from caffe_kd.layers.docstring import by_folder, docstring_of

    ours = [k for k in layer_types().values() if k.__module__.startswith("caffe_kd.layers.")]
    yield from (*brief(ours), "")
    for title, kinds in by_folder(ours).items():
        yield from (f"## {title}", "")
        for kind in kinds:
            documented = docstring_of(kind)
            yield from (f"### {kind.type}", "", documented.summary, "")
            yield from (f"From {kind.origin}. In ONNX: {onnx_form(kind)}.", "")
            if documented.text:
                yield from ("```text", documented.text, "```", "")
            if documented.sample:
                yield from ("```protobuf", documented.sample, "```", "")
            yield from _settings_of(kind)


def _settings_of(kind: Any) -> Iterator[str]:
    from caffe_kd.proto import describe

    message = describe.message_of(kind.param_field) if kind.param_field else None
    if message is not None:
        yield f"`{kind.param_field}`:"
        yield ""
        yield from _fields(describe.fields(message))


def fields_page() -> Iterator[str]:
    """Yield the file formats, and the fields that Caffe does not have."""
    from caffe_kd.cli.formats import table
    from caffe_kd.proto import describe, schema

    yield from ("## File formats", "", *table(), "")
    messages = schema.descriptor().message_types_by_name
    own: list[str] = []
    yield from ("## Fields in Caffe's messages", "")
    for message in messages.values():
        added = [f for f in describe.fields(message) if f.number >= FIRST_OWN]
        if added:
            yield from (f"### {message.name}", "")
            yield from _fields(added)
            own += [field.kind for field in added if field.kind in messages]
    yield from ("## Messages that Caffe does not have", "")
    for name in _closed(own, messages):
        yield from (f"### {name}", "", describe.about(messages[name]), "")
        yield from _fields(describe.fields(messages[name]))


def _closed(names: list[str], messages: Any) -> list[str]:
    """Return messages with those that their fields have, sorted, but for Caffe's own."""
    from caffe_kd.proto import describe

    found = dict.fromkeys(name for name in names if name not in CAFFES)
    waiting = list(found)
    while waiting:
        kinds = [field.kind for field in describe.fields(messages[waiting.pop()])]
        new = [k for k in kinds if k in messages and k not in found and k not in CAFFES]
        found.update(dict.fromkeys(new))
        waiting += new
    return sorted(found, key=str.lower)


def _fields(fields: Iterable[Any]) -> Iterator[str]:
    rows = []
    for field in fields:
        kind = f"repeated {field.kind}" if field.label == "repeated" else field.kind
        choices = f" ({', '.join(field.choices)})" if field.choices else ""
        comment = "<br>".join(filter(None, (" ".join(field.comment), *field.of_values)))
        rows.append((f"`{field.name}`", kind + choices, field.default, str(field.number), comment))
    yield from _table(("field", "type", "default", "number", ""), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(_cell(cell) for cell in row)} |"
    yield ""


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def _sentence(text: str) -> str:
    return " ".join(text.split())


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "tools/README.md": commands_page,
    "caffe_kd/layers/README.md": layers_page,
    "caffe_kd/proto/README.md": fields_page,
}


def page(name: str) -> str:
    """Return a document as it has to be: its hand-written head, then what is generated."""
    head = (ROOT / name).read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    generated = "\n".join(PAGES[name]()).rstrip()
    return f"{head}\n\n{MARK}\n\n{generated}\n"


def main() -> None:
    """Write all pages."""
    for name in PAGES:
        (ROOT / name).write_text(page(name), encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
