from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.filter import filter_net, is_included


def state_of(words: str):
    return text.parse(words, pb.NetState())


def layer_of(rules: str):
    return text.parse(f'name: "L" {rules}', pb.LayerParameter())


@pytest.mark.parametrize(
    ("rules", "state", "included"),
    [
        ("", "phase: TRAIN", True),
        ("include { phase: TRAIN }", "phase: TRAIN", True),
        ("include { phase: TRAIN }", "phase: TEST", False),
        ("exclude { phase: TRAIN }", "phase: TRAIN", False),
        ("exclude { phase: TRAIN }", "phase: TEST", True),
        # Levels, both bounds included.
        ("include { min_level: 2 }", "level: 1", False),
        ("include { min_level: 2 }", "level: 2", True),
        ("include { max_level: 2 }", "level: 2", True),
        ("include { max_level: 2 }", "level: 3", False),
        ("include { min_level: 1 max_level: 2 }", "level: 0", False),
        ("include { min_level: 0 }", "", True),
        # Every stage named must be there, none of the forbidden ones.
        ('include { stage: "a" }', "", False),
        ('include { stage: "a" }', 'stage: "b" stage: "a"', True),
        ('include { stage: "a" stage: "b" }', 'stage: "a"', False),
        ('include { stage: "a" stage: "b" }', 'stage: "a" stage: "b"', True),
        ('include { not_stage: "a" }', 'stage: "a"', False),
        ('include { not_stage: "a" }', 'stage: "b"', True),
        ('include { stage: "a" not_stage: "b" }', 'stage: "a" stage: "b"', False),
        # A rule is met as a whole; of several, one is enough.
        ('include { phase: TEST stage: "a" }', "phase: TEST", False),
        ('include { phase: TRAIN } include { stage: "a" }', 'phase: TEST stage: "a"', True),
        ('exclude { phase: TRAIN } exclude { stage: "a" }', 'phase: TEST stage: "a"', False),
        ('exclude { phase: TRAIN stage: "a" }', "phase: TRAIN", True),
        ("include { }", "phase: TEST", True),
        ("exclude { }", "phase: TEST", False),
    ],
)
def test_layer_is_included_where_its_rules_say(rules, state, included):
    assert is_included(layer_of(rules), state_of(state)) == included


def test_both_kinds_of_rules_are_refused():
    layer = layer_of("include { phase: TRAIN } exclude { phase: TEST }")
    layer.source_line = "net.prototxt:7"
    with pytest.raises(NetError) as error:
        is_included(layer, state_of(""))
    want = "net.prototxt:7: layer 'L': specify either include rules or exclude rules; not both"
    assert str(error.value) == want


def test_filtered_net_is_a_copy_with_its_state():
    net = text.parse(
        'name: "n" layer { name: "a" } layer { name: "b" include { phase: TRAIN } }',
        pb.NetParameter(),
        "net.prototxt",
    )
    before = net.SerializeToString()
    filtered = filter_net(net, state_of('phase: TEST level: 2 stage: "s"'))
    assert [layer.name for layer in filtered.layer] == ["a"]
    assert filtered.name == "n"
    assert filtered.layer[0].source_line == "net.prototxt:1"
    assert (filtered.state.phase, filtered.state.level) == (pb.TEST, 2)
    filtered.layer[0].name = "changed"
    assert net.SerializeToString() == before
