"""The command that classifies images: its classes, its notes and its errors."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from caffe_kd.cli.classify import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.export.pipeline import export_onnx
from caffe_kd.net import load_net
from caffe_kd.proto.binary import write_weights

ROOT = Path(__file__).parents[2]
PRINTED = 1e-4  # probabilities are printed with four digits

# Four classes: the brightest quarter of the image.
NET = """
name: "quarters"
layer {{ name: "digits" type: "Data" top: "data" top: "label" transform_param {{ {transform} }}
  data_param {{ source: "t10k-images-idx3-ubyte" batch_size: 2 backend: IDX }} }}
layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param {{ pool: AVE kernel_size: 4 stride: 4 }} }}
layer {{ name: "quarter" type: "InnerProduct" bottom: "pool" top: "quarter"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
{last}
"""
LOSS = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "quarter" bottom: "label" top: "l" }'
SOFTMAX = 'layer { name: "prob" type: "Softmax" bottom: "quarter" top: "prob" }'
SCALE = 1 / 64
COLOUR_MEAN = "104,117,123"


def export(transform=f"scale: {SCALE}", last=LOSS, preprocess=False, factors=(1, 1, 1, 1)) -> None:
    Path("net.prototxt").write_text(NET.format(transform=transform, last=last))
    net = load_net("net.prototxt")
    weights = {"quarter": [np.diag(np.float32(factors)), np.zeros(4, np.float32)]}
    write_weights("w.caffemodel", net.param, weights)
    export_onnx("net.prototxt", "w.caffemodel", "m.onnx", preprocess)


def quarters(*grey: int) -> np.ndarray:
    return np.kron(np.array(grey, np.uint8).reshape(2, 2), np.ones((4, 4), np.uint8))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_idx(Path("t10k-images-idx3-ubyte"), np.ones((3, 8, 8), np.uint8))
    write_idx(Path("t10k-labels-idx1-ubyte"), np.ones(3, np.uint8))
    Image.fromarray(quarters(0, 64, 128, 10)).save("p.png")


def classify(capsys, *argv) -> tuple[list[tuple[str, float]], str]:
    """Return class and probability of each line, and what is on stderr."""
    assert main(["-model", "m.onnx", *argv]) == 0
    captured = capsys.readouterr()
    lines = re.findall(r"^  ([\d.]+)  (.*)$", captured.out, re.MULTILINE)
    return [(name, float(value)) for value, name in lines], captured.err


def fails(capsys, *argv, status=1) -> str:
    assert main([*argv]) == status
    captured = capsys.readouterr()
    assert "error: " in captured.err and "Traceback" not in captured.err
    return captured.err.rpartition("error: ")[2]


def softmax(*scores: float) -> np.ndarray:
    return torch.tensor(scores, dtype=torch.float64).softmax(0).numpy()


def test_image_gets_the_scale_that_the_model_names(capsys):
    export()
    found, notes = classify(capsys, "p.png")
    assert [name for name, _ in found] == ["2", "1", "3", "0"]
    wanted = np.sort(softmax(0, 1, 2, 10 / 64))[::-1]
    np.testing.assert_allclose([p for _, p in found], wanted, atol=PRINTED)
    assert notes == ("'data' = pixel * 0.015625, grey, 8 x 8; probabilities = softmax('quarter')\n")


def test_mean_of_the_model_is_taken_off(capsys):
    export(transform=f"scale: {SCALE} mean_value: 64", factors=(1, 1, 2, 0))
    found, notes = classify(capsys, "p.png", "-top", "2")
    assert "(pixel - 64) * 0.015625" in notes
    assert [name for name, _ in found] == ["2", "1"]
    wanted = softmax(-1, 0, 2, 0)
    np.testing.assert_allclose([p for _, p in found], [wanted[2], wanted[1]], atol=PRINTED)


@pytest.mark.parametrize("last", [LOSS, SOFTMAX])
def test_model_of_pixels_is_fed_pixels(capsys, last):
    export(preprocess=True, last=last)
    found, notes = classify(capsys, "p.png", "-top", "2")
    wanted = softmax(0, 1, 2, 10 / 64)
    np.testing.assert_allclose([p for _, p in found], [wanted[2], wanted[1]], atol=PRINTED)
    score = "softmax('quarter')" if last is LOSS else "'prob'"
    assert notes == f"'data' = pixel, grey, 8 x 8; probabilities = {score}\n"


def test_model_without_scale_says_so_and_takes_one(capsys):
    export()
    model = onnx.load("m.onnx")
    del model.metadata_props[:]
    onnx.save(model, "m.onnx")
    found, notes = classify(capsys, "p.png")
    assert "note: the model does not name the scale" in notes and "pixel * 1," in notes
    assert found[0] == ("2", 1.0)
    found, notes = classify(capsys, "p.png", "-scale", str(SCALE))
    assert "note" not in notes
    np.testing.assert_allclose(found[0][1], softmax(0, 1, 2, 10 / 64)[2], atol=PRINTED)


def test_mean_image_is_asked_for(capsys):
    export()
    model = onnx.load("m.onnx")
    model.metadata_props.add(key="caffe_kd.data.mean_file", value="mean.binaryproto")
    onnx.save(model, "m.onnx")
    assert "mean image 'mean.binaryproto'" in fails(capsys, "-model", "m.onnx", "p.png")
    assert classify(capsys, "p.png", "-mean", "3")[0][0][0] == "2"


def test_mean_file_of_the_data_layer_is_named_by_the_model():
    from caffe_kd.proto import caffe_pb2 as pb

    mean = pb.BlobProto(num=1, channels=1, height=8, width=8, data=[1.0] * 64)
    Path("mean.binaryproto").write_bytes(mean.SerializeToString())
    export(transform='mean_file: "mean.binaryproto"')
    facts = {p.key: p.value for p in onnx.load("m.onnx").metadata_props}
    assert facts["caffe_kd.data.mean_file"] == "mean.binaryproto"
    assert facts["caffe_kd.data.scale"] == "1.0"


def test_ink_on_paper_is_hinted_at_and_inverted(capsys):
    export()
    Image.fromarray(255 - quarters(0, 64, 128, 10)).save("ink.png")
    found, notes = classify(capsys, "ink.png")
    assert "note: ink.png is dark on a light background" in notes and found[0][0] == "0"
    found, notes = classify(capsys, "ink.png", "-invert")
    assert "note" not in notes and "pixel inverted" in notes
    assert found == classify(capsys, "p.png")[0]


def test_transparent_ground_is_paper(capsys):
    export()
    ink = quarters(0, 64, 128, 10)
    Image.fromarray(np.dstack([np.zeros((8, 8, 3), np.uint8), ink])).save("ink.png")
    assert classify(capsys, "ink.png", "-invert")[0] == classify(capsys, "p.png")[0]


@pytest.mark.parametrize(
    "name", ["big.png", "big.jpg", "big.gif", "big.bmp", "big.webp", "big.tif"]
)
def test_images_of_any_size_and_kind_are_read(capsys, name):
    export()
    image = Image.fromarray(quarters(0, 64, 128, 10)).resize((400, 240), Image.Resampling.NEAREST)
    image.convert("L" if name.endswith("gif") else "RGB").save(name)
    found, _ = classify(capsys, name)
    assert [n for n, _ in found] == ["2", "1", "3", "0"]
    # Pixels at a seam of quarters mix; JPEG and WebP change the values a little besides.
    np.testing.assert_allclose(found[0][1], softmax(0, 1, 2, 10 / 64)[2], atol=0.04)


def test_image_of_sixteen_bits_keeps_the_upper_eight(capsys):
    export()
    Image.fromarray(quarters(0, 64, 128, 10).astype(np.uint16) << 8).save("deep.png")
    assert classify(capsys, "deep.png")[0] == classify(capsys, "p.png")[0]


def test_cameras_mark_of_orientation_is_obeyed(capsys):
    export()
    turned = Image.fromarray(np.rot90(quarters(0, 64, 128, 10)))
    marks = Image.Exif()
    marks[0x0112] = 6  # to be seen turned clockwise
    turned.save("turned.png", exif=marks)
    assert classify(capsys, "turned.png")[0] == classify(capsys, "p.png")[0]


def test_colour_goes_in_as_bgr(capsys):
    """Classes are the three channels' means."""
    mean = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    graph = helper.make_graph(
        [mean],
        "channels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), "m.onnx")
    Image.fromarray(np.full((9, 9, 3), (125, 118, 107), np.uint8)).save("rgb.png")
    Path("names").write_text("blue\ngreen\nred\n")
    found, notes = classify(
        capsys, "rgb.png", "-mean", COLOUR_MEAN, "-scale", "0.5", "-labels", "names"
    )
    assert "(pixel - [104, 117, 123]) * 0.5, BGR, 4 x 4" in notes
    wanted = softmax(1.5, 0.5, 1)
    assert [name for name, _ in found] == ["blue", "red", "green"]
    np.testing.assert_allclose([p for _, p in found], wanted[[0, 2, 1]], atol=PRINTED)


def test_each_of_several_images_is_printed_under_its_name(capsys):
    export()
    Image.fromarray(quarters(200, 0, 0, 0)).save("q.png")
    assert main(["p.png", "q.png", "-model", "m.onnx", "-top=1"]) == 0
    assert re.fullmatch(r"p.png:\n  0.\d+  2\nq.png:\n  0.\d+  0\n", capsys.readouterr().out)


def test_labels_of_another_number_are_refused(capsys):
    export()
    Path("names").write_text("a\nb\nc\n")
    error = fails(capsys, "-model", "m.onnx", "-labels", "names", "p.png")
    assert error.startswith("names: one name per line") and "4 classes" in error


def png_announcing(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not one of PNG, JPEG"),
        (b"no image at all", "not one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of PNG, JPEG"),
        (png_announcing(10000, 9000), "10000 x 9000 pixels, where a file of 69 bytes may"),
        (png_announcing(2**31 - 1, 2**31 - 1), "could be decompression bomb"),
        (png_announcing(500, 500), "truncated"),
    ],
)
def test_what_is_no_image_is_an_error(capsys, recwarn, content, message):
    export()
    Path("x.png").write_bytes(content)
    error = fails(capsys, "-model", "m.onnx", "x.png")
    assert error.startswith("x.png: Could not open or find file") and message in error
    assert not recwarn.list


def test_missing_files_are_named(capsys):
    export()
    Path("tmp_folder").mkdir()
    assert "gone.png: no such file" in fails(capsys, "-model", "m.onnx", "gone.png")
    assert "gone.onnx: no such file" in fails(capsys, "-model", "gone.onnx", "p.png")
    assert "tmp_folder: is a folder" in fails(capsys, "-model", "m.onnx", "tmp_folder")


def test_what_is_no_model_is_an_error(capsys):
    Path("m.onnx").write_bytes(b"nonsense")
    assert "m.onnx: is not an ONNX model" in fails(capsys, "-model", "m.onnx", "p.png")


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ([["n", 5]], ["n", 5], "one input (batch, C, H, W)"),
        ([["n", 1, 4, 4], ["n", 1, 4, 4]], ["n", 1, 4, 4], "one input (batch, C, H, W)"),
        ([["n", 2, 4, 4]], ["n", 2, 4, 4], "C being 1 or 3"),
        ([["n", 1, "h", 4]], ["n", 1, "h", 4], "of known dims"),
        ([["n", 3, 4, 4]], ["n", 3, 4, 4], "an output (batch, classes) of at least two"),
        ([["n", 1, 100000, 100000]], ["n", 1, 100000, 100000], "at most 67108864 are read"),
    ],
)
def test_model_that_is_no_classifier_is_refused(capsys, inputs, output, message):
    values = [
        helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape)
        for i, shape in enumerate(inputs)
    ]
    node = helper.make_node("Sum", [v.name for v in values], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, output)
    graph = helper.make_graph([node], "g", values, [result])
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), "m.onnx")
    error = fails(capsys, "-model", "m.onnx", "p.png")
    assert error.startswith("m.onnx: ") and message in error


def test_scale_of_a_model_of_pixels_is_refused(capsys):
    export(preprocess=True)
    assert "scales its pixels itself" in fails(capsys, "-model=m.onnx", "p.png", "-scale=2")


@pytest.mark.parametrize("flags", [["-top", "0"], ["-mean", "a,b"]])
def test_wrong_values_are_wrong_usage(capsys, flags):
    export()
    assert flags[0] in fails(capsys, "-model", "m.onnx", "p.png", *flags, status=2)


def test_mean_of_other_channels_is_refused(capsys):
    export()
    error = fails(capsys, "-model", "m.onnx", "p.png", "-mean", COLOUR_MEAN)
    assert "one number or one per channel: 1. Received: 3" in error


@pytest.mark.parametrize("argv", [[], ["p.png"], ["-model", "m.onnx"], ["p.png", "-colour"]])
def test_wrong_arguments_are_reported_with_the_usage(argv, capsys):
    assert main(argv) == 2
    assert "usage: caffe_kd classify" in capsys.readouterr().err


def test_tool_classifies_without_torch():
    export()
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            ROOT / "tools" / "classify.py",
            "p.png",
            "-model=m.onnx",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("p.png:\n  0.") and " torch" not in done.stderr
