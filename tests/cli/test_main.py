"""The list of commands, and how one is found."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from caffe_kd.cli.commands import GROUPS, SHORT, commands, find
from caffe_kd.cli.main import main
from caffe_kd.core.version import VERSION

CLI = Path(__file__).parents[2] / "caffe_kd" / "cli"


def test_help_lists_every_command_once_in_four_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(":")] == [f"{t}:" for t in GROUPS.values()]
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted(commands()) and len(listed) > 40
    assert max(map(len, lines)) <= 100


def test_every_module_that_has_a_main_is_a_command_in_a_group() -> None:
    runnable = set()
    for path in CLI.glob("*.py"):
        nodes = ast.parse(path.read_text()).body
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in nodes):
            runnable.add(path.stem)
    assert runnable - {"main"} == set(commands())
    assert {command.group for command in commands().values()} == set(GROUPS)
    assert set(SHORT.values()) <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_what_is_read_from_a_command_s_text_is_what_python_reads(name: str) -> None:
    module, command = import_module(f"caffe_kd.cli.{name}"), find(name)
    assert command is not None
    assert (module.SUMMARY, module.GROUP) == (command.summary, command.group)
    assert callable(module.main) and callable(module.parser)


@pytest.mark.parametrize(
    "name", ["flags", "guard", "nothing", "../train", "", "train.py", "Train", "x" * 5000]
)
def test_what_is_no_command_is_not_found(name: str) -> None:
    assert find(name) is None


def test_typo_prints_the_nearest_command_first_and_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: unknown command 'trian'. Did you mean 'train'?\ncaffe_kd -h lists the commands\n",
    )
    assert main(["qqqqq"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: unknown command 'qqqqq'."


@pytest.mark.parametrize("flag", ["-V", "-version", "--version"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"caffe_kd {VERSION}\n"


def test_list_of_commands_imports_none_of_them() -> None:
    probe = (
        "import sys; from caffe_kd.cli.main import main; main(['-h']); main(['trian']);"
        "print({'torch', 'numpy', 'google.protobuf', 'caffe_kd.cli.train'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
