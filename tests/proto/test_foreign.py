"""Fields that only forks know: left out, moved, or kept and refused where a net is built."""

from __future__ import annotations

import random
import time

import pytest

from caffe_kd.core.errors import CaffeKDError, NetError, ParseError, SolverError
from caffe_kd.net import Net, load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import dialects, foreign, text
from caffe_kd.proto.upgrade import Notes, needs_upgrade, upgrade_net, upgrade_solver
from caffe_kd.solver.plan import read_plan

INPUT = (
    'layer { name: "in" type: "Input" top: "x" '
    "input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }\n"
)
CONV = (
    'layer {{ name: "c" type: "Convolution" bottom: "x" top: "y"\n'
    " convolution_param {{ num_output: 2 kernel_size: 3\n {} }} }}\n"
)


def net_of(prototxt: str):
    return text.parse(prototxt, pb.NetParameter(), "net.prototxt")


def upgraded(prototxt: str):
    notes = Notes()
    net = upgrade_net(net_of(prototxt), "net.prototxt", notes)
    assert notes.problems == []
    text.clear_source_lines(net)
    return net, notes.lines


def plain(prototxt: str):
    net = net_of(prototxt)
    text.clear_source_lines(net)
    return net


def build_error(prototxt: str) -> str:
    with pytest.raises(NetError) as error:
        Net(upgrade_net(net_of(prototxt), "net.prototxt"))
    return str(error.value)


# ---- left out


NVIDIA = """default_forward_type: FLOAT16 default_backward_type: FLOAT16
default_forward_math: FLOAT  default_backward_math: FLOAT
global_grad_scale: 1000. reduce_buckets: 6 default_cudnn_math_override: -1
default_conv_algos_override: "1,1,3"
layer { name: "in" type: "Input" top: "x" forward_type: FLOAT backward_type: FLOAT
  input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "y" forward_math: FLOAT
  cudnn_math_override: 1
  convolution_param { num_output: 2 kernel_size: 3 cudnn_convolution_algo_seeker: FINDEX
    conv_algos_override: "1,1,1" } }
layer { name: "d" type: "Dropout" bottom: "y" top: "y"
  dropout_param { engine: CUDNN random_seed: 3 } }
"""
INTEL = """engine: "MKLDNN" compile_net_state { bn_scale_remove: true kept_bn_layers: "a" }
layer { name: "in" type: "Input" top: "x" engine: "CAFFE"
  input_param { shape { dim: 1 dim: 2 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "y"
  convolution_param { num_output: 2 kernel_size: 3 engine: MKL2017 relu: false } }
layer { name: "b" type: "BatchNorm" bottom: "y" top: "y"
  batch_norm_param { engine: MKLDNN use_weight_bias: false stats_batch_size: 0 } }
layer { name: "s" type: "Split" bottom: "y" top: "a" top: "b" split_param { engine: MKL2017 } }
layer { name: "p" type: "Pooling" bottom: "a" top: "p"
  pooling_param { kernel_size: 2 engine: MKL2017 avg_include_pad: true } }
layer { name: "e" type: "Eltwise" bottom: "b" bottom: "b" top: "e"
  eltwise_param { engine: MKL2017 } }
"""


@pytest.mark.parametrize(("prototxt", "count"), [(NVIDIA, 16), (INTEL, 8)], ids=["NVIDIA", "Intel"])
def test_fields_for_speed_and_number_types_are_reported_and_left_out(prototxt, count):
    net, lines = upgraded(prototxt)
    assert len(lines) == count
    assert all(line.startswith("net.prototxt:") and " is left out: " in line for line in lines)
    assert "foreign {" not in str(net)
    assert Net(net).outputs
    assert not needs_upgrade(net)


def test_the_same_field_in_many_layers_is_reported_once():
    relu = 'layer { name: "r" type: "ReLU" bottom: "x" top: "x"\n forward_type: FLOAT16 }\n'
    _, lines = upgraded(INPUT + relu * 20)
    assert lines == [
        "net.prototxt:3: 'forward_type' of NVIDIA's fork is left out: numbers are float32 here "
        "(19 more)"
    ]


def test_a_value_that_changes_nothing_is_reported():
    _, lines = upgraded(INPUT + CONV.format("relu: false"))
    assert lines == [
        "net.prototxt:4: 'relu: false' of Intel's fork is left out: it changes nothing with this "
        "value"
    ]


