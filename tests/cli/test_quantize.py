"""The command that quantises: what it prints and writes, and how it refuses."""

from __future__ import annotations

import onnx
import pytest
from PIL import Image

from caffe_kd.cli.classify import main as classify
from caffe_kd.cli.quantize import main
from caffe_kd.data.backends.idx import IMAGES, read_idx
from caffe_kd.data.image_file import decode_on_white
from caffe_kd.export.classifier import Classifier
from caffe_kd.net import load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.quantization.conftest import trained  # noqa: F401  # the folder of trained nets


@pytest.fixture
def run(trained, monkeypatch, capsys):  # noqa: F811
    """Run the command in the folder with the nets; return its status, output and errors."""
    monkeypatch.chdir(trained)

    def call(*more, net="conv"):
        files = ["-model", f"{net}.prototxt", "-weights", f"{net}.caffemodel"]
        status = main([*files, "-output", "int8.onnx", *more])
        return status, *capsys.readouterr()

    return call


def test_tables_say_what_int8_costs(run):
    status, out, err = run("-method", "AUTO", "-iterations", "4")
    assert status == 0, err
    words = out.split()
    assert {"MINMAX", "MSE", "PERCENTILE", "ENTROPY", "chosen"} <= set(words)
    head = next(line for line in out.splitlines() if line.startswith("blob"))
    assert head.split() == (
        ["blob", "layer", "min", "max", "threshold", "scale", "zero_point", "clipped"]
    )
    for begin in (
        "bytes ",
        "µs at batch 1 ",
        "µs at batch 64 ",
        "errors of 500 (conv.prototxt TEST)",
    ):
        assert any(line.startswith(begin) for line in out.splitlines()), begin
    assert out.splitlines()[-1] == "wrote int8.onnx"


def test_printed_ranges_can_be_given(run, trained):  # noqa: F811
    _, first, _ = run("-method", "MSE")
    (trained / "ranges.txt").write_text(first)
    status, second, err = run("-method", "GIVEN", "-ranges", "ranges.txt")
    assert status == 0, err
    assert table(second) == table(first)


def table(out):
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("blob"))
    return lines[start : lines.index("", start)]


def test_ncnn_table_is_written_and_read(run, trained):  # noqa: F811
    _, first, _ = run("-method", "MSE", "-table", "conv.table")
    rows = [line.split() for line in (trained / "conv.table").read_text().splitlines()]
    layers = ["conv1", "conv2", "ip1", "ip2"]
    assert [row[0] for row in rows] == [*(f"{name}_param_0" for name in layers), *layers]
    assert [len(row) - 1 for row in rows] == [6, 8, 32, 10, 1, 1, 1, 1]
    cuts = {row[0]: float(row[4]) for row in map(str.split, table(first)[1:])}
    for (name, scale), blob in zip(rows[4:], ["data", "conv1", "conv2", "ip1"], strict=True):
        assert float(scale) == pytest.approx(127 / cuts[blob], rel=1e-5), name
    status, second, err = run("-method", "GIVEN", "-ranges", "conv.table")
    assert status == 0, err
    again = {row[0]: float(row[4]) for row in map(str.split, table(second)[1:])}
    assert again == pytest.approx(cuts, rel=1e-5)


def test_intels_fields_are_written_and_read(run, trained):  # noqa: F811
    _, _, err = run("-method", "MSE", "-prototxt", "intel.prototxt", net="residual")
    assert "note: 6 BatchNorm and Scale layers are part of the layers before them now" in err
    net = read_net(trained / "intel.prototxt")
    layers = {layer.name: layer.quantization_param for layer in net.layer}
    assert len(layers["conv2"].scale_params) == 8
    assert layers["ip2"].bw_layer_out == 32  # logits
    assert not any(layer.type == "BatchNorm" for layer in net.layer)
    assert (trained / "intel.caffemodel").exists()  # of folded weights
    # The train/test net with the fields, as a user of Intel's tool has it.
    whole = read_net(trained / "residual.prototxt")
    for layer in whole.layer:
        if layer.name in layers:
            layer.quantization_param.CopyFrom(layers[layer.name])
    text.write(trained / "given.prototxt", whole)
    args = "-model given.prototxt -weights residual.caffemodel -output int8.onnx -method GIVEN"
    assert main(args.split()) == 0
    status, _, err = run("-method", "GIVEN", net="residual")
    assert status == 2
    assert "-ranges FILE" in err


def test_further_data_sets_are_compared_on(run, trained):  # noqa: F811
    other = (trained / "conv.prototxt").read_text().replace("t10k-", "train-")
    (trained / "other.prototxt").write_text(other)
    status, out, _ = run("-evaluate", "other.prototxt", "-evaluate", "conv.prototxt")
    assert status == 0
    assert "errors of 1,024 (other.prototxt TEST)" in out
    assert out.count("errors of 500 (conv.prototxt TEST)") == 2


def test_model_of_pixels_takes_bytes(run, trained):  # noqa: F811
    status, _, err = run("-preprocess")
    assert status == 0, err
    (taken,) = onnx.load(trained / "int8.onnx").graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize("preprocess", [[], ["-preprocess"]])
