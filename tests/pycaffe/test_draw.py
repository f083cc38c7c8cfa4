from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import caffe_kd as caffe
from caffe_kd.core.errors import NetError, UsageError
from caffe_kd.net import read_net
from caffe_kd.proto import text

ROOT = Path(__file__).parents[2]
NETS = sorted((ROOT / "prototxt").glob("*/*train_test.prototxt"))
pb = caffe.proto.caffe_pb2

NET = """
name: "n"
layer { name: "samples" type: "Input" top: "data" top: "label" include { phase: TRAIN }
  input_param { shape { dim: 4 dim: 3 dim: 9 dim: 9 } shape { dim: 4 } } }
layer { name: "test samples" type: "Input" top: "data" top: "label" include { phase: TEST }
  input_param { shape { dim: 2 dim: 3 dim: 9 dim: 9 } shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip \\"$x^2$\\"" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  include { phase: TRAIN } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""


@pytest.fixture
def net():
    return text.parse(NET, pb.NetParameter())


def words(svg: bytes) -> list[str]:
    return [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_svg_has_layers_settings_and_shapes_as_text(net) -> None:
    found = words(caffe.draw.draw_net(net, "TB", "svg", phase=caffe.TRAIN))
    for word in (
        *("samples", "Input (TRAIN)", "conv", "Convolution", "8 outputs", "3x3, stride 2, pad 1"),
        *("AVE global", 'ip "$x^2$"', "5 outputs", "loss", "data 4 × 3 × 9 × 9", "label 4"),
        *("4 × 8 × 5 × 5", "4 × 8 × 1 × 1", "ip 4 × 5"),
    ):
        assert word in found, word
    assert "accuracy" not in found
    assert "test samples" not in found


def test_png_is_an_image_with_something_on_it(net, tmp_path: Path) -> None:
    shapes = {}
    for rankdir in ("LR", "RL", "TB", "BT"):
        path = tmp_path / f"{rankdir}.png"
        caffe.draw.draw_net_to_file(net, str(path), rankdir)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
            shapes[rankdir] = image.size[0] / image.size[1]
        colours = {tuple(c) for c in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert {(255, 255, 255), (0xC5, 0xDC, 0xF0), (0xF6, 0xC9, 0xC4)} <= colours
        # Nothing is cut off at the border.
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == 255).all()
    assert shapes["LR"] == shapes["RL"] > shapes["TB"] == shapes["BT"]


def test_dot_has_a_line_for_each_layer_and_blob(net) -> None:
    graph = caffe.draw.get_pydot_graph(net, "TB", phase=caffe.TEST).to_string()
    assert graph.startswith("digraph Net {\n  rankdir=TB;")
    assert 'label="conv\\nConvolution\\n8 outputs\\n3x3, stride 2, pad 1"' in graph
    assert 'ip \\"$x^2$\\"' in graph
    assert 'layer0 -> layer1 [label="data 2 × 3 × 9 × 9"];' in graph
    assert len(re.findall("->", graph)) == 6
    bare = caffe.draw.get_pydot_graph(net, label_edges=False, phase=caffe.TEST).to_string()
    assert "×" not in bare
    assert "rankdir=LR" in bare


def test_graph_has_pydots_names(net, tmp_path: Path) -> None:
    graph = caffe.draw.get_pydot_graph(net, "LR")
    assert graph.create_svg() == graph.create(format="svg")
    with Image.open(io.BytesIO(graph.create_png())) as image:
        assert image.format == "PNG"
    graph.write_svg(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == graph.create_svg()
    graph.write(tmp_path / "b", format="raw")
    caffe.draw.draw_net_to_file(net, str(tmp_path / "c.raw"))  # for Graphviz
    assert (tmp_path / "b").read_text() == (tmp_path / "c.raw").read_text() == graph.to_string()
    with pytest.raises(AttributeError, match="a Drawing has no 'create_bmp'"):
        graph.create_bmp()


def test_both_phases_are_drawn_together_unless_one_is_named(net) -> None:
    drawing = caffe.draw.get_pydot_graph(net)
    assert len(drawing.nodes) == 8
    into_conv = [x for x in drawing.links if x.target == 2]
    assert [x.label for x in into_conv] == ["data 4 × 3 × 9 × 9", "data 2 × 3 × 9 × 9"]


def test_multipliers_of_the_learning_rate_are_reported_if_asked_for(net) -> None:
    assert "lr_mult 1, 2" in words(caffe.draw.draw_net(net, ext="svg", display_lrm=True))
    assert "lr_mult 1, 2" not in words(caffe.draw.draw_net(net, ext="svg"))


def test_same_net_gives_the_same_svg(net) -> None:
    assert caffe.draw.draw_net(net, ext="svg") == caffe.draw.draw_net(net, ext="svg")


@pytest.mark.parametrize("path", NETS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_example_net_is_drawn(path: Path) -> None:
    net = read_net(path)
    drawing = caffe.draw.get_pydot_graph(net, label_edges=False)
    assert [node.lines[0] for node in drawing.nodes] == [layer.name for layer in net.layer]
    svg = drawing.create("svg")
    assert set(word for node in drawing.nodes for word in node.lines) <= set(words(svg))


def test_what_cannot_be_drawn_is_reported(net, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drawn as png, svg, pdf, dot, gv, raw. Received: bmp"):
        caffe.draw.draw_net_to_file(net, tmp_path / "net.bmp")
    with pytest.raises(UsageError, match="rankdir is one of TB, BT, LR, RL"):
        caffe.draw.draw_net(net, "down")
    many = pb.NetParameter(layer=[net.layer[3]] * 3001)
    with pytest.raises(NetError, match="3001 layers, and at most 3000"):
        caffe.draw.draw_net(many)


def test_long_net_still_fits_a_png() -> None:
    relus = "".join(
        f'layer {{ name: "r{i}" type: "ReLU" bottom: "x" top: "x" }}' for i in range(500)
    )
    head = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    net = text.parse(head + relus, pb.NetParameter())
    png = caffe.draw.get_pydot_graph(net, "TB", label_edges=False).create("png")
    with Image.open(io.BytesIO(png)) as image:
        assert max(image.size) < 3 * min(image.size) < 30000