def test_solver_of_nvidia_is_read():
    solver = text.parse(
        'net: "n" base_lr: 0.1\nsolver_data_type: FLOAT16 rampup_interval: 0 rampup_lr: 0.1\n'
        'eval_type: "classification" ap_version: "11point" local_lr_auto: false',
        pb.SolverParameter(),
        "s.prototxt",
    )
    notes = Notes()
    result = upgrade_solver(solver, "s.prototxt", notes)
    assert not result.foreign and result.net == "n"
    assert len(notes.lines) == 6
    assert len(solver.foreign) == 6  # the argument is left alone


# ---- moved


def test_hole_is_dilation():
    for written, meant in (
        ("hole: 2", "dilation: 2"),
        ("hole_h: 2 hole_w: 3", "dilation: 2 dilation: 3"),
        ("hole_w: 3", "dilation: 1 dilation: 3"),
    ):
        net, lines = upgraded(INPUT + CONV.format(written))
        assert net == plain(INPUT + CONV.format(meant))
        assert lines == ["net.prototxt:4: 'hole' of the DeepLab fork is dilation"]


def test_hole_beside_dilation_is_refused():
    error = build_error(INPUT + CONV.format("hole: 2 dilation: 3"))
    assert error.startswith(
        "net.prototxt:4: layer 'c' (Convolution): 'convolution_param.hole: 2' is"
    )


@pytest.mark.parametrize(("value", "mode"), [("true", "CEIL"), ("false", "FLOOR")])
def test_ceil_mode_is_round_mode(value, mode):
    pool = (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "y" '
        "pooling_param { kernel_size: 2 %s } }"
    )
    net, lines = upgraded(INPUT + pool % f"ceil_mode: {value}")
    assert net == plain(INPUT + pool % f"round_mode: {mode}")
    assert lines == [f"net.prototxt:2: 'ceil_mode: {value}' is round_mode: {mode}"]


def test_transform_param_inside_data_param_is_the_layers():
    data = 'layers { name: "d" type: DATA top: "x" data_param { source: "s"\n %s } %s }'
    inside = "transform_param { scale: 0.5\n mirror: true }"
    net, lines = upgraded(data % (inside, ""))
    assert net == upgraded(data % ("", inside))[0]
    assert "net.prototxt:2: 'transform_param' inside data_param is the layer's" in lines


def test_transform_param_in_both_places_is_kept_for_the_user_to_choose():
    data = 'layer { name: "d" type: "Data" top: "x" data_param { transform_param { scale: 2 } } '
    net, _ = upgraded(data + "transform_param { scale: 3 } }")
    assert net.layer[0].transform_param.scale == 3
    assert foreign.parts(net.layer[0].data_param.foreign[0])[0] == "transform_param"


def test_error_inside_a_moved_field_names_its_line():
    with pytest.raises(ParseError, match=r"^net.prototxt:4: 'dilation' takes an integer"):
        upgraded(INPUT + CONV.format("hole: two"))


# ---- layers of 2014 and 2013


def test_v1_layer_of_a_fork_becomes_a_layer_of_today():
    net, _ = upgraded(
        'layers { name: "c" type: CROP bottom: "a" bottom: "b" top: "c" crop_param { axis: 1 } }'
        'layers { name: "u" type: UPSAMPLE bottom: "c" top: "u" }'
    )
    assert [layer.type for layer in net.layer] == ["Crop", "Upsample"]
    assert net.layer[0].crop_param.axis == 1
    assert "foreign {" not in str(net)


def test_v1_type_that_is_unknown_is_an_error():
    with pytest.raises(ParseError, match="'type' takes one of .* Received: CONVOLUTOIN. Did you"):
        net_of("layers { type: CONVOLUTOIN }")


def test_v0_memory_data_is_todays():
    net, lines = upgraded(
        'layers { layer { name: "d" type: "memory_data"\n'
        " datum_dims: { channels: 1 height: 28 width: 28 } } top: 'd' }"
    )
    assert net.layer[0].type == "MemoryData"
    assert net.layer[0].memory_data_param.height == 28
    assert any("'datum_dims' of pull request 196 is memory_data_param" in line for line in lines)


# ---- kept


LOCAL = """layer {
  name: "l"
  type: "Local"
  bottom: "x"
  top: "y"
  local_param {
    num_output: 5
    scales: [1, -2.5]
    weight_filler {
      type: "xavier"
    }
    text: "a" "b"
  }
}
"""


