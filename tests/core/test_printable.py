"""Names from files, as they reach a terminal or a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from caffe_kd.cli.main import main
from caffe_kd.core.errors import CaffeKDError, ParseError, printable
from caffe_kd.logs.log import Log
from caffe_kd.net import read_net

BAD = ["\x1b[2J", "a\nb", "a\rb", "\u202eabc", "\x9b1m", "\x00", "a\u200bb", "\u2028"]


@pytest.mark.parametrize("name", BAD)
def test_errors_and_log_lines_escape_control_characters(name: str) -> None:
    error = str(CaffeKDError(f"layer '{name}' is wrong", f"{name}.prototxt"))
    assert name not in error
    assert error.isprintable()
    stream = io.StringIO()
    Log(stream=stream).info(f"Creating Layer {name}")
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)


def test_letters_of_all_languages_stay() -> None:
    text = "学生 größe\tø  🙂"
    assert printable(text) == text


def test_indented_lines_of_a_message_stay() -> None:
    assert printable("two problems:\n  one\n  two") == "two problems:\n  one\n  two"


def test_endless_names_are_shortened() -> None:
    error = str(CaffeKDError(f"unknown layer '{'n' * 1_000_000}' here"))
    assert len(error) < 700
    assert "(1000002 characters)" in error


@pytest.mark.parametrize("name", [*BAD[:-3], "n" * 5000])
@pytest.mark.parametrize(
    "field",
    [
        'name: "{}" type: "ReLU"',
        'name: "a" type: "{}"',
        'name: "a" type: "ReLU" bottom: "{}"',
        'name: "a" type: "ReLU" top: "{}"',
        'name: "a" type: "Data" data_param {{ source: "{}" }}',
    ],
)
def test_net_whose_names_would_garble_the_terminal_is_refused(
    tmp_path: Path, field: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.prototxt"
    escaped = name.encode("unicode_escape").decode() if name.isascii() else name
    path.write_text("\nlayer { " + field.format(escaped) + " }\n")
    with pytest.raises(ParseError, match=r"net\.prototxt:2: '(name|type|bottom|top|source)' has"):
        read_net(path)
    assert main(["summarize", str(path)]) == 1
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in (printed.out + printed.err).split("\n"))


def test_parameters_of_a_python_layer_may_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "a" type: "Python" python_param { param_str: "{\\n\\t}" } }')
    assert read_net(path).layer[0].python_param.param_str == "{\n\t}"
