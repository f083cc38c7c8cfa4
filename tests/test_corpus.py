"""Prototxt of public repositories, built: to Caffe's shapes, and what Caffe refuses besides."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.filter import filter_net
from caffe_kd.proto.upgrade import upgrade_net

CORPUS = Path(__file__).parents[2] / "shared" / "golden" / "corpus"
INDEX = CORPUS / "index.tsv"

pytestmark = pytest.mark.skipif(not INDEX.is_file(), reason="../shared/golden/corpus is absent")

# Input shapes to try where none are recorded: records, labels.
SHAPES = (
    ((2, 1, 28, 28), (2,)),
    ((2, 2, 28, 28), (2,)),
    ((2, 3, 32, 32), (2,)),
    ((2, 3, 227, 227), (2,)),
    ((2, 3, 227, 227), (2, 28)),
    ((2, 6, 227, 227), (2,)),
    ((1, 3, 500, 500), (1, 1, 500, 500)),
    ((2, 1), (2, 1)),
    ((4, 2, 3), (4, 2)),
)
# Of those that Caffe did not build; with the 209 that it did, 290 of 358. More are welcome.
BUILT_BESIDES = 81
# What stays in front of a net although it has no bottom.
MADE_HERE = ("Input", "Parameter", "DummyData")


def rows(builds: str) -> list[dict[str, str]]:
    with open(INDEX, newline="") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["builds"] == builds]


def test_what_caffe_builds_has_its_shapes_in_both_phases():
    built = 0
    for row in rows("1"):
        recorded = json.loads((CORPUS / f"{row['id']}.json").read_text())
        for phase, wanted in recorded.items():
            with torch.device("meta"):  # shapes alone: weights would take memory and time
                net = load_net(CORPUS / f"{row['id']}.net.prototxt", getattr(pb, phase))
            blobs = {k: v for k, v in wanted["blobs"].items() if "_split_" not in k}
            params = {
                node.layer.name: node.layer.blob_shapes
                for node in net.nodes
                if node.layer.blob_shapes
            }
            case = row["id"], phase
            assert {k: list(net.shapes[k]) for k in blobs} == blobs, case
            assert {k: list(map(list, v)) for k, v in params.items()} == wanted["params"], case
            assert net.inputs == wanted["inputs"], case
            assert net.outputs == sorted(wanted["outputs"]), case
        built += 1
    assert built == 209


def without_data(net, record, label):
    """The net with Input layers in place of those that read files."""
    fed = pb.NetParameter()
    fed.CopyFrom(net)
    del fed.layer[:]
    for layer in net.layer:
        if layer.bottom or layer.type in MADE_HERE:
            fed.layer.append(layer)
            continue
        given = fed.layer.add(name=layer.name, type="Input", top=layer.top)
        given.source_line = layer.source_line
        for index, top in enumerate(layer.top):
            shape = label if index or "label" in top else record
            given.input_param.shape.add(dim=shape)
    return fed


def states(net, phase) -> Iterator[pb.NetState]:
    """The state a net is mostly built in, then those of the stages that its rules ask for."""
    yield pb.NetState(phase=phase, stage=net.state.stage)
    stages = [s for layer in net.layer for rule in layer.include for s in rule.stage]
    for stage in dict.fromkeys(stages):
        yield pb.NetState(phase=phase, stage=[stage])


def builds(net, phase) -> CaffeKDError | None:
    """Return None if a net builds with some input, else the first error."""
    first = None
    for state in states(net, phase):
        for shapes in SHAPES:
            try:
                with torch.device("meta"):
                    Net(without_data(filter_net(net, state), *shapes), phase)
            except CaffeKDError as error:
                first = first or error
            else:
                return None
    return first


def test_what_caffe_does_not_build_is_built_or_refused_with_file_and_line():
    """Of Caffe's 149 some lack a Python module or a data file, some are of a fork."""
    built, refused = [], {}
    for row in rows("0"):
        path = CORPUS / f"{row['id']}.prototxt"
        try:
            net = upgrade_net(text.read(path, pb.NetParameter()), str(path))
            for phase in (pb.TRAIN, pb.TEST):
                error = builds(net, phase)
                if error is not None:
                    raise error
        except CaffeKDError as error:
            place, _, line = str(error.where).rpartition(":")
            assert place == str(path) and line.isdigit(), error
            refused[row["id"]] = error
        else:
            built.append(row["id"])
    assert len(built) + len(refused) == 149
    assert len(built) >= BUILT_BESIDES, refused
