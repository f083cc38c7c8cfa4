"""Writes the generated part of the documents: what stands below a marker line in each.

    python tools/docs/generate_docs.py

Layer types come from the registry, fields from caffe.proto. What stands above the line is written by hand. A test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

COMMAND = "python tools/docs/generate_docs.py"
MARK = f"<!-- Below this line everything is written by: {COMMAND} -->"
FIRST_OWN = 51001  # the numbers of fields that Caffe does not have begin here
CAFFES = ("LayerParameter", "FillerParameter")  # of these only what is added is listed


def layers_page() -> Iterator[str]:
    """Yield the layer types by where they are from."""
    from caffe_kd.cli.layers import brief
    from caffe_kd.layers import layer_types

    yield from brief(layer_types().values())


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
        comment = " ".join(field.comment)
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


PAGES: dict[str, Callable[[], Iterator[str]]] = {
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
