"""What is removed: by target, criterion and scope, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import NetError, UsageError, WeightsError
from caffe_kd.net import read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights
from caffe_kd.pruning.options import NetState, PruneOptions
from caffe_kd.pruning.prune import Pruned, prune

from .nets import as_layers, built, conv, ip, one, random_weights, whole
from .test_walk import NETS, norm

ROOT = Path(__file__).parents[2]
LENET = ROOT / "prototxt" / "mnist" / "lenet_train_test.prototxt"
OF_2015 = ROOT.parent / "shared" / "models" / "lenet-ethereon"
DIGITS = NetState(input_shapes={"": (1, 28, 28)})
PLAIN = conv("c1", "data", 8) + conv("c2", "c1", 8) + ip("out", "c2")


def cut(body: str, **options) -> Pruned:
    param = whole(body)
    return prune(param, random_weights(param), PruneOptions(**options))


def kept(pruned: Pruned) -> dict[str, int]:
    return {row.layer: row.kept[0] for row in pruned.table.rows if row.kept}


def lenet_weights() -> list:
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "ip1": (500, 800), "ip2": (10, 500)}
    rng = np.random.default_rng(0)
    return as_layers(
        {
            name: [rng.normal(size=s).astype(np.float32) for s in (shape, shape[:1])]
            for name, shape in shapes.items()
        }
    )


def check_lenet(pruned: Pruned) -> None:
    before, after = pruned.table.before, pruned.table.after
    assert (before.parameters, before.macs) == (431080, 2293000)
    assert (after.parameters, after.macs) == (40081, 267900)
    assert kept(pruned) == {"conv1": 6, "conv2": 15, "ip1": 150, "ip2": 10}


def test_lenet_at_70_percent():
    options = PruneOptions(amount=0.7, state=DIGITS)
    check_lenet(prune(read_net(LENET), lenet_weights(), options, LENET))


def test_lenet_of_2015_at_70_percent():
    if not OF_2015.is_dir():
        pytest.skip("the weights of 2015 are not here")
    model, weights = OF_2015 / "lenet.prototxt", OF_2015 / "lenet_iter_10000.caffemodel"
    check_lenet(prune(read_net(model), read_weights(weights), PruneOptions(amount=0.7), model))


def test_nothing_is_removed_at_0():
    param = whole(PLAIN)
    weights = random_weights(param)
    pruned = prune(param, weights, PruneOptions(amount=0))
    assert pruned.net == param
    for layer in weights:
        for blob, same in zip(layer.blobs, pruned.weights[layer.name], strict=True):
            assert np.array_equal(blob, same)


# ---- which go


def marked(least: int) -> list:
    """Return weights of PLAIN in which one filter of c1 is small."""
    weights = random_weights(whole(PLAIN))
    next(w for w in weights if w.name == "c1").blobs[0][least] *= 0.01
    return weights


@pytest.mark.parametrize("criterion", ["L1", "L2"])
def test_least_filters_go(criterion):
    options = PruneOptions(criterion=criterion, amount=0, layer_ratios={"c1": 0.125})
    pruned = prune(whole(PLAIN), marked(5), options)
    assert np.flatnonzero(pruned.removed[pruned.channels.made["c1"]]).tolist() == [5]


def test_taylor_goes_by_gradients():
    """A channel that the next layer does not read gets no gradient, however large its filter."""
    param = whole(PLAIN)
    weights = random_weights(param)
    by_name = {w.name: w.blobs for w in weights}
    by_name["c1"][0][3] *= 100
    by_name["c2"][0][:, 3] = 0
    options = PruneOptions(criterion="TAYLOR", amount=0.125, iterations=2)
    pruned = prune(param, weights, options)
    assert np.flatnonzero(pruned.removed[pruned.channels.made["c1"]]).tolist() == [3]


def test_taylor_judges_layers_that_do_not_learn():
    param = whole(PLAIN.replace("convolution_param", "param { lr_mult: 0 } convolution_param", 1))
    weights = random_weights(param)
    by_name = {w.name: w.blobs for w in weights}
    by_name["c2"][0][:, 3] = 0
    options = PruneOptions(criterion="TAYLOR", amount=0.125, iterations=2)
    pruned = prune(param, weights, options)
    assert np.flatnonzero(pruned.removed[pruned.channels.made["c1"]]).tolist() == [3]


def test_least_factors_go_by_bn_scale():
    body = conv("c1", "data", 8) + norm("n", "c1") + conv("c2", "c1", 8) + ip("out", "c2")
    param = whole(body)
    weights = random_weights(param)
    gamma = next(w for w in weights if w.name == "n_scale").blobs[0]
    gamma[:] = [1, 2, 0.1, 1, -3, 1, 0.2, 1]
    pruned = prune(param, weights, PruneOptions(criterion="BN_SCALE", amount=0.25))
    assert np.flatnonzero(pruned.removed[pruned.channels.made["c1"]]).tolist() == [2, 6]
    assert kept(pruned)["c2"] == 8
    assert [note for note in pruned.notes if "no Scale behind 'c2'" in note]


def test_random_goes_by_its_seed():
    one_, same, other = (cut(PLAIN, criterion="RANDOM", seed=s).removed for s in (1, 1, 2))
    assert np.array_equal(one_, same)
    assert not np.array_equal(one_, other)


def test_global_ranking_keeps_the_floor():
    param = whole(PLAIN)
    weights = random_weights(param)
    next(w for w in weights if w.name == "c1").blobs[0][:6] *= 1e-3
    pruned = prune(param, weights, PruneOptions(scope="GLOBAL", amount=0.375, floor=0.5))
    assert kept(pruned) == {"c1": 4, "c2": 6, "out": 5}


@pytest.mark.parametrize("scope", ["LAYER", "GLOBAL"])
def test_multiple_of_channels_is_kept(scope):
    body = conv("c1", "data", 24) + conv("c2", "c1", 9) + ip("out", "c2")
    pruned = cut(body, amount=0.4, scope=scope, multiple=8)
    assert kept(pruned)["c1"] in (8, 16)
    assert kept(pruned)["c2"] in (8, 9)  # 9 where none goes


def test_ratios_of_single_layers_and_exclusion():
    pruned = cut(PLAIN, amount=0.5, layer_ratios={"c1": 0.25}, exclude=["c2"])
    assert kept(pruned) == {"c1": 6, "c2": 8, "out": 5}


@pytest.mark.parametrize(("target", "amount"), [("macs", 0.5), ("parameters", 0.5)])
def test_target_is_met_and_no_more_is_removed(target, amount):
    param, weights = read_net(LENET), lenet_weights()
    options = PruneOptions(target=target, amount=amount, state=DIGITS)
    pruned = prune(param, weights, options, LENET)
    before, after = (getattr(c, target) for c in (pruned.table.before, pruned.table.after))
    assert 0.47 * before < after <= 0.5 * before
    number = PruneOptions(target=target, amount=after, state=DIGITS)
    assert getattr(prune(param, weights, number, LENET).table.after, target) == after


def test_each_part_of_a_slice_keeps_a_channel():
    body = (
        conv("c1", "data", 8)
        + one("Slice", "s", "c1", tops=("l", "r"), extra="slice_param { slice_point: 2 }")
        + ip("a", "l")
        + ip("b", "r")
        + one("Eltwise", "out", "a", "b")
    )
    param = whole(body)
    weights = random_weights(param)
    next(w for w in weights if w.name == "c1").blobs[0][:2] *= 1e-3
    pruned = prune(param, weights, PruneOptions(amount=0.5))
    assert list(pruned.net.layer[2].slice_param.slice_point) == [1]
    built(pruned.net, pb.TEST)


# ---- what stays


def stays(body: str, layer: str, why: str, **options) -> None:
    """Hold that a layer keeps its channels, for a reason, while ``free`` loses some."""
    pruned = cut(body + conv("free", "data", 4) + one("Silence", "si", "free", tops=()), **options)
    assert kept(pruned)["free"] == 2
    assert kept(pruned)[layer] == 8
    assert [note for note in pruned.notes if why in note and f"'{layer}'" in note], pruned.notes


def test_neighbours_in_lrn_stay():
    body = conv("c1", "data", 8) + one("LRN", "n", "c1") + ip("out", "n")
    stays(body, "c1", "layer 'n' (LRN): norm_region: ACROSS_CHANNELS")


def test_shared_parameters_stay():
    shared = 'param { name: "w" } param { name: "b" }'
    twins = conv("c1", "data", 8) + conv("c2", "data", 8)
    twins = twins.replace("convolution_param", f"{shared} convolution_param")
    body = twins + one("Eltwise", "sum", "c1", "c2") + conv("c3", "sum", 8) + ip("out", "sum")
    body += one("Silence", "s3", "c3", tops=())
    param = whole(body)
    pruned = prune(param, random_weights(param), PruneOptions(amount=0.5))
    assert kept(pruned) == {"c3": 4, "out": 5}


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("Normalize", ""),
        ("MVN", "mvn_param { across_channels: true }"),
        ("Im2col", "convolution_param { kernel_size: 3 }"),
        ("Reorg", "reorg_param { stride: 2 }"),
        ("Reshape", "reshape_param { shape { dim: 0 dim: 12 dim: 8 dim: 12 } }"),
        ("Reduction", "reduction_param { axis: 1 }"),
    ],
)
def test_what_mixes_channels_keeps_them(kind, extra):
    tail = one("Reshape", "row", "x", extra="reshape_param { shape { dim: 4 dim: -1 } }")
    body = conv("c1", "data", 8) + one(kind, "x", "c1", extra=extra) + tail + ip("out", "row")
    stays(body, "c1", f"layer 'x' ({kind})")


def test_recurrent_layers_keep_what_they_read():
    body = (
        conv("c1", "data", 8)
        + one("Reshape", "steps", "c1", extra="reshape_param { shape { dim: 0 dim: 1 dim: -1 } }")
        + one("DummyData", "cont", extra="dummy_data_param { shape { dim: 4 dim: 1 } }")
        + one("LSTM", "lstm", "steps", "cont", extra="recurrent_param { num_output: 6 }")
        + ip("scores", "lstm", 5, "axis: 2")
        + one("Reshape", "out", "scores", extra="reshape_param { shape { dim: 4 dim: 5 } }")
    )
    stays(body, "c1", "layer 'lstm' (LSTM)")


def test_outputs_stay():
    assert kept(cut(PLAIN))["out"] == 5
    body = conv("c1", "data", 8) + conv("loose", "c1", 8) + ip("out", "c1")
    assert kept(cut(body)) == {"c1": 4, "loose": 8, "out": 5}


def test_teacher_and_regressor_are_not_touched():
    body = (
        conv("c1", "data", 8)
        + conv("c2", "c1", 8)
        + conv("teacher/c1", "data", 6)
        + conv("teacher/c2", "teacher/c1", 6)
        + conv("regressor", "c1", 6, "kernel_size: 1")
        + one("HintLoss", "hint", "regressor", "teacher/c2")
        + ip("out", "c2")
    )
    pruned = cut(body)
    assert kept(pruned) == {"c1": 8, "c2": 4, "out": 5}
    assert [n for n in pruned.notes if "layer 'regressor' (Convolution): it only compares" in n]


def test_students_side_by_side_are_both_pruned():
    body = (
        conv("a/c1", "data", 8)
        + conv("b/c1", "data", 6)
        + ip("a/ip", "a/c1")
        + ip("b/ip", "b/c1")
        + one("DistillingLoss", "kd", "a/ip", "b/ip")
        + one("Eltwise", "out", "a/ip", "b/ip")
    )
    assert kept(cut(body)) == {"a/c1": 4, "b/c1": 3, "a/ip": 5, "b/ip": 5}


def test_layer_of_another_stage_keeps_what_it_reads():
    other = conv("other", "c1", 4).replace("} }", '} include { stage: "other" } }')
    pruned = cut(PLAIN + other)
    assert {"c1": 8, "c2": 4}.items() <= kept(pruned).items()
    assert [n for n in pruned.notes if "layer 'other' (Convolution): it is not built here" in n]


def test_layers_of_one_phase_are_cut_too():
    head = conv("aux", "c1", 6) + ip("aux_out", "aux")
    head += one("SoftmaxWithLoss", "aux_loss", "aux_out", "label")
    head = head.replace("\n", " ").replace(" } layer", " include { phase: TRAIN } } layer")
    head = head.rstrip()[:-1] + "include { phase: TRAIN } }"
    pruned = cut(PLAIN + head)
    net = built(pruned.net, pb.TRAIN)
    assert net.shapes["aux"][1] == 3


# ---- what is refused


def test_ratio_that_empties_a_layer():
    with pytest.raises(UsageError, match="-ratio 1 removes every channel of a layer"):
        cut(PLAIN, amount=1)
    with pytest.raises(UsageError, match="-layer_ratio c1=1.5 removes every channel"):
        cut(PLAIN, layer_ratios={"c1": 1.5})
    with pytest.raises(UsageError, match="at most 0.8, for -floor 0.2 keeps the rest"):
        cut(PLAIN, amount=0.9, floor=0.2)
    with pytest.raises(UsageError, match="-multiple must be at least 1"):
        cut(PLAIN, multiple=0)


def test_net_that_is_pruned_to_the_floor():
    body = conv("c1", "data", 1) + conv("c2", "c1", 1) + ip("out", "c2")
    with pytest.raises(NetError, match="nothing is removed: each layer has as few channels"):
        cut(body)


def test_unknown_layers():
    with pytest.raises(UsageError, match="-exclude c9: no layer of this name makes channels"):
        cut(PLAIN, exclude=["c9"])
    with pytest.raises(UsageError, match="-layer_ratio out: none of them can be removed"):
        cut(PLAIN, layer_ratios={"out": 0.5})


def test_net_without_a_channel_to_remove():
    with pytest.raises(NetError, match="no channel can be removed"):
        cut(ip("out", "data"))


def test_weights_that_do_not_fit():
    param = whole(PLAIN)
    with pytest.raises(WeightsError, match="layer 'c1' .* shape mismatch"):
        prune(param, random_weights(whole(PLAIN.replace("num_output: 8", "num_output: 4"))))
    lacking = [w for w in random_weights(param) if w.name != "c2"]
    with pytest.raises(WeightsError, match="has no weights for 'c2'"):
        prune(param, lacking)


def test_target_out_of_reach():
    with pytest.raises(NetError, match=r"-macs 10 cannot be reached: .* it is [\d,]+, of [\d,]+"):
        cut(PLAIN, target="macs", amount=10)
    with pytest.raises(NetError, match=r"-macs 1e\+09: the net has [\d,]+ now"):
        cut(PLAIN, target="macs", amount=1e9)


def test_tied_layers_with_different_ratios():
    with pytest.raises(UsageError, match="c1=0.5 c2=0.25: the channels of these layers can only"):
        cut(NETS["residual"][0], layer_ratios={"c1": 0.5, "c2": 0.25})


def test_statistics_follow_the_cut():
    pruned = cut(NETS["normalised"][0], iterations=3)
    mean, var, count = pruned.weights["c1_bn"]
    assert mean.shape == var.shape == (4,)
    assert count > 1  # of three batches, where the file's was 1
    assert not [note for note in pruned.notes if "statistics" in note]


def test_without_data_statistics_are_kept_with_a_note():
    data = text.parse(
        'layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN } '
        'data_param { source: "absent" batch_size: 2 } }',
        pb.NetParameter(),
    )
    param = whole(NETS["normalised"][0])
    weights = random_weights(param)
    param.layer[0].include.add(phase=pb.TEST)
    param.layer.extend(data.layer)
    param.layer.sort(key=lambda layer: layer.name != "d")
    options = PruneOptions(state=NetState(input_shapes={"": (3, 12, 12)}))
    pruned = prune(param, weights, options)
    assert pruned.weights["c1_bn"][2] == 1
    assert [note for note in pruned.notes if "Run caffe_kd refresh_statistics" in note]