def test_block_of_an_unknown_layer_is_written_back_as_it_was():
    net = net_of(LOCAL)
    assert text.to_text(net) == LOCAL
    assert text.to_text(upgrade_net(net, "net.prototxt")) == LOCAL
    assert net.layer[0].foreign[0].source_line == "net.prototxt:6"


def test_block_of_an_unknown_layer_may_be_written_in_any_form():
    for form in (
        "local_param: < num_output: 5; weight_filler: { type: 'x' }, >",
        "local_param{num_output:5 weight_filler{type:'x'}}",
    ):
        net = net_of(f'layer {{ name: "l" {form} type: "Local" }}')
        assert net.layer[0].foreign[0].text == (
            "local_param {\n  num_output: 5\n  weight_filler {\n    type: 'x'\n  }\n}"
        )
        assert net.layer[0].type == "Local"


def test_field_of_a_fork_inside_a_known_block_is_written_back_in_its_place():
    net = net_of(INPUT + CONV.format("fuse_type: FUSED_CONV_RELU"))
    written = text.to_text(net)
    assert "    fuse_type: FUSED_CONV_RELU\n  }\n" in written
    assert plain(written) == plain(text.to_text(plain(written)))


def test_binary_keeps_fields_of_forks():
    net = net_of(LOCAL)
    assert pb.NetParameter.FromString(net.SerializeToString()) == net


@pytest.mark.parametrize(
    ("prototxt", "message"),
    [
        (
            INPUT + CONV.format("fuse_type: FUSED_CONV_RELU"),
            "net.prototxt:4: layer 'c' (Convolution): 'convolution_param.fuse_type: "
            "FUSED_CONV_RELU' is of pull request 5745 and would change the results, but is not "
            "implemented here: write the layers that it joins",
        ),
        (
            INPUT + CONV.format("relu: true"),
            "net.prototxt:4: layer 'c' (Convolution): 'convolution_param.relu: true' is of "
            "Intel's fork and would change the results, but is not implemented here: write a ReLU "
            "layer after it",
        ),
        (
            "bn_stats_batch_size: 32\n" + INPUT,
            "net.prototxt:1: net '': 'bn_stats_batch_size: 32' is of Intel's fork and would "
            "change the results, but is not implemented here: it splits BatchNorm's batch",
        ),
        (
            INPUT + 'layer { name: "b" type: "BatchNorm" bottom: "x" top: "x"\n'
            "batch_norm_param { scale_filler { value: 1 } } }",
            "net.prototxt:3: layer 'b' (BatchNorm): 'batch_norm_param.scale_filler' is of NVIDIA's "
            "fork and would change the results, but is not implemented here: there the layer has a "
            "factor and an offset too: write a Scale layer after it",
        ),
    ],
)
def test_field_that_changes_results_is_refused_where_the_net_is_built(prototxt, message):
    assert build_error(prototxt) == message


def test_only_the_layers_of_the_phase_are_refused(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'layer { name: "d" type: "Data" top: "x" include { phase: TRAIN }'
        " transform_param { resize_param { height: 300 } } }"
        'layer { name: "in" type: "Input" top: "x" include { phase: TEST }'
        " input_param { shape { dim: 1 } } }"
    )
    assert load_net(path, pb.TEST).outputs == ["x"]
    with pytest.raises(NetError, match=r"net.prototxt:1: layer 'd' \(Data\): '.*resize_param' is"):
        load_net(path, pb.TRAIN)


def test_solver_field_that_changes_results_is_refused(tmp_path):
    path = tmp_path / "s.prototxt"
    path.write_text('net: "n.prototxt"\nmax_iter: 1\neval_type: "detection"\n')
    with pytest.raises(SolverError) as error:
        read_plan(path)
    assert str(error.value) == (
        f"{path}:3: solver: 'eval_type: \"detection\"' is of the SSD fork and would change the "
        "results, but is not implemented here: it scores detections"
    )


# ---- errors


@pytest.mark.parametrize("field", ["class_weighting: 2", "class_weight: 2"])
def test_class_weights_are_refused_with_their_equivalent(field):
    layer = (
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "x" top: "l" '
        f"loss_param {{ {field} }} }}"
    )
    error = build_error(INPUT + layer)
    assert "it weights classes. InfogainLoss instead of SoftmaxWithLoss does the same" in error
    assert 'infogain_loss_param { source: "H.binaryproto" }' in error


