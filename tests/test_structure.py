"""The rooms stand on floors: an import goes down, never up, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "caffe_kd"

# From the ground up; rooms of one floor do not import each other. README of caffe_kd/ draws it.
FLOORS = [
    ["core"],
    ["logs", "python_layers"],
    ["proto"],
    ["losses", "data"],
    ["layers"],
    ["net", "figures"],
    ["verify"],
    ["export"],
    ["solver"],
    ["analysis", "synthesis", "for_caffe"],
    ["pruning", "quantization", "import_onnx"],
    ["doctor", "dark_knowledge", "recipes"],
    ["pycaffe", "fuzz"],
    ["__init__", "classifier", "coord_map", "detector", "draw", "io", "net_spec"],
    ["plugin", "cli"],
    ["__main__"],
]
MAX_LINES = 500


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports when it runs, wherever it says so."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in _running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in known:
                    yield inner
                elif source in known:
                    yield source


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


@cache
def graph() -> dict[str, frozenset[str]]:
    known = modules()
    return {name: frozenset(imports(name, path, known)) - {name} for name, path in known.items()}


def test_every_room_has_its_floor() -> None:
    assert {room(module) for module in modules()} == {name for floor in FLOORS for name in floor}


def test_no_import_runs_up_a_floor_or_across_it() -> None:
    floor_of = {name: level for level, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for module, targets in graph().items():
        here = room(module)
        for target in sorted(targets):
            there = room(target)
            if here != there and floor_of[there] >= floor_of[here]:
                wrong.append(f"{module} imports {target}")
    assert not wrong, "imports that run up a floor or across it:\n" + "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle() -> None:
    circles = []
    path: list[str] = []
    done: set[str] = set()

    def visit(module: str) -> None:
        if module in path:
            circles.append(" -> ".join([*path[path.index(module) :], module]))
            return
        if module in done:
            return
        path.append(module)
        for target in sorted(graph()[module]):
            visit(target)
        path.pop()
        done.add(module)

    for module in graph():
        visit(module)
    assert not circles, "files that import each other:\n" + "\n".join(circles)


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in paths}
    assert not {name: n for name, n in lengths.items() if n > MAX_LINES}
