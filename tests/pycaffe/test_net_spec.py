from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

import caffe_kd as caffe
from caffe_kd import layers as L
from caffe_kd import params as P
from caffe_kd.core.errors import NetError
from caffe_kd.net import Net
from caffe_kd.pycaffe import net_spec
from tests.pycaffe.nets import write

pb = caffe.proto.caffe_pb2


def lenet() -> caffe.NetSpec:
    filler = {"type": "xavier"}
    n = caffe.NetSpec()
    n.data, n.label = L.DummyData(
        shape=[{"dim": [8, 1, 28, 28]}, {"dim": [8, 1, 1, 1]}], transform_param={}, ntop=2
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=filler)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=50, weight_filler=filler, name="first")
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, param=[{"lr_mult": 1}, {"lr_mult": 2}])
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label, loss_weight=0.5)
    return n


def test_lenet_comes_back_from_its_prototxt_and_is_built(tmp_path: Path) -> None:
    proto = lenet().to_proto()
    again = caffe.proto.caffe_pb2.NetParameter()
    path = write(tmp_path, str(proto))
    text_format.Merge(Path(path).read_text(), again)
    assert again == proto
    net = caffe.Net(path, caffe.TRAIN)
    assert [layer.type for layer in net.layers] == [
        *("DummyData", "Convolution", "Pooling", "InnerProduct", "ReLU", "InnerProduct"),
        "SoftmaxWithLoss",
    ]
    assert net.blobs["conv1"].data.shape == (8, 20, 24, 24)
    assert net.params["ip2"][0].data.shape == (10, 50)


def test_layers_have_names_bottoms_tops_and_parameters() -> None:
    layers = {layer.name: layer for layer in lenet().to_proto().layer}
    assert list(layers) == ["data", "conv1", "pool1", "first", "relu1", "ip2", "loss"]
    assert list(layers["data"].top) == ["data", "label"]
    assert [list(s.dim) for s in layers["data"].dummy_data_param.shape][0] == [8, 1, 28, 28]
    assert layers["data"].HasField("transform_param")
    conv = layers["conv1"].convolution_param
    assert (list(conv.kernel_size), conv.num_output, conv.weight_filler.type) == ([5], 20, "xavier")
    assert layers["pool1"].pooling_param.pool == pb.PoolingParameter.MAX
    assert list(layers["relu1"].bottom) == list(layers["relu1"].top) == ["ip1"]
    assert list(layers["ip2"].bottom) == ["ip1"]
    assert [spec.lr_mult for spec in layers["ip2"].param] == [1, 2]
    assert list(layers["loss"].bottom) == ["ip2", "label"]
    assert list(layers["loss"].loss_weight) == [0.5]


def test_tops_without_a_name_are_counted_by_type() -> None:
    data, label = L.DummyData(shape={"dim": [4, 3]}, ntop=2)
    ip = L.InnerProduct(data, num_output=2)
    accuracy = L.Accuracy(ip, label)
    loss = L.SoftmaxWithLoss(L.InnerProduct(ip, num_output=2), label)
    names = [layer.name for layer in caffe.to_proto(loss, accuracy).layer]
    assert names == [
        "DummyData1",
        "InnerProduct1",
        "InnerProduct2",
        "SoftmaxWithLoss1",
        "Accuracy1",
    ]
    assert [layer.type for layer in accuracy.to_proto().layer] == [
        "DummyData", "InnerProduct", "Accuracy",
    ]  # fmt: skip


def test_layer_without_tops_is_kept(tmp_path: Path) -> None:
    n = caffe.NetSpec()
    n.data, n.data2 = L.DummyData(shape={"dim": 3}, ntop=2)
    n.silence_data = L.Silence(n.data, ntop=0)
    n.silence_data2 = L.Silence(n.data2, ntop=0)
    net = caffe.Net(write(tmp_path, str(n.to_proto())), caffe.TRAIN)
    assert list(net.layer_dict) == ["data", "silence_data", "silence_data2"]
    assert not net.top_names["silence_data"]


def test_input_that_is_no_top_is_a_type_error() -> None:
    with pytest.raises(
        TypeError, match=r"^Convolution input 0 is not a Top \(type is <class 'str'>\)$"
    ):
        L.Convolution("data", kernel_size=5)
    n = caffe.NetSpec()
    n.pair = L.DummyData(shape={"dim": 3}, ntop=2)
    with pytest.raises(NetError, match="'pair' of the NetSpec must be one top"):
        n.to_proto()


def test_names_that_are_no_words_of_python_go_in_brackets() -> None:
    n = caffe.NetSpec()
    n["res2a/1x1"] = L.Input(shape={"dim": [1, 2]})
    n.relu = L.ReLU(n["res2a/1x1"])
    n.update("relu", {"negative_slope": 0.5})
    assert [layer.name for layer in n.to_proto().layer] == ["res2a/1x1", "relu"]
    assert n.to_proto().layer[1].relu_param.negative_slope == 0.5
    del n["relu"], n.tops["res2a/1x1"]
    assert not n.to_proto().layer
    with pytest.raises(AttributeError, match="no top 'relu'"):
        _ = n.relu


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"kernel_sise": 3}, "L.Convolution takes no 'kernel_sise'. Did you mean 'kernel_size'?"),
        ({"num_output": "many"}, "'num_output' of ConvolutionParameter cannot be set"),
        ({"weight_filler": {"kind": "xavier"}}, "FillerParameter has no field 'kind'"),
        ({"weight_filler": 3}, "'weight_filler' of ConvolutionParameter cannot be set"),
    ],
)
def test_wrong_parameter_is_reported(params: dict[str, object], words: str) -> None:
    top = L.Convolution(L.Input(shape={"dim": [1, 1, 4, 4]}), **params)
    with pytest.raises(NetError) as error:
        top.to_proto()
    assert words in str(error.value)


