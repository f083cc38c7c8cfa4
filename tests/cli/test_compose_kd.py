from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import caffe_kd as caffe
from caffe_kd.cli import compose_kd, convert_mnist_data
from caffe_kd.data.backends import open_source
from caffe_kd.data.backends.idx import IMAGES, read_idx
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import read_weights, write_weights
from tests.cli.small import write_digits
from tests.layers.python_nets import without_caffe

FACTS = Path(__file__).parents[3] / "shared" / "caffe" / "schema.tsv"

DATA = """
layer { name: "mnist" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.0039 } data_param { source: "digits" backend: LMDB batch_size: 8 } }
"""
TEACHER = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 3 kernel_size: 5 stride: 4 weight_filler { type: "xavier" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "drop1" type: "Dropout" bottom: "conv1" top: "conv1" }
layer { name: "ip2" type: "InnerProduct" bottom: "conv1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
STUDENT = """
name: "Student"
layer { name: "ip2" type: "InnerProduct" bottom: "data" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""
DISTILLER = """
layer { name: "kd" type: "DistillingLoss" bottom: "ip2" bottom: "teacher/ip2" bottom: "label"
  top: "kd" loss_weight: 0.7 include { phase: TRAIN }
  distilling_loss_param { temperature: 3 alpha: 0.6 } loss_param { ignore_label: 9 } }
layer { name: "forks" type: "KnowledgeDistillation" bottom: "ip2" bottom: "teacher/ip2"
  top: "forks" include { phase: TRAIN } knowledge_distillation_param { temperature: 2 } }
layer { name: "soft" type: "SoftmaxWithTemperature" bottom: "ip2" top: "soft"
  softmax_with_temperature_param { temperature: 5 } }
layer { name: "soft_t" type: "SoftmaxWithTemperature" bottom: "teacher/ip2" top: "soft_t"
  softmax_with_temperature_param { temperature: 5 } }
layer { name: "l2" type: "EuclideanLoss" bottom: "soft" bottom: "soft_t" top: "l2" }
"""
RUN = """
test_iter: 2 test_interval: 100 test_initialization: false max_iter: 6 base_lr: 0.1
lr_policy: "fixed" momentum: 0.9 random_seed: 3 snapshot_prefix: "student"
"""
SOLVER = """
net: "student.prototxt" teacher { net: "teacher.prototxt" weights: "teacher.caffemodel" }
distiller_net: "distiller.prototxt"
"""
FOR_CAFFE = ["-solver", "solver.prototxt", "-for", "caffe"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work beside a solver with a teacher whose statistics and weights are not the initial ones."""
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path)
    files = [f"t10k-{name}-ubyte" for name in ("images-idx3", "labels-idx1")]
    assert convert_mnist_data.main([*files, "digits"]) == 0
    Path("teacher.prototxt").write_text(DATA + TEACHER)
    Path("student.prototxt").write_text(DATA + STUDENT)
    Path("distiller.prototxt").write_text(DISTILLER)
    Path("solver.prototxt").write_text(SOLVER + RUN)
    draw = np.random.default_rng(0)
    net = load_net("teacher.prototxt")
    weights = {
        name: [draw.uniform(0.1, 1, b.shape).astype(np.float32) for b in blobs]
        for name, blobs in net.weights().items()
    }
    write_weights("teacher.caffemodel", net.param, weights)
    return weights


def losses(solver_file, weights=None):
    solver = caffe.get_solver(solver_file)
    if weights:
        solver.net.copy_from(weights)
    tops, seen = ("kd", "forks", "l2"), []
    for _ in range(6):
        solver.step(1)
        seen.append([float(solver.net.blobs[top].data.reshape(-1)[0]) for top in tops])
    return np.array(seen), solver


def composed_for_caffe():
    outputs = ["-output", "net.prototxt", "-weights_output", "frozen.caffemodel"]
    assert compose_kd.main([*FOR_CAFFE, *outputs]) == 0
    return text.read("net.prototxt", pb.NetParameter())


