"""What all commands have in common on the command line: usage, example, errors."""

from __future__ import annotations

import argparse
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from caffe_kd.cli.command_parser import CommandParser, program
from caffe_kd.cli.commands import commands
from caffe_kd.cli.main import main

ROOT = Path(__file__).parents[2]


def parser_of(name: str) -> CommandParser:
    parser = import_module(f"caffe_kd.cli.{name}").parser()
    assert isinstance(parser, CommandParser)
    return parser


@pytest.mark.parametrize("name", commands())
def test_help_begins_with_what_can_be_typed_and_ends_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([name, "-h"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: caffe_kd {name}")
    assert lines[-1] == f"example: caffe_kd {name} {parser_of(name).example}".rstrip()


@pytest.mark.parametrize("name", commands())
def test_example_is_one_that_its_command_takes(name: str) -> None:
    parser = parser_of(name)
    words = shlex.split(parser.example)
    assert parser.parse_intermixed_args(words)
    for word in words:
        if word.startswith("prototxt/"):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("name", commands())
def test_usage_shows_required_flags_without_brackets(name: str) -> None:
    parser = parser_of(name)
    usage = parser.format_usage()
    assert usage.count("\n") == 1
    for action in parser._actions:
        if action.option_strings and action.required:
            assert f" {action.option_strings[0]} " in usage
            assert f"[{action.option_strings[0]}" not in usage


@pytest.mark.parametrize("name", commands())
def test_unknown_flag_is_one_line_that_names_the_usage(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "run":  # all flags behind the script are the script's
        return
    assert main([name, "-nonsense"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown flag '-nonsense'") and error.count("\n") == 1
    assert f"(usage: caffe_kd {name}" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Need a solver definition to train: -solver (usage: caffe_kd train -solver"),
        (["merge_layers", "-model", "a"], "missing: -weights, -output (usage: "),
        (["merge_layers", "-modle", "a"], "unknown flag '-modle'. Did you mean '-model'? (usage:"),
        (["summarize", "a", "--phase=X"], "argument -phase: invalid choice: 'X'"),
        (["summarize", "a", "b"], "unknown argument 'b'. (usage: caffe_kd summarize NET [FLAGS])"),
        (["summarize"], "missing: NET (usage: caffe_kd summarize NET [FLAGS])"),
        (["time", "-model", "a", "-iterations", "x"], "argument -iterations: invalid int32 value"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "name", "typed"),
    [
        ("tools/summarize.py", "summarize", "python tools/summarize.py"),
        ("../tools/train_kd.py", "train", "python ../tools/train_kd.py"),
        ("tools/python/classify.py", "pycaffe_classify", "python tools/python/classify.py"),
        ("/usr/bin/caffe_kd", "train", "caffe_kd train"),
        ("caffe_kd/__main__.py", "train", "caffe_kd train"),
        ("tools/pages.py", "train", "caffe_kd train"),
    ],
)
def test_command_is_named_as_it_was_called(
    script: str, name: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(script)), "-h"])
    assert program(name) == typed.replace(script, str(Path(script)))


def test_flag_is_listed_in_one_spelling() -> None:
    parser = CommandParser("x", "Does.", "-a 1")
    parser.add_argument("-a", "--a", metavar="N", help="first")
    parser.add_argument("-w", "--wide", action="store_true", help="second")
    listed = parser.format_help()
    assert "  -a N" in listed and "--a" not in listed and "-w, --wide" in listed
    assert isinstance(parser.parse_args(["--a=1"]), argparse.Namespace)
