"""The generated part of the documents is what the program says now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "docs" / "generate_docs.py"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate_docs = _script()


@pytest.mark.parametrize("name", generate_docs.PAGES)
def test_page_is_up_to_date(name: str) -> None:
    text = (generate_docs.ROOT / name).read_text(encoding="utf-8")
    assert text == generate_docs.page(name), f"{name} is stale; run: {generate_docs.COMMAND}"