@without_caffe
def test_net_for_caffe_trains_as_the_composed_net(folder):
    composed_for_caffe()
    expected, ours = losses("solver.prototxt")
    Path("plain.prototxt").write_text('net: "net.prototxt"' + RUN)
    found, plain = losses("plain.prototxt", "frozen.caffemodel")
    assert (np.ptp(expected, axis=0) > 0.01).all()  # something is learnt
    # float32 against float64 in the losses, over six updates with momentum
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for name in ("conv1", "bn1", "ip2"):
        for blob, value in zip(plain.net.params[f"teacher/{name}"], folder[name], strict=True):
            np.testing.assert_array_equal(blob.data, value)  # the teacher stayed as it was
    for blob, own in zip(plain.net.params["ip2"], ours.net.params["ip2"], strict=True):
        np.testing.assert_allclose(blob.data, own.data, rtol=1e-3, atol=1e-5)


def test_weights_for_caffe_are_the_teachers_under_their_new_names(folder):
    composed_for_caffe()
    found = {w.name: w.blobs for w in read_weights("frozen.caffemodel")}
    assert set(found) == {"teacher/conv1", "teacher/bn1", "teacher/ip2"}
    for name, blobs in found.items():
        for blob, value in zip(blobs, folder[name.removeprefix("teacher/")], strict=True):
            np.testing.assert_array_equal(blob, value)


@without_caffe
def test_weights_for_caffe_bring_as_many_blobs_as_each_layer_of_the_net_has(folder):
    """What Net::CopyTrainedLayersFrom of BVLC Caffe checks, from its rule."""
    composed_for_caffe()
    for phase in (pb.TRAIN, pb.TEST):
        blobs = caffe.Net("net.prototxt", phase).params
        layers = {node.layer.name for node in load_net("net.prototxt", phase).nodes}
        for source in read_weights("frozen.caffemodel"):
            if source.name in layers:
                shapes = [blob.data.shape for blob in blobs.get(source.name, ())]
                assert [blob.shape for blob in source.blobs] == shapes


@pytest.mark.parametrize("named", [True, False], ids=["a file that is not there", "no file"])
def test_net_is_printed_without_the_teachers_weights(folder, capsys, named):
    assert compose_kd.main(["-solver", "solver.prototxt"]) == 0
    whole = capsys.readouterr().out
    assert compose_kd.main(FOR_CAFFE) == 0
    whole_for_caffe = capsys.readouterr().out
    Path("teacher.caffemodel").unlink()
    if not named:
        Path("solver.prototxt").write_text(
            (SOLVER + RUN).replace('weights: "teacher.caffemodel"', "")
        )
    assert compose_kd.main(["-solver", "solver.prototxt"]) == 0
    printed = capsys.readouterr()
    assert printed.out == whole
    (warning,) = printed.err.splitlines()
    assert warning.startswith("compose_kd: warning: ") and "solver.prototxt:" in warning
    assert compose_kd.main(FOR_CAFFE) == 0
    assert capsys.readouterr().out == whole_for_caffe


def test_weights_for_caffe_without_the_teachers_weights_is_an_error(folder, capsys):
    Path("teacher.caffemodel").unlink()
    error = refused(capsys, "-weights_output", "frozen.caffemodel")
    assert "weights 'teacher.caffemodel': no such file" in error
    assert not Path("frozen.caffemodel").exists()


def test_net_is_printed_without_the_weights_that_a_layer_starts_from(folder, capsys):
    Path("teacher.caffemodel").unlink()
    Path("solver.prototxt").write_text(SOLVER + RUN + 'inject { layer: "ip2" freeze: true }')
    assert compose_kd.main(["-solver", "solver.prototxt"]) == 0
    net = text.parse(capsys.readouterr().out, pb.NetParameter())
    assert {layer.name: layer.frozen for layer in net.layer}["ip2"]


