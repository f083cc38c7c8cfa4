"""Prototxt of public repositories, compared with what Caffe's upgrade makes of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.upgrade import Notes, upgrade_net

CORPUS = Path(__file__).parents[3] / "shared" / "golden" / "corpus"
INDEX = CORPUS / "index.tsv"

pytestmark = pytest.mark.skipif(not INDEX.is_file(), reason="../shared/golden/corpus is absent")


def rows() -> list[dict[str, str]]:
    with open(INDEX, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_what_caffe_upgrades_is_upgraded_equally():
    equal = 0
    for row in rows():
        if row["upgrade_ok"] != "1":
            continue
        path = CORPUS / f"{row['id']}.prototxt"
        notes = Notes()
        net = upgrade_net(text.read(path, pb.NetParameter()), str(path), notes)
        assert notes.problems == [], path
        assert all(layer.source_line.startswith(f"{path}:") for layer in net.layer), path
        assert upgrade_net(net, str(path)) is net, path
        expected = path.with_suffix(".upgraded.prototxt")
        if expected.exists():
            text.clear_source_lines(net)
            wanted = text.read(expected, pb.NetParameter())
            text.clear_source_lines(wanted)
            assert net == wanted, path
            equal += 1
    assert equal == 127


def test_what_caffe_refuses_is_upgraded_or_an_error_with_file_and_line():
    """Of 358 files Caffe reads and upgrades 269; 353 are read here, and 349 upgraded."""
    outcomes = {"upgraded": 0, "incomplete": 0, "not upgraded": 0, "not read": 0}
    for row in rows():
        if row["upgrade_ok"] == "1":
            continue
        path = CORPUS / f"{row['id']}.prototxt"
        notes, outcome = Notes(), "not read"
        try:
            read = text.read(path, pb.NetParameter())
            outcome = "not upgraded"
            net = upgrade_net(read, str(path), notes)
            outcome = "incomplete" if notes.problems else "upgraded"  # reported, as by Caffe
            assert_comes_back(net, path)
        except CaffeKDError as error:
            path_of_error, _, line = str(error.where).rpartition(":")
            assert path_of_error == str(path) and line.isdigit(), error
        outcomes[outcome] += 1
    assert outcomes == {"upgraded": 79, "incomplete": 1, "not upgraded": 4, "not read": 5}


def assert_comes_back(net, path):
    """What is written of a net with fields of forks is read as the same net."""
    again = text.parse(text.to_text(net), pb.NetParameter())
    text.clear_source_lines(again)
    text.clear_source_lines(net)
    assert again == net, path
