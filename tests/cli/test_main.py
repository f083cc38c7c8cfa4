"""The list of commands, and what all of them have in common."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from caffe_kd.cli.main import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_parser_that_documentation_can_be_made_from(name: str) -> None:
    parser = import_module(f"caffe_kd.cli.{name}").parser()
    assert isinstance(parser, argparse.ArgumentParser)
    assert parser.description