def test_net_for_caffe_has_frozen_teacher_and_python_losses(folder):
    layers = {layer.name: layer for layer in composed_for_caffe().layer}
    for name in ("conv1", "bn1", "drop1", "ip2"):
        frozen = layers[f"teacher/{name}"]
        assert frozen.phase == pb.TEST and list(frozen.propagate_down) == [False]
        assert all(spec.lr_mult == spec.decay_mult == 0 for spec in frozen.param)
    assert len(layers["teacher/bn1"].param) == 3
    kd = layers["kd"]
    assert (kd.type, kd.python_param.module) == ("Python", "caffe_kd.plugin")
    assert kd.python_param.layer == "DistillingLoss"
    assert {"temperature: 3.0", "alpha: 0.6", "ignore_label: 9"} <= {
        f"{name} {value}"
        for name, value in zip(*[iter(kd.python_param.param_str.split())] * 2, strict=True)
    }
    assert [round(w, 6) for w in kd.loss_weight] == [0.7]
    assert list(kd.propagate_down) == [True, False, False]
    assert list(layers["forks"].loss_weight) == [1]
    assert kd.include[0].phase == pb.TRAIN


@without_caffe
def test_frozen_layers_have_learning_rates_of_0_and_start_from_the_teachers(folder):
    more = 'layer { name: "conv1" type: "Convolution" bottom: "data" top: "c" frozen: true '
    more += "convolution_param { num_output: 3 kernel_size: 5 stride: 4 } }"
    Path("student.prototxt").write_text(DATA + STUDENT + more)
    Path("solver.prototxt").write_text(SOLVER + RUN + 'inject { layer: "conv1" freeze: true }')
    layer = {layer.name: layer for layer in composed_for_caffe().layer}["conv1"]
    assert not layer.HasField("frozen")
    assert [(spec.lr_mult, spec.decay_mult) for spec in layer.param] == [(0, 0), (0, 0)]
    Path("plain.prototxt").write_text('net: "net.prototxt"' + RUN)
    _, plain = losses("plain.prototxt", "frozen.caffemodel")
    for blob, value in zip(plain.net.params["conv1"], folder["conv1"], strict=True):
        np.testing.assert_array_equal(blob.data, value)


@pytest.mark.parametrize("databases", [[], ["-databases", "dbs"]])
def test_files_beside_a_net_in_another_folder_are_named_from_here(folder, capsys, databases):
    nets = Path("nets")
    nets.mkdir()
    shutil.move("digits", nets / "digits")
    for name in ("student", "teacher", "distiller", "solver"):
        shutil.move(f"{name}.prototxt", nets)
    shutil.move("teacher.caffemodel", nets)
    command = ["-solver", "nets/solver.prototxt", "-for", "caffe", *databases]
    assert compose_kd.main([*command, "-output", "net.prototxt"]) == 0
    net = text.read("net.prototxt", pb.NetParameter())
    assert data_layer(net).data_param.source == str(nets / "digits")


def test_net_for_caffe_has_no_bottoms_without_a_name(folder):
    student = STUDENT.replace('bottom: "data"', 'bottom: "data" bottom: ""')
    Path("student.prototxt").write_text(DATA + student)
    layers = {layer.name: layer for layer in composed_for_caffe().layer}
    assert list(layers["ip2"].bottom) == ["data"]


def fields(message):
    """Yield each field's message, name and number, and the name of an enum's value."""
    for field, value in message.ListFields():
        if field.name == "source_line":
            continue  # where the test's reader found it
        kind = message.DESCRIPTOR.full_name
        word = field.enum_type.values_by_number[value].name if field.enum_type else None
        yield kind, field.name, field.number, word
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from fields(part)


