"""Pruning in rounds: what each arrives at, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.core.errors import Stopped
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from caffe_kd.pruning.options import PruneOptions
from caffe_kd.pruning.recover import Recovery
from caffe_kd.recipes.prune_rounds import PruneRounds
from caffe_kd.recipes.runner import ExperimentRunner

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
"""
NET = """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "sc" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "h" type: "InnerProduct" bottom: "c1" top: "h"
  inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
layer { name: "out" type: "InnerProduct" bottom: "h" top: "out"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }
"""


@pytest.fixture
def source(tmp_path):
    model, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    model.write_text(DATA + NET)
    net = load_net(model, pb.TRAIN)
    write_weights(weights, net.param, net.weights())
    return model, weights


def in_rounds(source, folder: Path, runner=None, rounds=3, **options) -> PruneRounds:
    said: list[str] = []
    return PruneRounds(
        source=source,
        options=PruneOptions(**options),
        stem=folder / "p",
        rounds=rounds,
        recovery=Recovery(iterations=2),
        runner=runner or ExperimentRunner(said.append),
        say=said.append,
    )


def sizes(folder: Path, rounds: int = 3) -> list[list[int]]:
    found = []
    for number in range(1, rounds + 1):
        net = load_net(folder / f"p_round{number}.prototxt", pb.TRAIN)
        found.append([net.shapes["c1"][1], net.shapes["h"][1]])
    return found


@pytest.mark.parametrize("scope", ["LAYER", "GLOBAL"])
def test_last_round_arrives_where_one_cut_would(source, tmp_path, scope):
    rounds = in_rounds(source, tmp_path, amount=0.75, scope=scope)
    table = rounds.table(rounds.run())
    kept = {row.layer: row.kept for row in table.rows if row.kept}
    after = sizes(tmp_path)
    assert sum(after[-1]) == 9  # a quarter of 36
    assert sum(after[0]) > sum(after[1]) > 9
    if scope == "LAYER":
        assert after == [[11, 13], [7, 8], [4, 5]]
    assert (kept["c1"], kept["h"]) == ((after[-1][0], 16), (after[-1][1], 20))


def test_rounds_to_a_number_of_parameters(source, tmp_path):
    rounds = in_rounds(source, tmp_path, target="parameters", amount=0.2)
    table = rounds.table(rounds.run())
    assert 0.15 * table.before.parameters < table.after.parameters <= 0.2 * table.before.parameters


def test_single_layer_goes_in_rounds_too(source, tmp_path):
    in_rounds(source, tmp_path, amount=0, layer_ratios={"h": 0.75}).run()
    assert sizes(tmp_path) == [[16, 13], [16, 8], [16, 5]]


class Interrupted(ExperimentRunner):
    """Is stopped while the second round trains."""

    def run(self, training, label=""):
        if training.name == "round 2":
            training.prepare()
            raise Stopped("stopped")
        return super().run(training, label)


def test_interrupted_rounds_go_on_to_the_same_net(source, tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    whole = in_rounds(source, tmp_path / "a", amount=0.5).run()
    with pytest.raises(Stopped):
        in_rounds(source, tmp_path / "b", Interrupted(lambda line: None), amount=0.5).run()
    first = (tmp_path / "b" / "p_round1.caffemodel").stat().st_mtime_ns
    resumed = in_rounds(source, tmp_path / "b", amount=0.5).run()
    assert (tmp_path / "b" / "p_round1.caffemodel").stat().st_mtime_ns == first
    for one, other in zip(whole, resumed, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_changed_weights_begin_again(source, tmp_path):
    model, weights = source
    in_rounds(source, tmp_path, amount=0.5).run()
    before = (tmp_path / "p.caffemodel").read_bytes()
    net = load_net(model, pb.TRAIN)
    write_weights(weights, net.param, {n: [b + 1 for b in x] for n, x in net.weights().items()})
    in_rounds(source, tmp_path, amount=0.5).run()
    assert (tmp_path / "p.caffemodel").read_bytes() != before


def test_net_learns_from_the_unpruned_one(source, tmp_path):
    in_rounds(source, tmp_path, rounds=2, amount=0.5).run()
    solver = (tmp_path / "p_round2_solver.prototxt").read_text()
    assert 'net: "net.prototxt"' in solver
    assert 'weights: "net.caffemodel"' in solver
    assert "DistillingLoss" in solver