def test_int8_model_classifies_images(run, trained, preprocess):  # noqa: F811
    _, _, err = run("-method", "AUTO", *preprocess)
    pixels = read_idx(trained / "t10k-images-idx3-ubyte", IMAGES)[:20]
    right = 0
    model = Classifier("int8.onnx")
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(trained / "digit.png")
        data = (trained / "digit.png").read_bytes()
        scores = model(decode_on_white(data, "digit.png", color=False, size=image.shape))
        right += int(scores.argmax() == index % 10)  # as the patterns are written
    assert right >= 17, err
    assert classify(["digit.png", "-model", "int8.onnx", "-top", "1"]) == 0


def test_int8_model_is_a_layer(run, trained):  # noqa: F811
    run()
    net = (trained / "conv.prototxt").read_text()
    start, end = net.index('layer { name: "conv1"'), net.index('layer { name: "loss"')
    layer = """layer { name: "int8" type: "ONNXModel" bottom: "data" top: "ip2"
      onnx_model_param { model: "int8.onnx" } }\n"""
    (trained / "scored.prototxt").write_text(net[:start] + layer + net[end:])
    tested = load_net(trained / "scored.prototxt")
    tested()
    assert float(tested.blobs["accuracy"]) > 0.85


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("-exclude conv3", "-exclude conv3: a layer with weights of net 'conv' is needed, and it"),
        ("-exclude pool1", "is a Pooling, which has no weights"),
        ("-exclude conv1,conv2,ip1,ip2", "has no layer to quantise"),
        ("-method GIVEN", "GIVEN takes ranges from a file, -ranges FILE"),
        ("-ranges conv.table", "-ranges is for -method GIVEN"),
        ("-dynamic -method MSE", "-method: with -dynamic ranges are found as the model runs"),
        ("-dynamic -table t", "-table: with -dynamic"),
        ("-iterations 0", "-iterations must be at least 1"),
        ("-method PERCENTILE -percentile 0", "-percentile must be above 0"),
        ("-method GIVEN -ranges absent", "absent: no such file"),
        ("-method AUTO -iterations 32", "AUTO compares the methods on held-out samples"),
    ],
)
def test_a_users_mistake_is_one_line(run, flags, message):
    status, out, err = run(*flags.split())
    last = err.splitlines()[-1]
    assert status in (1, 2)
    assert message in last
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("conv9 12\n", "names.table:1: the net has no layer or blob 'conv9'. Did you mean"),
        ("# of ncnn\nconv1 twelve\n", "names.table:2: is no table of ranges"),
        ("conv1_param_0 1 2\n", "has no range of a blob that becomes int8"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(run, trained, content, message):  # noqa: F811
    (trained / "names.table").write_text(content)
    status, _, err = run("-method", "GIVEN", "-ranges", "names.table")
    assert status == 1
    assert message in err.splitlines()[-1]


def test_absent_data_is_one_line(run, trained):  # noqa: F811
    net = (trained / "conv.prototxt").read_text().replace("train-images", "absent")
    (trained / "absent.prototxt").write_text(net)
    status, _, err = run("-model", "absent.prototxt")
    assert status == 1
    assert "layer 'digits' (Data): " in err.splitlines()[-1]
    deployed = read_net(trained / "conv.prototxt")
    del deployed.layer[:2]
    text.write(trained / "deploy.prototxt", deployed)
    status, _, err = run("-model", "deploy.prototxt", "-input_shape", "data=1,12,12")
    assert status == 1
    assert "no data layer brings 'data' in phase TRAIN" in err.splitlines()[-1]


def test_weights_with_trained_ranges_are_left_to_the_export(run, trained):  # noqa: F811
    """They would be quantised again, by ranges other than those they learned with."""
    net = pb.NetParameter.FromString((trained / "conv.caffemodel").read_bytes())
    for layer in net.layer:
        if layer.name == "conv1":
            layer.quantization_param.step_in = 0.25
    (trained / "learned.caffemodel").write_bytes(net.SerializeToString())
    status, _, err = run("-weights", "learned.caffemodel")
    assert status == 1
    assert "layer 'conv1' was trained with rounded values" in err and "export_onnx" in err
    assert err.count("\n") == 1
    (trained / "learned.caffemodel").unlink()


def test_nothing_is_written_where_it_fails(run, trained):  # noqa: F811
    (trained / "int8.onnx").unlink(missing_ok=True)
    assert run("-evaluate", "absent.prototxt_")[0] == 1
    assert not (trained / "int8.onnx").exists()


def test_net_without_accuracy_says_only_what_differs(run, trained):  # noqa: F811
    net = read_net(trained / "conv.prototxt")
    del net.layer[-1]
    text.write(trained / "bare.prototxt", net)
    status, out, _ = run("-model", "bare.prototxt")
    assert status == 0
    line = next(line for line in out.splitlines() if "bare.prototxt TEST" in line)
    assert line.startswith("500 samples (bare.prototxt TEST)")
    assert " differ, rms of the difference" in line
    assert "errors" not in out
