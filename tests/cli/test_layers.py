from __future__ import annotations

import re

from caffe_kd.cli.layers import main
from caffe_kd.layers import layer_types

CAFFES = 61  # layer types of the original


def printed(capsys, *flags: str) -> list[str]:
    assert main(list(flags)) == 0
    return capsys.readouterr().out.splitlines()


def test_table_has_a_row_for_each_type(capsys):
    rows = printed(capsys)[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(layer_types())
    by_type = {row.split(" | ")[0].strip("| "): row for row in rows}
    assert by_type["Convolution"].endswith("| 1 or more | 1 or more | Caffe | own operators |")
    assert by_type["Data"].endswith("| 0 | 1 to 3 | Caffe | an input |")
    assert by_type["SoftmaxWithLoss"].endswith("| Caffe | left out |")
    assert by_type["Python"].endswith("| Caffe | none |")


def test_every_row_says_in_a_sentence_what_the_type_does(capsys):
    for row in printed(capsys)[2:]:
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
