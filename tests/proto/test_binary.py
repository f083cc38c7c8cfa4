"""Weights, solver states and blobs: Caffe's files, all dialects, and hostile ones."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.core.errors import CaffeKDError, ParseError, WeightsError
from caffe_kd.proto import binary, caffe_pb2, wire

PROJECT = Path(__file__).parents[2]
GOLDEN = PROJECT / "tests" / "golden"
MODELS = PROJECT.parent / "shared" / "models"
SOLVERS = GOLDEN / "solvers"

GOLDEN_WEIGHTS = sorted(GOLDEN.glob("*/*.caffemodel"))
GOLDEN_STATES = sorted(SOLVERS.glob("*.solverstate"))


def stored(tmp_path, message, name="f.caffemodel"):
    path = tmp_path / name
    path.write_bytes(message if isinstance(message, bytes) else message.SerializeToString())
    return path


def small_net(diff=True):
    """A net whose layers surround the blobs with fields of lower and higher numbers."""
    net = caffe_pb2.NetParameter(name="small", force_backward=True)
    net.state.level = 3
    ip = net.layer.add(name="ip", type="InnerProduct", bottom=["data"], top=["ip"], phase=0)
    ip.param.add(name="w")
    ip.inner_product_param.num_output = 2
    net.layer.add(name="relu", type="ReLU")
    net.layer.add(name="bn", type="BatchNorm", propagate_down=[True])
    for name, shapes in {"ip": [(2, 3), (2,)], "bn": [(), (0, 4), (1, 130)]}.items():
        layer = next(layer for layer in net.layer if layer.name == name)
        for shape in shapes:
            blob = layer.blobs.add()
            values = np.arange(np.prod(shape), dtype=np.float32) / 7 - 1
            blob.data.extend(values)
            blob.shape.dim.extend(shape)
            if not shape:
                blob.ClearField("shape")
            if diff:
                blob.diff.extend(values * 2)
    return net


def arrays(net, field="data"):
    return {
        layer.name: [np.array(getattr(b, field), "f4").reshape(b.shape.dim) for b in layer.blobs]
        for layer in net.layer
    }


def without_blobs(net):
    copy = caffe_pb2.NetParameter.FromString(net.SerializeToString())
    for layer in copy.layer:
        layer.ClearField("blobs")
    return copy


def assert_equal_to_protobuf(path):
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())
    layers = list(net.layer) + list(net.layers)
    weights = binary.read_weights(path)
    assert [w.name for w in weights] == [layer.name for layer in layers]
    for layer, read in zip(layers, weights, strict=True):
        assert len(read.blobs) == len(read.legacy) == len(layer.blobs)
        for blob, array, legacy in zip(layer.blobs, read.blobs, read.legacy, strict=True):
            dims = [blob.num, blob.channels, blob.height, blob.width]
            assert legacy == blob.HasField("num")
            assert array.shape == tuple(dims if legacy else blob.shape.dim)
            assert array.dtype == np.float32
            assert np.array_equal(array.ravel(), np.array(blob.data, np.float32))
    return weights


# Reading weights


@pytest.mark.parametrize("path", GOLDEN_WEIGHTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_read_weights_of_caffe(path):
    weights = assert_equal_to_protobuf(path)
    assert any(w.blobs for w in weights)


@pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/models is absent")
def test_read_weights_of_2014_to_2020():
    legacy = 0
    for path in sorted(MODELS.glob("*/*.caffemodel")):
        weights = assert_equal_to_protobuf(path)
        legacy += any(any(w.legacy) for w in weights)
    assert legacy == 4  # those of 2014


def test_read_weights_of_v1_names_types(tmp_path):
    net = caffe_pb2.NetParameter()
    layer = net.layers.add(name="ip", type="INNER_PRODUCT")
    layer.blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    net.layers.add(name="none")
    fork = net.layers.add(name="fork").SerializeToString() + wire.number_field(5, 1000)
    own = wire.header(2, len(fork)) + fork
    (ip, none, _, other) = binary.read_weights(stored(tmp_path, net.SerializeToString() + own))
    assert (ip.type, ip.legacy, ip.blobs[0].shape) == ("INNER_PRODUCT", [True], (1, 1, 1, 2))
    assert (none.type, none.blobs, other.type) == ("NONE", [], "1000")


def test_read_weights_of_v0(tmp_path):
    net = caffe_pb2.NetParameter()
    v0 = net.layers.add(bottom=["data"]).layer
    v0.name, v0.type = "conv1", "conv"
    v0.blobs.add(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    (layer,) = binary.read_weights(stored(tmp_path, net))
    assert (layer.name, layer.type, layer.legacy) == ("conv1", "conv", [True])
    assert layer.blobs[0].tolist() == [[[[1, 2], [3, 4]]]]


def one_blob(tmp_path, blob):
    """Read a BlobProto as the only blob of layer x: the array, and whether its shape is legacy."""
    serialized = blob if isinstance(blob, bytes) else blob.SerializeToString()
    layer = wire.header(1, 1) + b"x" + wire.header(7, len(serialized)) + serialized
    (read,) = binary.read_weights(stored(tmp_path, wire.header(100, len(layer)) + layer))
    return read.blobs[0], read.legacy[0]


def test_blob_prefers_legacy_dims_and_doubles(tmp_path):
    blob = caffe_pb2.BlobProto(data=[1, 2], double_data=[3, 1e300], width=2, height=1, num=1)
    blob.channels = 1
    blob.shape.dim.extend([7])
    array, legacy = one_blob(tmp_path, blob)
    assert legacy and array.dtype == np.float32
    assert array.tolist() == [[[[3, np.inf]]]]


def test_blob_takes_absent_legacy_dims_for_zero(tmp_path):
    array, legacy = one_blob(tmp_path, caffe_pb2.BlobProto(num=5))
    assert legacy and array.shape == (5, 0, 0, 0)


@pytest.mark.parametrize("dims", [b"\x3a\x04\x08\x02\x08\x02", b"\x3a\x04\x0a\x02\x02\x02"])
def test_blob_in_pieces(tmp_path, dims):
    values = np.array([1, 2, 3, 4], "<f4")
    unpacked = b"".join(b"\x2d" + v.tobytes() for v in values)
    runs = b"".join(wire.header(5, 8) + values[i : i + 2].tobytes() for i in (0, 2))
    doubles = b"".join(b"\x41" + v.tobytes() for v in values.astype("<f8"))
    for pieces in (unpacked, runs, doubles):
        array, _ = one_blob(tmp_path, pieces + dims)
        assert array.tolist() == [[1, 2], [3, 4]]


def test_blob_survives_unknown_fields(tmp_path):
    blob = caffe_pb2.BlobProto(data=[1, 2])
    blob.shape.dim.append(2)
    unknown = wire.number_field(51, 9) + wire.header(52, 3) + b"abc" + b"\xad\x03abcd"
    array, _ = one_blob(tmp_path, unknown + blob.SerializeToString() + unknown)
    assert array.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([4], "layer 'x': blob 0 has the shape 4, which is 4 values. Received: 3 values"),
        ([], "has the shape , which is 1 values. Received: 3 values"),
        ([2**40], "has the shape 1099511627776"),
        ([-1, -3], "has the shape -1 -3"),
        ([1] * 33, "has the shape 1 1 1"),
        ([2**31 - 1] * 32, "Received: 3 values"),
    ],
)
def test_blob_with_other_count_names_the_layer(tmp_path, dims, message):
    blob = caffe_pb2.BlobProto(data=[1, 2, 3])
    blob.shape.dim.extend(dims)
    with pytest.raises(ParseError) as error:
        one_blob(tmp_path, blob)
    assert message in str(error.value)


def test_blob_without_values_but_beyond_any_array(tmp_path):
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend([0] + [2**31 - 1] * 3)
    with pytest.raises(ParseError, match="has the shape 0"):
        one_blob(tmp_path, blob)


def test_blob_that_ends_inside_a_value(tmp_path):
    with pytest.raises(ParseError, match="ends? inside a value"):
        one_blob(tmp_path, wire.header(5, 3) + b"abc")


def test_read_weights_arrays_leave_the_file_alone(tmp_path):
    path = stored(tmp_path, small_net())
    before = path.read_bytes()
    array = binary.read_weights(path)[0].blobs[0]
    array += 1
    assert path.read_bytes() == before
    assert binary.read_weights(path)[0].blobs[0][0, 0] == -1


def test_read_weights_outlives_a_replaced_file(tmp_path):
    path = stored(tmp_path, small_net())
    weights = binary.read_weights(path)
    other = arrays(small_net())
    other["ip"][0][:] = 9
    binary.write_weights(path, small_net(), other)
    assert weights[0].blobs[0][0, 0] == -1
    assert binary.read_weights(path)[0].blobs[0][0, 0] == 9


def test_read_weights_of_more_than_2_gib(tmp_path):
    count = 600_000_000  # 2.4 GB, which take no space: the file has a hole
    dims = wire.varint(count)
    shape = wire.header(1, len(dims)) + dims
    front = wire.header(5, 4 * count)
    back = wire.header(7, len(shape)) + shape
    blob = wire.header(7, len(front) + 4 * count + len(back))
    begin = wire.header(100, len(blob) + len(front) + 4 * count + len(back)) + blob + front
    path = tmp_path / "large.caffemodel"
    with open(path, "wb") as file:
        file.write(begin)
        file.seek(4 * count - 4, os.SEEK_CUR)
        file.write(np.float32(7).tobytes() + back)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("this file system has no holes")
    (layer,) = binary.read_weights(path)
    assert layer.blobs[0].shape == (count,)
    assert layer.blobs[0][-1] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'name: "LeNet"\nlayer { name: "x" }\n', "is not a caffemodel but text, such as a proto"),
        (b"\n\n# my net\nname: 'x'\n" * 20, "is not a caffemodel but text"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(50), "but a zip archive"),
        (b"\x0a\x03abc", "holds no layers"),
        (bytes(100), "at byte 0 there is no valid field"),
    ],
)
def test_read_weights_says_what_a_file_is_instead(tmp_path, content, message):
    with pytest.raises(ParseError) as error:
        binary.read_weights(stored(tmp_path, content))
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_readers_refuse_each_others_files(tmp_path):
    weights, state = SOLVERS / "init.caffemodel", SOLVERS / "adam_iter_6.solverstate"
    mean = GOLDEN / "data" / "mean.binaryproto"
    for read, own in [
        (binary.read_weights, weights),
        (binary.read_solver_state, state),
        (binary.read_blob, mean),
    ]:
        read(own)
        for other in {weights, state, mean} - {own}:
            with pytest.raises(ParseError, match="is not a"):
                read(other)


# Damage


def read_all(path):
    for read in (binary.read_weights, binary.read_solver_state, binary.read_blob):
        try:
            read(path)
        except ParseError:
            pass


def serialized():
    v1 = caffe_pb2.NetParameter(name="v1")
    v1.layers.add(name="a", type=4).blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    v1.layers.add().layer.blobs.add(double_data=[1])
    blob = caffe_pb2.BlobProto(data=range(40))
    blob.shape.dim.extend([40])
    state = caffe_pb2.SolverState(iter=300, learned_net="x.caffemodel", history=[blob] * 2)
    return [m.SerializeToString() for m in (small_net(), v1, blob, state)]


@pytest.mark.parametrize("whole", serialized(), ids=["current", "v1", "blob", "state"])
def test_truncation_at_any_byte_is_one_clear_error_or_fewer_layers(tmp_path, whole):
    path = tmp_path / "f"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        read_all(path)


def test_truncation_inside_a_layer_is_an_error(tmp_path):
    net = small_net()
    whole = net.SerializeToString()
    last = wire.header(100, net.layer[-1].ByteSize())
    begin = len(whole) - net.layer[-1].ByteSize() - len(last)
    for end in range(begin + 1, len(whole)):
        with pytest.raises(ParseError, match="truncated"):
            binary.read_weights(stored(tmp_path, whole[:end]))


@pytest.mark.parametrize("whole", serialized(), ids=["current", "v1", "blob", "state"])
def test_random_damage_is_one_clear_error_or_other_values(tmp_path, whole):
    path = tmp_path / "f"
    draw = random.Random(7)
    tracemalloc.start()
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3])):
            # The first bytes and the last are structure; the middle is mostly values.
            damaged[int(len(whole) * draw.choice([draw.random(), draw.random() ** 4]))] = (
                draw.choice([draw.randrange(256), 0xFF, 0x80, 0])
            )
        path.write_bytes(damaged)
        read_all(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20  # of files of 3 kB; one wrong length taken at its word would be more


def test_a_great_many_blobs_are_refused(tmp_path):
    layer = b"\x3a\x02\x08\x00" * 700_000  # empty ones, of 4 bytes here and far more as arrays
    path = stored(tmp_path, wire.header(100, len(layer)) + layer)
    with pytest.raises(ParseError, match="more than 200000 fields"):
        binary.read_weights(path)


# Writing weights


@pytest.mark.parametrize("diff", [False, True])
def test_write_weights_writes_protobufs_bytes(tmp_path, diff):
    net = small_net(diff)
    bare = without_blobs(net)
    bare.layer[0].source_line = "net.prototxt:3"
    path = tmp_path / "sub" / "out.caffemodel"
    binary.write_weights(path, bare, arrays(net), arrays(net, "diff") if diff else None)
    assert path.read_bytes() == net.SerializeToString()
    assert bare.layer[0].source_line == "net.prototxt:3"


@pytest.mark.parametrize("path", GOLDEN_WEIGHTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_write_weights_writes_caffes_bytes(tmp_path, path):
    net = without_blobs(caffe_pb2.NetParameter.FromString(path.read_bytes()))
    weights = {layer.name: layer.blobs for layer in binary.read_weights(path)}
    binary.write_weights(tmp_path / "copy", net, weights)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_write_weights_takes_any_layout_and_type(tmp_path):
    net = caffe_pb2.NetParameter()
    net.layer.add(name="a")
    values = np.arange(6, dtype=np.float64).reshape(3, 2).T
    binary.write_weights(tmp_path / "f", net, {"a": [values]})
    assert binary.read_weights(tmp_path / "f")[0].blobs[0].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_write_weights_that_fails_keeps_the_old_file(tmp_path):
    net = small_net()
    path = stored(tmp_path, net)
    before = path.read_bytes()
    wrong = arrays(net, "diff")
    wrong["bn"][2] = wrong["bn"][2].T
    for weights, diffs, message in [
        (arrays(net), wrong, r"layer 'bn': blob 2 needs a diff of its shape \(1, 130\)"),
        (arrays(net), {}, "Received: none"),
        ({"ip": [None]}, None, "layer 'ip': blob 0 is missing"),
    ]:
        with pytest.raises(WeightsError, match=message):
            binary.write_weights(path, net, weights, diffs)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", ["write_weights", "write_weights_hdf5"])
def test_write_weights_on_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, write):
    code = f"""
