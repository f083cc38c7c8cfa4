from __future__ import annotations

import re

import pytest

from caffe_kd.cli.layers import main
from caffe_kd.layers import layer_types
from caffe_kd.layers.docstring import docstring_of

CAFFES = 61  # layer types of BVLC Caffe


def rows_of(lines: list[str]) -> dict[str, str]:
    """Return the rows of the tables by their type."""
    rows = [line for line in lines if re.match(r"\| (?!type )\w+ \|", line)]
    by_type = {row.split(" | ")[0].strip("| "): row for row in rows}
    assert len(by_type) == len(rows)
    return by_type


def printed(capsys, *flags: str) -> list[str]:
    assert main(list(flags)) == 0
    return capsys.readouterr().out.splitlines()


def test_table_has_a_row_for_each_type(capsys):
    by_type = rows_of(printed(capsys))
    assert sorted(by_type) == sorted(layer_types())
    assert by_type["Convolution"].endswith("| 1 or more | 1 or more | Caffe | own operators |")
    assert by_type["Data"].endswith("| 0 | 1 to 3 | Caffe | an input |")
    assert by_type["SoftmaxWithLoss"].endswith("| Caffe | left out |")
    assert by_type["Python"].endswith("| Caffe | none |")


def test_tables_are_grouped_as_caffes_documentation_groups_them(capsys):
    lines = printed(capsys)
    titles = [line for line in lines if line.startswith("## ")]
    assert titles[0].startswith("## Data layers: ")
    assert titles[1].startswith("## Vision layers: ")
    between = lines[lines.index(titles[1]) : lines.index(titles[2])]
    assert {"Convolution", "Pooling", "SPP", "Crop", "Deconvolution"} < {*rows_of(between)}


@pytest.mark.parametrize("name", sorted(layer_types()))
def test_type_is_described_with_a_sample_and_its_settings(name, capsys):
    lines = printed(capsys, name)
    assert lines[0].startswith(f"{name}, from ")
    assert docstring_of(layer_types()[name]).summary.splitlines()[0] in lines
    if layer_types()[name].__module__.startswith("caffe_kd."):
        assert lines.index("Sample::") < lines.index("    layer {") < len(lines)
    field = layer_types()[name].param_field
    assert (f"{field}:" if field else "It has no settings of its own.") in lines


def test_every_row_says_in_a_sentence_what_the_type_does(capsys):
    for row in rows_of(printed(capsys)).values():
        sentence = row.split(" | ")[1]
        assert sentence.endswith((".", ":")), row
        assert len(sentence) < 120, row


def test_brief_table_groups_all_types_by_origin(capsys):
    rows = printed(capsys, "-brief")[2:]
    names = [name for row in rows for name in row.split(" | ")[1].rstrip(" |").split(", ")]
    assert sorted(names) == sorted(layer_types())
    assert rows[0].startswith(f"| Caffe ({CAFFES}) | AbsVal, ")
    assert re.match(r"\| caffe_kd \(\d+\) \| ", rows[-1])


def test_types_of_a_users_file_are_listed(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from caffe_kd.layers import Layer, register\n"
        '@register("ListedHere", origin="mine")\n'
        'class ListedHere(Layer):\n    """Do nothing."""\n'
    )
    try:
        assert "| mine (1) | ListedHere |" in printed(capsys, "-brief", "-layers", str(path))
    finally:
        from caffe_kd.layers import base

        del base._REGISTRY["ListedHere"]