def test_word_that_ceil_mode_cannot_have_is_refused():
    pool = (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param { ceil_mode: no } }'
    )
    assert "'pooling_param.ceil_mode: no' is of several forks" in build_error(INPUT + pool)


@pytest.mark.parametrize(
    "prototxt",
    [
        "layer { %s }" % ("forward_type: FLOAT " * 20_000),
        "layer { %s }" % ("local_param { } " * 20_000),
        "layers { type: LOCAL %s }" % ("local_param { } " * 20_000),
        CONV.format("hole: 2 " * 20_000),
    ],
    ids=["left out", "kept", "kept since 2014", "moved"],
)
def test_a_field_given_very_often_costs_little(prototxt):
    start = time.process_time()
    upgraded(prototxt)
    assert time.process_time() - start < 20  # it takes one or two; quadratic would be minutes


@pytest.mark.parametrize(
    ("prototxt", "message"),
    [
        ("layer { blobs { forward_type: FLOAT } }", "no field named 'forward_type'"),
        ("layer { foreign { } }", "LayerParameter has no field named 'foreign'"),
        ("layer { local_param { a: 1", "the block opened at line 1 has no '}'"),
        ("layer { local_param { a { b: 1 }", "the block opened at line 1 has no '}'"),
        ("layer { local_param { 3: 1 } }", "a field name was expected. Received: '3'"),
        ("layer { local_param { a: } }", "a value was expected. Received: '}'"),
        ("layer { local_param { a b: 1 } }", "':' was expected after 'a'. Received: 'b'"),
        ("layer { local_param { a: [1 2] } }", "',' or ']' was expected. Received: '2'"),
        ("layer { local_param { a: [[1]] } }", "a value was expected. Received: '['"),
        ("layer { local_param { a: [1,", "a value was expected. Received: ''"),
        ("layer { local_param " + "{ a " * 5000, "blocks are nested more than 100 deep"),
        ("layers { type:", "'type' takes one of"),
    ],
)
def test_damaged_or_unknown_field_is_an_error_with_its_line(prototxt, message):
    with pytest.raises(ParseError) as error:
        net_of(prototxt)
    assert str(error.value).startswith("net.prototxt:1: ")
    assert message in str(error.value)


def test_field_of_a_fork_in_a_binary_file_is_not_believed():
    net = net_of(INPUT + CONV.format(""))
    for entry in ("type", "", "type: NONSENSE", "convolution_param {", "hole", "\0"):
        net.layer[1].foreign.add(text=entry)
    with pytest.raises((NetError, ParseError)):
        Net(upgrade_net(net, "f.caffemodel"))


WORDS = (
    "-1",
    "1e400",
    "nan",
    "99999999999999999999",
    '"',
    "{",
    "}",
    "[",
    "MAX",
    "é",
    "\0",
    "hole: 2",
)


def test_damaged_prototxt_of_forks_is_one_clear_error_or_another_net():
    whole = NVIDIA + INTEL + LOCAL + "layers { type: CROP crop_param { axis: 1 } }\n"
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        prototxt = whole
        for _ in range(rng.randrange(1, 3)):
            start = rng.randrange(len(prototxt))
            end = min(len(prototxt), start + rng.randrange(30))
            prototxt = prototxt[:start] + rng.choice(WORDS) * rng.randrange(3) + prototxt[end:]
        try:
            net = upgrade_net(net_of(prototxt), "net.prototxt")
            assert net_of(text.to_text(net)).layer[0].name == net.layer[0].name
        except CaffeKDError as error:
            assert str(error).startswith("net.prototxt")
            refused += 1
    assert 200 < refused


# ---- the tables


def test_no_rule_is_for_a_field_that_caffe_proto_has():
    ours = {m.name: set(m.fields_by_name) for m in pb.DESCRIPTOR.message_types_by_name.values()}
    shadowed = [
        f"{message}.{field}"
        for message, rules in dialects.FIELDS.items()
        for field in rules
        if field in ours[message] and field not in dialects.LAYER_BLOCKS
    ]
    assert shadowed == []


def test_every_v1_type_of_a_fork_is_new():
    known = pb.V1LayerParameter.LayerType.keys()
    assert dialects.V1_TYPES.keys().isdisjoint(known)