import resource, signal
import numpy as np
from caffe_kd.core.errors import CaffeKDError
from caffe_kd.proto import binary, caffe_pb2
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
net = caffe_pb2.NetParameter()
net.layer.add(name="a")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    binary.{write}({str(tmp_path / "w")!r}, net, {{"a": [np.zeros(100_000, "f4")]}})
except CaffeKDError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert f"{tmp_path / 'w'}: cannot be written: " in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_file_as_folder_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaffeKDError, match="cannot be written"):
        binary.write_weights(tmp_path / "file" / "x", small_net(), {})


# Solver states


@pytest.mark.parametrize("path", GOLDEN_STATES, ids=lambda p: p.stem)
def test_solver_state_of_caffe_is_read_and_written_back(tmp_path, path):
    expected = caffe_pb2.SolverState.FromString(path.read_bytes())
    state = binary.read_solver_state(path)
    assert (state.iter, state.current_step) == (6, expected.current_step)
    assert state.learned_net == expected.learned_net
    assert [h.shape for h in state.history] == [tuple(h.shape.dim) for h in expected.history]
    for read, blob in zip(state.history, expected.history, strict=True):
        assert np.array_equal(read.ravel(), np.array(blob.data, np.float32))
    binary.write_solver_state(tmp_path / "copy.solverstate", state)
    assert (tmp_path / "copy.solverstate").read_bytes() == path.read_bytes()


@pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/models is absent")
def test_solver_state_of_2014():
    path = next(MODELS.glob("lenet-v1-*/lenet_iter_10000.solverstate"))
    state = binary.read_solver_state(path)
    assert state.iter == 10000
    assert [h.ndim for h in state.history] == [4] * 8


def test_solver_state_without_or_with_negative_iter(tmp_path):
    for state in (caffe_pb2.SolverState(learned_net="x"), caffe_pb2.SolverState(iter=-6)):
        with pytest.raises(ParseError, match="its iter is missing, or iter or current_step is neg"):
            binary.read_solver_state(stored(tmp_path, state))


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_solver_state_keeps_paths_that_are_not_utf8(tmp_path, name):
    learned_net = os.fsdecode(b"caf\xe9/net \xc3\xa9.caffemodel")
    binary.write_solver_state(tmp_path / name, binary.SolverState(0, learned_net, [], 2))
    assert binary.read_solver_state(tmp_path / name) == binary.SolverState(0, learned_net, [], 2)


# Blobs


def test_blob_of_caffe_is_read_and_written_back(tmp_path):
    path = GOLDEN / "data" / "mean.binaryproto"
    blob = caffe_pb2.BlobProto.FromString(path.read_bytes())
    mean = binary.read_blob(path)
    assert mean.shape == (blob.num, blob.channels, blob.height, blob.width)
    assert np.array_equal(mean.ravel(), np.array(blob.data, np.float32))
    binary.write_blob(tmp_path / "copy", mean)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


