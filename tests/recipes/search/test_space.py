"""Ranges of the settings that are searched."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import UsageError
from caffe_kd.recipes.search.space import Space, describe, parse

OWN = {"temperature": 4.0, "alpha": 0.9, "base_lr": 0.02, "batch_size": 64.0, "weight_decay": 0.0}


def test_ranges_lie_around_what_the_solver_has() -> None:
    space = Space(OWN, {})
    assert space.about() == {
        "temperature": [1.0, 20.0],
        "alpha": [0.0, 1.0],
        "base_lr": [0.002, pytest.approx(0.2)],
        "batch_size": [32, 64, 128],
        "weight_decay": [1e-6, 1e-2],
    }
    assert space.own == OWN | {"weight_decay": 1e-6}


def test_only_what_is_asked_for_is_searched() -> None:
    space = Space(OWN, parse("alpha, batch_size=16:600, temperature=8:16"))
    assert space.about() == {
        "temperature": [8.0, 16.0],
        "alpha": [0.0, 1.0],
        "batch_size": [16, 32, 64, 128, 256, 512],
    }
    assert space.own["temperature"] == 8.0  # the own 4 is brought into the range


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("temprature", "Did you mean 'temperature'?"),
        ("alpha=0.5", "takes NAME=LOW:HIGH"),
        ("alpha=0:2", "at most 1"),
        ("base_lr=0:1", "above 0"),
        ("base_lr=1:0.5", "Received: 1:0.5"),
        ("temperature=1:inf", "Received: 1:inf"),
        ("batch_size=60:70", "not two batch sizes"),
    ],
)
def test_impossible_ranges_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("?", r"\?")):
        Space(OWN, parse(text))


def test_a_setting_the_solver_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="alpha: the solver has no such setting"):
        Space({"base_lr": 0.1}, parse("alpha"))


def test_settings_are_reported_shortly() -> None:
    assert describe({"base_lr": 0.0123456, "batch_size": 64}) == "base_lr 0.01235, batch_size 64"
