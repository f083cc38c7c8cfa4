from __future__ import annotations

from pathlib import Path

import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.layers import Layer, layer_types, register
from caffe_kd.layers.base import MAX_COUNT, Shape
from tests.helpers import gradcheck, inputs_text, make_layer, make_net, run


def test_every_layer_type_has_a_test():
    tests = "".join(p.read_text() for p in Path(__file__).parent.rglob("test_*.py"))
    own = {t: cls for t, cls in layer_types().items() if cls.__module__.startswith("caffe_kd.")}
    assert len(own) > 20
    assert [t for t in own if f'"{t}"' not in tests and f"'{t}'" not in tests] == []


def test_type_that_is_registered_already_is_refused():
    with pytest.raises(ValueError, match="layer type 'ReLU' is registered already"):

        @register("ReLU")
        class Another(Layer):
            pass


def test_parameter_message_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="LayerParameter has no field 'nothing_param'"):

        @register("Nothing", param="nothing_param")
        class Nothing(Layer):
            pass

    assert "Nothing" not in layer_types()


@pytest.fixture
def doubled():
    """Register a layer type as a user would, for one test."""

    @register("Doubled", param="power_param", bottoms=1, tops=2)
    class Doubled(Layer):
        def setup(self, bottom_shapes: list[Shape]) -> None:
            self.add_blob(bottom_shapes[0][1:])

        def forward(self, x):
            return 2 * x + self.blobs[0], x.sum(0)

    yield Doubled
    from caffe_kd.layers import base

    del base._REGISTRY["Doubled"]


def test_users_layer_has_its_shapes_without_a_rule(doubled):
    layer = make_layer('type: "Doubled"', (2, 3), tops=2)
    assert layer.top_shapes([(4, 3)]) == [(4, 3), (3,)]
    assert layer.blobs[0].device.type == "cpu"
    run(layer, torch.randn(2, 3))
    gradcheck(layer, torch.randn(2, 3))


def test_unknown_type_names_the_place_and_the_nearest_type():
    with pytest.raises(NetError) as error:
        make_net('\n\nlayer { name: "c" type: "Convolutoin" }')
    assert str(error.value).startswith(
        "net.prototxt:3: layer 'c': Unknown layer type: 'Convolutoin'. Did you mean 'Convolution'?"
    )
    assert "InnerProduct" in str(error.value)


def test_failure_names_place_layer_fact_and_values():
    layer = make_layer('type: "ReLU"', (2, 3))
    with pytest.raises(NetError) as error:
        layer.fail("the fact", one=1, two=(2,))
    want = "net.prototxt:2: layer 'L' (ReLU): the fact. Received: one=1, two=(2,)"
    assert str(error.value) == want


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 0), "every dim of it must be at least 1"),
        ((2, -3), "every dim of it must be at least 1"),
        ((2**16, 2**16), "blob size exceeds INT_MAX"),
    ],
)
def test_absurd_shape_is_refused(shape, words):
    with pytest.raises(NetError, match=words):
        make_layer('type: "ReLU"', (2,)).check_shape(shape, "it")


def test_largest_shape_of_the_original_is_accepted():
    assert make_layer('type: "ReLU"', (2,)).check_shape((MAX_COUNT,), "it") == (MAX_COUNT,)


@pytest.mark.parametrize(("axis", "want"), [(0, 0), (2, 2), (-1, 2), (-3, 0)])
def test_axis_counts_from_either_end(axis, want):
    assert make_layer('type: "ReLU"', (2,)).axis(axis, 3) == want


def test_axis_out_of_range_is_reported():
    with pytest.raises(NetError, match="axis is out of range for a bottom of 3 axes.*axis=3"):
        make_layer('type: "ReLU"', (2,)).axis(3, 3)


def test_number_that_was_received_is_reported_as_it_was_written():
    with pytest.raises(NetError, match=r"Received: weight=\[-0\.1, 0\.7\]$"):
        make_layer(
            'type: "TeacherEnsemble" teacher_ensemble_param { weight: -0.1 weight: 0.7 }',
            *[(2, 3)] * 2,
        )
    with pytest.raises(NetError, match=r"Received: temperature=-0\.3$"):
        make_layer('type: "ClassMap" class_map_param { class: 0 temperature: -0.3 }', (2, 3))


def test_wrong_filler_is_reported_with_the_layer():
    with pytest.raises(NetError, match=r"layer 'L' \(Bias\): Unknown filler name: 'xaver'"):
        make_layer('type: "Bias" bias_param { filler { type: "xaver" } }', (2, 3))


@pytest.mark.parametrize(
    ("tops", "bottoms", "words"),
    [
        (2, 1, r"layer 'L' \(ReLU\): takes 1 top blob\(s\). Received: tops=2"),
        (0, 1, "takes 1 top"),
        (1, 2, r"takes 1 bottom blob\(s\). Received: bottoms=2"),
        (1, 0, "takes 1 bottom"),
    ],
)
def test_wrong_count_of_blobs_is_reported(tops, bottoms, words):
    with pytest.raises(NetError, match=words):
        make_layer('type: "ReLU"', *[(2,)] * bottoms, tops=tops)


def test_count_from_to_is_reported():
    with pytest.raises(NetError, match="takes 1 to 2 bottom"):
        make_layer('type: "Scale"', (2, 3), (2, 3), (2, 3))


def test_phase_of_the_layer_wins():
    net = make_net(
        inputs_text((2,)) + 'layer { name: "r" type: "ReLU" phase: TRAIN bottom: "x0" top: "y" }'
    )
    assert net.nodes[-1].layer.is_training
    assert not net.nodes[0].layer.is_training


def test_relative_path_is_looked_up_beside_the_file_that_has_the_layer(tmp_path, monkeypatch):
    for folder in ("here", "net", "solver"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"only_{folder}").touch()
    (tmp_path / "net" / "both").touch()
    (tmp_path / "solver" / "both").touch()
    monkeypatch.chdir(tmp_path / "here")
    layer = make_layer('type: "ReLU"', (1,))
    layer.context.file = tmp_path / "net" / "net.prototxt"
    layer.proto.source_line = f"{tmp_path / 'solver' / 'solver.prototxt'}:41"
    assert layer.find("only_here") == Path("only_here")
    assert layer.find("only_solver") == tmp_path / "solver" / "only_solver"
    assert layer.find("only_net") == tmp_path / "net" / "only_net"
    assert layer.find("both") == tmp_path / "solver" / "both"
    assert layer.find("absent") == Path("absent")


@pytest.mark.parametrize("place", ["", "net.caffemodel", "C:\\nets\\net.caffemodel"])
def test_relative_path_of_a_layer_without_a_line_is_looked_up_beside_the_net(tmp_path, place):
    (tmp_path / "there").touch()
    layer = make_layer('type: "ReLU"', (1,))
    layer.context.file = tmp_path / "net.prototxt"
    layer.proto.source_line = place
    assert layer.find("there") == tmp_path / "there"
