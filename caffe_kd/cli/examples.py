"""``examples``: lists the nets and solvers that come with the package, or copies some."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core import examples
from ..core.errors import UsageError, did_you_mean
from ..core.files import write_atomically
from . import flags
from .command_parser import CommandParser
from .guard import guarded
from .output import say

SUMMARY = "list the example nets and solvers, or copy some to change them"
GROUP = "train"
EXAMPLE = "mnist/kd"
DESCRIPTION = """Without a name: lists the examples that come with caffe_kd, by folder. With names:
copies each, with the nets that it needs and the solver that trains its teacher, and prints how it
is run. A folder's name copies the whole folder. Data is looked for in the folder where a command is
started, and results go there. To run an example as it is, no copy is needed: -solver
prototxt/mnist/kd_solver.prototxt finds it."""

_DATA = {"data/mnist/": "get_mnist", "data/cifar10/": "get_cifar10"}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)
    if not arguments.names:
        say(*_listing())
        return 0
    chosen = [_find(name) for name in arguments.names]
    files = {file: None for path in chosen for file in _with_needed(path)}
    target = Path(arguments.output)
    copies = {_place(file, target): _content(file, target) for file in files}
    _write(copies, arguments.force)
    say(*_report(copies, [_place(path, target) for path in chosen]))
    return 0


def parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("examples", DESCRIPTION, EXAMPLE, words="[NAME...] [FLAGS]")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a folder, as mnist, or an example in it, as mnist/kd",
    )
    flags.add(
        parser,
        "output",
        metavar="FOLDER",
        default=examples.FOLDER,
        help="copy into this folder (default: %(default)s)",
    )
    flags.add(parser, "force", action="store_true", help="replace files that differ")
    return parser


def _listing() -> Iterator[str]:
    """Yield each folder with its line in the README and its examples, then what to do next."""
    text = (examples.root() / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\S+\) \| (.*) \|$", text, re.MULTILINE))
    width = shutil.get_terminal_size().columns - 2
    for folder in _folders():
        line = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", rows.get(folder.name, ""))
        yield from textwrap.wrap(f"{folder.name}: {line}", width, subsequent_indent="  ")
        names = ", ".join(_name(path) for path in _solvers(folder))
        yield from textwrap.wrap(names, width, initial_indent="    ", subsequent_indent="    ")
    yield ""
    yield "run:   caffe_kd train -solver prototxt/mnist/kd_solver.prototxt"
    yield "copy:  caffe_kd examples mnist/kd"


def _folders() -> list[Path]:
    return sorted(path for path in examples.root().iterdir() if path.is_dir())


def _solvers(folder: Path) -> list[Path]:
    return sorted(folder.glob("*solver.prototxt"))


def _name(solver: Path) -> str:
    return solver.stem.removesuffix("_solver")


def _find(name: str) -> Path:
    """Return the folder or the solver that a name means.

    Raises:
        UsageError: there is none of this name.
    """
    short = name.rstrip("/").removeprefix(f"{examples.FOLDER}/")
    short = short.removesuffix(".prototxt").removesuffix("_solver")
    known = {folder.name: folder for folder in _folders()}
    for folder in _folders():
        known |= {f"{folder.name}/{_name(path)}": path for path in _solvers(folder)}
    if short not in known:
        hint = did_you_mean(short, known)
        raise UsageError(f"there is no example '{name}'.{hint} caffe_kd examples lists them")
    return known[short]


def _with_needed(path: Path) -> list[Path]:
    """Return a folder's files or an example, and what they name in turn."""
    found = sorted(p for p in path.glob("*.*") if p.suffix in (".md", ".prototxt"))
    found = found or [path]
    for file in found:  # grows on the way
        found += [needed for needed in _needed(file) if needed not in found]
    return found


def _needed(file: Path) -> Iterator[Path]:
    """Yield the nets that a file names, and the solvers that train the teachers it names."""
    if file.suffix != ".prototxt":
        return
    words = re.findall(r'"(.*?)"', re.sub(r"#.*", "", file.read_text(encoding="utf-8")))
    for word in words:
        if word.endswith(".prototxt"):
            yield (file.parent / word).resolve()
        made, ends = re.subn(r"(_iter_\d+\.caffemodel|\.onnx)$", "", word)
        for solver in _solvers(file.parent) if ends else ():
            if f'snapshot_prefix: "{made}"' in solver.read_text(encoding="utf-8"):
                yield solver


def _place(file: Path, target: Path) -> Path:
    return target / file.relative_to(examples.root())


def _content(file: Path, target: Path) -> str:
    """Return a file's text, in which the examples' folder is the one that they are copied to."""
    text = file.read_text(encoding="utf-8")
    return re.sub(rf"(?<![\w/.]){examples.FOLDER}/(?=\w)", f"{target.as_posix()}/", text)


def _write(copies: dict[Path, str], force: bool) -> None:
    """Write all files, or none.

    Raises:
        UsageError: some are there already and differ.
    """
    differ = [p for p, text in copies.items() if p.exists() and p.read_bytes() != text.encode()]
    if differ and not force:
        names = ", ".join(map(str, differ))
        raise UsageError(f"not overwritten, for they differ: {names}. -force replaces them")
    for path, text in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def _report(copies: dict[Path, str], chosen: Sequence[Path]) -> Iterator[str]:
    """Yield what was copied, how its data is got, and how each example is run."""
    yield from (f"wrote {path}" for path in copies)
    for folder, command in _DATA.items():
        if any(f'"{folder}' in text for text in copies.values()):
            yield f"data:  caffe_kd {command}"
    for path in chosen:
        if path in copies:
            head = re.match(r"(#.*\n)+", copies[path])
            yield from (f"{path}:", *(head[0].splitlines() if head else ()))
        else:
            yield f"{path}: the first lines of each solver say how it is run"