SHAPES = [(), (3,), (2, 3, 4), (1, 2, 3, 4), (0, 1, 1, 1), (2, 1, 1, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_blob_of_any_shape_is_read_back(tmp_path, shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    binary.write_blob(tmp_path / "b", np.asarray(array))
    read = binary.read_blob(tmp_path / "b")
    assert read.shape == shape
    assert np.array_equal(read, array)


def test_import_loads_neither_torch_nor_h5py():
    code = "import caffe_kd.proto.binary, sys; print({'torch', 'h5py'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_weights_and_state_taken_for_one_another_are_named(tmp_path: Path, suffix: str) -> None:
    weights, state = tmp_path / f"n.caffemodel{suffix}", tmp_path / f"n.solverstate{suffix}"
    arrays = [np.ones((2, 3), np.float32), np.ones(2, np.float32)]
    write = binary.write_weights_hdf5 if suffix else binary.write_weights
    write(weights, small_net(), {"ip": arrays})
    binary.write_solver_state(state, binary.SolverState(10, str(weights), arrays, 0))
    with pytest.raises(ParseError, match=r"n.caffemodel.*: .*it holds weights: -snapshot wants"):
        binary.read_solver_state(weights)
    with pytest.raises(ParseError, match=r"n.solverstate.*it holds a solver state: -weights want"):
        binary.read_weights(state)


@pytest.mark.parametrize("content", [b"\x7a\x02ab", b"\x00\x01garbage"])
def test_file_of_neither_kind_is_not_taken_for_the_other(tmp_path: Path, content: bytes) -> None:
    path = stored(tmp_path, content)
    with pytest.raises(ParseError, match="is not a caffemodel"):
        binary.read_weights(path)
