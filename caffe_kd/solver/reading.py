"""Finds and reads the files that a solver's prototxt names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.errors import SolverError
from ..core.files import find, name_hint
from ..proto import bundle, text
from ..proto.upgrade import Notes, upgrade_net


class Reader:
    """Reads the nets of a solver, each file once.

    Args:
        solver: the SolverParameter.
        file: its prototxt.
        upgrades: collects what was upgraded.

    Attributes:
        notes: lines for the log.
    """

    def __init__(self, solver: Any, file: Path, upgrades: Notes) -> None:
        self.solver = solver
        self.file = file
        self.upgrades = upgrades
        self.notes: list[str] = []
        self._bundles: dict[Path, bundle.Bundle] = {}
        self._read: dict[tuple[Path, tuple[str, ...]], Any] = {}

    def where(self, name: str) -> str:
        """Return ``file:line`` of a field of the solver."""
        return text.locate(self.file, name)

    def note(self, lines: Iterable[str]) -> None:
        """Add lines for the log, each once: train and test nets may produce the same lines."""
        self.notes += [line for line in lines if line not in self.notes]

    def find(self, path: str, field: str, hint: str = "") -> Path:
        """Return the file that a field of the solver names."""
        file = find(path, self.file)
        if not path or not os.path.exists(file):
            raise SolverError(
                f"{field} '{path}': no such file, neither relative to {Path.cwd()} nor beside the "
                f"solver{name_hint(path) or '.'}{hint}",
                self.where(field),
            )
        return file

    def bundle(self, path: str, field: str) -> bundle.Bundle:
        """Return the nets of a file."""
        file = self.find(path, field)
        if file not in self._bundles:
            self._bundles[file] = bundle.read(file)
            self.note(self._bundles[file].notes)
        return self._bundles[file]

    def net(self, path: str, field: str, *names: str) -> tuple[Any, Path]:
        """Return a file's net of one of these names; without names, the student."""
        found = self.bundle(path, field)
        key = found.file, names
        if key not in self._read:
            if names:
                net = found.net(*names)
            else:
                net, notes = found.student(self.solver.layer)
                self.note(notes)
            self._read[key] = upgrade_net(net, str(found.file), self.upgrades)
        return self._read[key], found.file

    def inline(self, net: Any) -> tuple[Any, Path]:
        """Return a net that is written in the solver itself."""
        joined, notes = bundle.join(net, self.solver.layer) if self.solver.layer else (net, [])
        self.note(notes)
        return joined, self.file


def paths(entries: Iterable[str]) -> list[str]:
    """Return the paths of entries that may each hold several, separated by commas."""
    return [path.strip() for entry in entries for path in entry.split(",") if path.strip()]