def test_parameters_of_numpy_and_messages_are_taken() -> None:
    filler = pb.FillerParameter(type="msra")
    conv = L.Convolution(
        num_output=np.int64(3), kernel_size=np.array([3, 5]), stride=(1, 2), weight_filler=filler,
        phase=np.int32(1), include={"phase": caffe.TEST},
    )  # fmt: skip
    layer = conv.to_proto().layer[0]
    assert layer.convolution_param.num_output == 3
    assert list(layer.convolution_param.kernel_size) == [3, 5]
    assert list(layer.convolution_param.stride) == [1, 2]
    assert layer.convolution_param.weight_filler == filler
    assert (layer.phase, layer.include[0].phase) == (1, 1)


def test_every_registered_type_takes_its_own_parameters() -> None:
    tried = 0
    for name, cls in caffe.layers.layer_types().items():
        given = {}
        if cls.param_field is not None:
            message = pb.LayerParameter.DESCRIPTOR.fields_by_name[cls.param_field].message_type
            plain = [f for f in message.fields if not f.is_repeated and f.message_type is None]
            given = {f.name: "x" if f.type == f.TYPE_STRING else 1 for f in plain[:1]}
        layer = getattr(L, name)(**given, ntop=0).to_proto().layer[0]
        assert layer.type == name
        for field, value in given.items():
            assert getattr(getattr(layer, cls.param_field), field) == value, (name, field)
            assert getattr(layer, cls.param_field).HasField(field), (name, field)
            tried += 1
    assert tried > 50


def test_distilling_loss_is_written_down_like_any_layer() -> None:
    n = caffe.NetSpec()
    n.student = L.Input(shape={"dim": [4, 10]})
    n.teacher = L.Input(shape={"dim": [4, 10]})
    n.kd = L.DistillingLoss(
        n.student, n.teacher, temperature=3, divergence=P.DistillingLoss.KL, loss_weight=2
    )
    net = Net(n.to_proto())
    assert net.loss_weights["kd"] == 2
    assert net.nodes[-1].layer.param.temperature == 3


def test_copy_of_a_spec_is_another_one() -> None:
    n = lenet()
    other = copy.deepcopy(n)
    other.conv1.fn.params["num_output"] = 3
    assert other.to_proto().layer[1].convolution_param.num_output == 3
    assert n.to_proto() == lenet().to_proto()


def test_a_deep_net_is_written_without_recursion() -> None:
    top = L.Input(shape={"dim": [1, 1]})
    for _ in range(3000):
        top = L.ReLU(top)
    assert len(top.to_proto().layer) == 3001


def test_param_name_dict_has_each_types_field() -> None:
    names = net_spec.param_name_dict()
    assert names["Pooling"] == "pooling"
    assert names["InnerProduct"] == "inner_product"
    assert names["DistillingLoss"] == "distilling_loss"


def test_assign_proto_gives_fields_python_values() -> None:
    layer = pb.LayerParameter()
    net_spec.assign_proto(layer, "name", "a")
    net_spec.assign_proto(layer, "top", "one")  # repeated, from a single value
    net_spec.assign_proto(layer, "top", ["two", "three"])
    net_spec.assign_proto(layer, "param", [{"lr_mult": 1}, {"lr_mult": 2, "decay_mult": 0}])
    net_spec.assign_proto(layer, "pooling_param", {"pool": P.Pooling.AVE, "kernel_size": 3})
    assert layer == pb.LayerParameter(
        name="a",
        top=["one", "two", "three"],
        param=[pb.ParamSpec(lr_mult=1), pb.ParamSpec(lr_mult=2, decay_mult=0)],
        pooling_param=pb.PoolingParameter(pool=pb.PoolingParameter.AVE, kernel_size=3),
    )
    with pytest.raises(NetError, match="LayerParameter has no field 'nam'. Did you mean 'name'"):
        net_spec.assign_proto(layer, "nam", "a")


def test_layers_is_the_folder_of_types_and_l_of_specs() -> None:
    assert caffe.layers is L
    assert issubclass(L.layer_types()["ReLU"], L.Layer)
    from caffe_kd.layers import ReLU, register  # noqa: F401

    assert ReLU(L.Input()).to_proto().layer[1].type == "ReLU"
    for name in ("__wrapped__", "relu_typo"):
        with pytest.raises(AttributeError):
            getattr(L, name)
    with pytest.raises(AttributeError, match="Did you mean 'Pooling'"):
        _ = P.Poolin
    with pytest.raises(AttributeError, match="begins with a capital"):
        _ = net_spec.layers.convolution


def test_spec_module_needs_no_torch() -> None:
    code = (
        "import sys; from caffe_kd.net_spec import layers as L, params as P, NetSpec\n"
        "n = NetSpec(); n.data = L.Input(shape=dict(dim=[1, 1, 4, 4]))\n"
        "n.pool = L.Pooling(n.data, kernel_size=2, pool=P.Pooling.AVE)\n"
        "assert n.to_proto().layer[1].pooling_param.pool == 1\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
