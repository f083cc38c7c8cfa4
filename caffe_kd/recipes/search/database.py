"""The database in which Optuna stores a search's trials."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from ...core.errors import CaffeKDError

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(path: Path, names: Collection[str], maximize: bool, **options: Any) -> optuna.Study:
    """Open the study in a file, which is created if needed, and check its content.

    Args:
        path: the file.
        names: the settings of each trial.
        maximize: whether higher values are better.
        options: for ``optuna.create_study``.

    Raises:
        CaffeKDError: the file is not a search's database, or is damaged.
    """
    url = URL.create("sqlite", database=str(path))
    try:
        if path.exists():
            _check_file(path)
        study = optuna.create_study(
            storage=url.render_as_string(),
            study_name="search",
            load_if_exists=True,
            direction="maximize" if maximize else "minimize",
            **options,
        )
        _ = study.user_attrs, study.direction
        for trial in study.get_trials(deepcopy=False):
            _check(trial, names)
        return study
    except Exception as error:  # sqlite3, SQLAlchemy, Optuna and json raise a dozen types
        first, *_ = [*str(error).splitlines(), type(error).__name__]
        raise CaffeKDError(
            f"is damaged, or is not a search's database: {first}. Move it away, and the same "
            "command starts the search again",
            str(path),
        ) from None


def _check_file(path: Path) -> None:
    """Have SQLite check the whole file.

    Raises:
        sqlite3.Error: the file is damaged.
    """
    connection = sqlite3.connect(path)
    try:
        for (found,) in connection.execute("PRAGMA integrity_check(1)"):
            if found != "ok":
                raise sqlite3.DatabaseError(found)
    finally:
        connection.close()


def _check(trial: FrozenTrial, names: Collection[str]) -> None:
    """Check a trial with which others will be compared.

    Raises:
        ValueError: it was not written by a search.
    """
    if trial.state not in DONE:
        return
    number, value = trial.user_attrs.get("number"), trial.value
    finite = value is not None and math.isfinite(value)
    if trial.state == TrialState.COMPLETE and not finite:
        raise ValueError(f"trial {number} has the value {value}")
    if not isinstance(number, int) or set(trial.params) != set(names):
        raise ValueError(f"a trial has the number {number!r} and the settings {[*trial.params]}")
    if not all(math.isfinite(setting) for setting in trial.params.values()):
        raise ValueError(f"trial {number} has the settings {trial.params}")
    if not isinstance(trial.user_attrs.get("seconds", 0.0), (int, float)):
        raise ValueError(f"trial {number} took {trial.user_attrs['seconds']!r} seconds")
