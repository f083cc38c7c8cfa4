from __future__ import annotations

import pytest

from caffe_kd.core.tables import text_table

ROWS = [["", "errors", "losses"], ["student", "12", "KD"], ["x", "3"]]


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_stand_at_the_right() -> None:
    assert text_table(ROWS) == [
        "         errors  losses",
        "student      12      KD",
        "x             3",
    ]
    assert text_table(ROWS, right=(1,), gap=" ") == [
        "        errors losses",
        "student     12 KD",
        "x            3",
    ]


def test_table_of_nothing_has_no_lines() -> None:
    assert text_table([]) == []


@pytest.mark.parametrize("name", ["\x1b[2Jx", "a\nb", "a\tb", "\x9b31m"])
def test_names_cannot_control_the_terminal(name: str) -> None:
    (line,) = text_table([["layer", name]])
    assert line.isprintable() and name not in line
