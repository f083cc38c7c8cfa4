from __future__ import annotations

from importlib import import_module

import pytest

from caffe_kd.cli.formats import FORMATS, main, table


@pytest.mark.parametrize("entry", FORMATS, ids=lambda entry: entry.name)
def test_every_format_has_the_functions_it_names(entry):
    for place in filter(None, (entry.reader, entry.writer)):
        module, name = place.split(":")
        assert callable(getattr(import_module(f"caffe_kd.{module}"), name))


def test_command_prints_a_row_for_each_format(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == table()
    assert len(lines) == len(FORMATS) + 2
    assert "| LevelDB of Datum | folder | yes | no | needs no further packages |" in lines