def test_net_for_caffe_has_only_fields_of_caffe(folder):
    if not FACTS.exists():
        pytest.skip("../shared/caffe/schema.tsv, Caffe's schema as a table, is absent")
    with open(FACTS, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    known = {(r["message"], r["field"]): int(r["number"]) for r in rows if r["kind"] == "field"}
    used = list(fields(composed_for_caffe()))
    assert len(used) > 50
    assert [(m, f) for m, f, number, _ in used if known.get((m, f)) != number] == []
    assert ("caffe.DataParameter", "backend", 8, "LMDB") in used
    assert "source_line" not in Path("net.prototxt").read_text()


def test_weights_for_caffe_of_an_old_file_have_their_own_axes(folder):
    old = pb.NetParameter()
    for name, blobs in folder.items():
        layer = old.layer.add(name=name)
        for blob in blobs:
            shape = (1,) * (4 - blob.ndim) + blob.shape
            sizes = dict(zip(("num", "channels", "height", "width"), shape, strict=True))
            layer.blobs.add(data=blob.reshape(-1).tolist(), **sizes)
    Path("teacher.caffemodel").write_bytes(old.SerializeToString())
    composed_for_caffe()
    found = {w.name: w.blobs for w in read_weights("frozen.caffemodel") if w.blobs}
    for name in ("conv1", "ip2"):
        shapes = [blob.shape for blob in found[f"teacher/{name}"]]
        assert shapes == [blob.shape for blob in folder[name]]


def refused(capsys, *arguments):
    capsys.readouterr()
    assert compose_kd.main([*FOR_CAFFE, "-output", "net.prototxt", *arguments]) == 1
    assert not Path("net.prototxt").exists()
    return capsys.readouterr().err


def test_net_for_caffe_of_idx_says_how_to_get_an_lmdb(folder, capsys):
    idx = DATA.replace("digits", "t10k-images-idx3-ubyte").replace("LMDB", "IDX")
    Path("student.prototxt").write_text(idx + STUDENT)
    error = refused(capsys)
    assert "student.prototxt:2: layer 'mnist' (Data): BVLC Caffe has no backend IDX" in error
    assert "-databases FOLDER" in error


@pytest.mark.parametrize("part", ["first: 3", "count: 20", "leave_out: 7"])
def test_net_for_caffe_of_a_part_of_the_samples_says_how_to_get_an_lmdb(folder, capsys, part):
    Path("student.prototxt").write_text(DATA.replace("batch_size", f"{part} batch_size") + STUDENT)
    error = refused(capsys)
    assert f"BVLC Caffe has no field '{part.partition(':')[0]}'. Give -databases FOLDER" in error


def test_net_for_caffe_with_jitter_says_that_there_is_no_way(folder, capsys):
    Path("student.prototxt").write_text(DATA.replace("scale", "jitter: 2 scale") + STUDENT)
    assert "cannot shift images at random" in refused(capsys, "-databases", "dbs")
    assert not Path("dbs").exists()  # nothing is written before all else is fine


def test_net_for_caffe_with_bits_says_that_caffe_has_float32(folder, capsys):
    rounded = STUDENT.replace(
        "inner_product_param", "quantization_param { bw_params: 4 } inner_product_param", 1
    )
    Path("student.prototxt").write_text(DATA + rounded)
    assert "no field 'quantization_param'. Drop it: it computes in float32" in refused(capsys)


def test_net_for_caffe_with_a_third_top_of_data_is_an_error(folder, capsys):
    numbered = DATA.replace('top: "label"', 'top: "label" top: "number"')
    Path("student.prototxt").write_text(numbered + STUDENT)
    assert "does not number the samples" in refused(capsys)


def samples(layer):
    """Return the samples of a data layer as our own reader has them."""
    source = open_source(layer.data_param, Path)
    return [source.read(i)[0].tobytes() for i in range(len(source))], [
        source.label(i) for i in range(len(source))
    ]


def data_layer(net):
    (layer,) = [layer for layer in net.layer if layer.type == "Data"]
    return layer


@pytest.mark.parametrize("backend", ["IDX", "LMDB"])
@pytest.mark.parametrize(
    "part", ["", "first: 3 count: 20", "leave_out: 7 leave_out: 1", "first: 9"]
)
def test_databases_hold_the_samples_that_the_layer_reads(folder, capsys, backend, part):
    source = "t10k-images-idx3-ubyte" if backend == "IDX" else "digits"
    data = DATA.replace("digits", source).replace("LMDB", f"{backend} {part}")
    Path("student.prototxt").write_text(data + STUDENT)
    expected = samples(data_layer(text.parse(data, pb.NetParameter())))
    assert compose_kd.main([*FOR_CAFFE, "-output", "net.prototxt", "-databases", "dbs"]) == 0
    net = text.read("net.prototxt", pb.NetParameter())
    assert data_layer(net).data_param.backend == pb.DataParameter.LMDB
    assert samples(data_layer(net)) == expected
    fields = {field.name for field, _ in data_layer(net).data_param.ListFields()}
    assert fields.isdisjoint({"first", "count", "leave_out"})
    written = backend == "IDX" or part
    assert Path("dbs").exists() == bool(written)
    assert (f": {len(expected[1])} samples" in capsys.readouterr().err) == bool(written)


def test_databases_that_are_there_are_used_again_unless_they_are_damaged(folder, capsys):
    idx = DATA.replace("digits", "t10k-images-idx3-ubyte").replace("LMDB", "IDX")
    Path("student.prototxt").write_text(idx + STUDENT)
    command = [*FOR_CAFFE, "-output", "net.prototxt", "-databases", "dbs"]
    assert compose_kd.main(command) == 0
    (database,) = Path("dbs").iterdir()
    content = (database / "data.mdb").read_bytes()
    assert compose_kd.main(command) == 0
    assert "exists already" in capsys.readouterr().err
    damaged = bytearray(content)
    image = read_idx(Path("t10k-images-idx3-ubyte"), IMAGES)[3].tobytes()
    damaged[content.index(image) + 300] ^= 1
    for harm in (bytes(damaged), content[: len(content) // 2]):
        (database / "data.mdb").write_bytes(harm)
        assert compose_kd.main(command) == 0
        assert "wrote dbs" in capsys.readouterr().err
        assert (database / "data.mdb").read_bytes() == content
    assert [path.name for path in Path("dbs").iterdir()] == [database.name]


@without_caffe
def test_net_for_caffe_with_databases_trains_as_the_composed_net(folder):
    idx = DATA.replace("digits", "t10k-images-idx3-ubyte").replace("LMDB", "IDX first: 3 count: 20")
    Path("student.prototxt").write_text(idx + STUDENT)
    outputs = ["-output", "net.prototxt", "-weights_output", "frozen.caffemodel"]
    assert compose_kd.main([*FOR_CAFFE, *outputs, "-databases", "dbs"]) == 0
    Path("plain.prototxt").write_text('net: "net.prototxt"' + RUN)
    expected, _ = losses("solver.prototxt")
    found, _ = losses("plain.prototxt", "frozen.caffemodel")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "to", "fact"),
    [
        (
            "temperature: 3",
            "temperature_schedule { point { value: 3 } }",
            "the plugin has no temperature_schedule",
        ),
        ("loss_weight: 0.7", "propagate_down: true propagate_down: true propagate_down: false",
         "gradient only to the student"),
        ('type: "EuclideanLoss"', 'type: "SmoothL1Loss"', "SmoothL1Loss"),
        ('top: "l2"', 'top: "l2" loss_weight_schedule { point { value: 1 } }', "fixed loss_weight"),
    ],
)  # fmt: skip
def test_net_for_caffe_with_what_caffe_lacks_is_an_error(folder, capsys, changed, to, fact):
    assert changed in DISTILLER
    Path("distiller.prototxt").write_text(DISTILLER.replace(changed, to))
    error = refused(capsys)
    assert "BVLC Caffe cannot train this net" in error
    assert "distiller.prototxt:" in error and fact in error


def test_net_for_caffe_names_all_that_is_in_the_way_at_once(folder, capsys):
    two = DISTILLER.replace("temperature: 3", "temperature_schedule { point { value: 3 } }")
    two = two.replace("Euclidean", "SmoothL1")
    Path("distiller.prototxt").write_text(two)
    error = refused(capsys)
    assert "layer 'kd'" in error and "layer 'l2'" in error


def test_net_for_caffe_with_a_mean_of_the_student_is_an_error(folder, capsys):
    Path("solver.prototxt").write_text(
        'net: "student.prototxt" teacher { name: "teacher" ema: 0.9 } '
        'distiller_net: "distiller.prototxt"' + RUN
    )
    error = refused(capsys)
    assert "the teacher 'teacher' is an average of the student (ema)" in error
    assert "frozen" not in error  # what we make of it is no mistake of the user's


def test_settings_of_the_solver_that_caffe_lacks_are_printed(folder, capsys):
    assert compose_kd.main(FOR_CAFFE) == 0
    assert "which it does not have" not in capsys.readouterr().err
    more = 'max_norm: 3 early_stopping { output: "accuracy" patience: 2 }'
    Path("solver.prototxt").write_text(SOLVER + RUN + more)
    assert compose_kd.main(FOR_CAFFE) == 0
    assert "without early_stopping, max_norm, which it does not have" in capsys.readouterr().err


def test_net_for_caffe_without_a_layers_weights_is_an_error(folder, capsys):
    net = load_net("teacher.prototxt")
    write_weights("teacher.caffemodel", net.param, {k: v for k, v in folder.items() if k != "bn1"})
    assert "layer 'teacher/bn1' (BatchNorm)" in refused(capsys)


def test_net_for_caffe_is_printed_with_the_next_steps_beside_it(folder, capsys):
    assert compose_kd.main(FOR_CAFFE) == 0
    captured = capsys.readouterr()
    printed = text.parse(captured.out, pb.NetParameter())
    assert [layer.type for layer in printed.layer].count("Python") == 4
    assert "caffe train -solver" in captured.err and "caffe_kd/plugin" in captured.err


ALL_OUTPUTS = [
    *("-output", "net.prototxt", "-weights_output", "frozen.caffemodel"),
    *("-solver_output", "plain.prototxt"),
]


@without_caffe
def test_solver_for_caffe_trains_as_the_one_it_comes_from(folder, capsys):
    more = 'max_norm: 100 early_stopping { output: "accuracy" patience: 2 } type: "Nesterov"'
    Path("solver.prototxt").write_text(SOLVER + RUN + more)
    assert compose_kd.main([*FOR_CAFFE, *ALL_OUTPUTS]) == 0
    assert "caffe train -solver plain.prototxt, without" in capsys.readouterr().err
    written = text.read("plain.prototxt", pb.SolverParameter())
    assert (written.net, list(written.weights)) == ("net.prototxt", ["frozen.caffemodel"])
    assert all(field.number < 51001 for field, _ in written.ListFields())
    expected, _ = losses("solver.prototxt")
    found, _ = losses("plain.prototxt")
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "lacking",
    [
        ["-weights_output", "w", "-solver_output", "s"],
        [*ALL_OUTPUTS, "-phase", "TRAIN"],
        [*ALL_OUTPUTS[:2], *ALL_OUTPUTS[4:]],
    ],
)
def test_solver_output_without_what_it_names_is_a_usage_error(folder, capsys, lacking):
    assert compose_kd.main([*FOR_CAFFE, *lacking]) == 2
    assert "-solver_output needs" in capsys.readouterr().err


def test_solver_for_caffe_with_another_test_net_is_an_error(folder, capsys):
    own = SOLVER.replace("net:", "train_net:", 1) + 'test_net: "student.prototxt"'
    Path("solver.prototxt").write_text(own + RUN)
    assert compose_kd.main([*FOR_CAFFE, *ALL_OUTPUTS]) == 1
    assert "test_net is not the composed net" in capsys.readouterr().err


def test_weights_output_without_for_is_a_usage_error(folder, capsys):
    arguments = ["-solver", "solver.prototxt", "-weights_output", "w.caffemodel"]
    assert compose_kd.main(arguments) == 2
    assert "-for caffe" in capsys.readouterr().err
