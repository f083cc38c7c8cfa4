from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.recipes.search.database import open_study

NAMES = ["alpha", "temperature"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = tmp_path_factory.mktemp("search") / "search.db"
    study = open_study(path, NAMES, maximize=True)
    study.set_user_attr("about", {"seed": 1})
    for number in range(1, 6):
        trial = study.ask()
        for name in NAMES:
            trial.suggest_float(name, 0, 1)
        trial.set_user_attr("number", number)
        study.tell(trial, number / 10)
    return path.read_bytes()


def opened(path: Path, content: bytes) -> str:
    """Open a database of these bytes; return the message of the error, if there is one."""
    path.write_bytes(content)
    try:
        open_study(path, NAMES, maximize=True)
    except CaffeKDError as error:
        return str(error)
    return ""


def test_database_that_is_whole_is_opened(tmp_path: Path, whole: bytes) -> None:
    assert opened(tmp_path / "search.db", whole) == ""


@pytest.mark.parametrize("content", [b"x" * 5000, b"SQLite format 3\0" + b"\1" * 5000])
def test_what_is_no_database_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    message = opened(tmp_path / "search.db", content)
    assert "search.db: is damaged, or is not a search's database: " in message
    assert "Move it away, and the same command starts the search again" in message


def test_damaged_database_is_one_clear_error_or_as_good_as_whole(
    tmp_path: Path, whole: bytes
) -> None:
    draw = random.Random(1)
    refused = 0
    for trial in range(40):
        content = bytearray(whole)
        if trial % 4 == 0:
            del content[draw.randrange(len(content)) :]
        for _ in range(100):
            if content:
                content[draw.randrange(len(content))] = draw.randrange(256)
        message = opened(tmp_path / f"{trial}.db", bytes(content))
        assert "\n" not in message
        refused += bool(message)
    assert refused > 20


def test_trial_without_a_value_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "search.db"
    path.write_bytes(whole)
    study = open_study(path, NAMES, maximize=True)
    study.tell(study.ask(), 0.5)  # with no settings, by another program
    with pytest.raises(CaffeKDError, match="a trial has the number None and the settings"):
        open_study(path, NAMES, maximize=True)
