"""Prototxt of public repositories, against what the original's upgrade makes of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from caffe_kd.errors import CaffeKDError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.upgrade import Notes, upgrade_net

CORPUS = Path(__file__).parents[3] / "shared" / "golden" / "corpus"
INDEX = CORPUS / "index.tsv"

pytestmark = pytest.mark.skipif(not INDEX.is_file(), reason="../shared/golden/corpus is absent")


def rows() -> list[dict[str, str]]:
    with open(INDEX, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_what_the_original_upgrades_is_upgraded_alike():
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


def test_what_the_original_refuses_is_an_error_with_file_and_line():
    refused, incomplete = 0, 0
    for row in rows():
        if row["upgrade_ok"] == "1":
            continue
        path = CORPUS / f"{row['id']}.prototxt"
        notes = Notes()
        try:
            upgrade_net(text.read(path, pb.NetParameter()), str(path), notes)
        except CaffeKDError as error:
            place, _, line = str(error.where).rpartition(":")
            assert place == str(path) and line.isdigit(), error
            refused += 1
        else:  # read, as the original does too, but a field without successor is told
            assert notes.problems, path
            incomplete += 1
    assert (refused, incomplete) == (88, 1)
