"""Nets written as PyTorch code, run where caffe_kd cannot be imported."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from caffe_kd.cli.to_torch import main
from caffe_kd.core.errors import ExportError
from caffe_kd.export.deploy import deploy
from caffe_kd.export.pipeline import load_all_weights
from caffe_kd.export.torch_code import to_torch
from caffe_kd.export.torch_emitters import EMITTERS
from caffe_kd.layers import base
from caffe_kd.net import Net, load_net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import write_weights
from tests.export.written import Inputs, Written, randomized
from tests.helpers import inputs_text, make_net

MODELS = Path(__file__).parents[3] / "shared" / "models"


def conv(name: str, bottom: str, kernel: int = 3, more: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: 4 kernel_size: {kernel} "
        f"pad: {kernel // 2} {more} }} }}\n"
    )


def in_place(name: str, types: str) -> str:
    return "".join(
        f'layer {{ name: "{name}/{kind}" type: "{kind}" bottom: "{name}" top: "{name}" }}\n'
        for kind in types.split()
    )


NETS = {
    "names": """
name: "5 nets; \\"\\"\\" import this\\n"
layer { name: "data" type: "Input" top: "self" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "forward" type: "InnerProduct" bottom: "self" top: "a/b" param { name: "w" }
  inner_product_param { num_output: 3 } }
layer { name: "class" type: "ReLU" bottom: "a/b" top: "a/b" }
layer { name: "a.b" type: "InnerProduct" bottom: "a/b" top: "a b" param { name: "w" }
  inner_product_param { num_output: 3 } }
layer { name: "a-b\\n" type: "InnerProduct" bottom: "a b" top: "torch" param { name: "w" }
  inner_product_param { num_output: 3 transpose: true } }
layer { name: "1a" type: "TanH" bottom: "torch" top: "1a" }
layer { name: "" type: "TanH" bottom: "1a" top: "\\303\\251" }
layer { name: "training" type: "TanH" bottom: "\\303\\251" top: "'\\"F" }
""",
    # Its class would be that of a helper.
    "scale": 'name: "scale"\n' + inputs_text((2, 3)) + 'layer { name: "Scale" type: "Scale" '
    'bottom: "x0" top: "load" scale_param { bias_term: true } }',
    "inception": inputs_text((2, 3, 9, 9))
    + conv("a", "x0", 1)
    + in_place("a", "ReLU")
    + """
layer { name: "p" type: "Pooling" bottom: "x0" top: "p"
  pooling_param { kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "joined" type: "Concat" bottom: "a" bottom: "p" bottom: "a" top: "joined" }
layer { name: "drop" type: "Dropout" bottom: "joined" top: "joined" }
layer { name: "ip" type: "InnerProduct" bottom: "joined" top: "ip"
  inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
""",
    "resnet": inputs_text((2, 4, 8, 8))
    + conv("branch1", "x0")
    + in_place("branch1", "BatchNorm Scale ReLU")
    + conv("branch2", "branch1", 3, "bias_term: false")
    + in_place("branch2", "BatchNorm Scale")
    + 'layer { name: "res" type: "Eltwise" bottom: "x0" bottom: "branch2" top: "res" }\n'
    + in_place("res", "ReLU"),
    "one name for two": inputs_text((2, 3, 8, 8))
    + "".join(
        f'layer {{ name: "pool" type: "Pooling" bottom: "{bottom}" top: "{top}" '
        f"pooling_param {{ pool: {pool} kernel_size: 2 stride: 2 }} }}\n"
        for bottom, top, pool in (("x0", "a", "MAX"), ("a", "b", "AVE"))
    ),
    "mobilenet": inputs_text((2, 4, 8, 8))
    + conv("conv1/dw", "x0", 3, "group: 4 stride: 2 bias_term: false")
    + in_place("conv1/dw", "BatchNorm Scale ReLU6")
    + conv("conv1/sep", "conv1/dw", 1),
    "segnet": inputs_text((2, 4, 8, 6))
    + 'layer { name: "pool" type: "Pooling" bottom: "x0" top: "pool" top: "mask" '
    "pooling_param { kernel_size: 2 stride: 2 } }\n"
    + conv("inner", "pool")
    + 'layer { name: "up" type: "Upsample" bottom: "inner" bottom: "mask" top: "up" '
    "upsample_param { scale: 2 } }",
    "two inputs, two outputs": inputs_text((2, 3), (2, 3))
    + 'layer { name: "both" type: "Eltwise" bottom: "x0" bottom: "x1" top: "both" }\n'
    'layer { name: "z" type: "Sigmoid" bottom: "both" top: "z" }\n'
    'layer { name: "a" type: "TanH" bottom: "both" top: "a" }',
    "shared statistics": inputs_text((2, 3, 4, 4))
    + "".join(
        f'layer {{ name: "bn{i}" type: "BN" bottom: "x0" top: "bn{i}" '
        + "".join(f'param {{ name: "{word}" }} ' for word in ("slope", "bias", "mean", "var"))
        + "}\n"
        for i in (1, 2)
    ),
    "parameter": inputs_text((2, 3))
    + 'layer { name: "p" type: "Parameter" top: "p" param { name: "w" } '
    "parameter_param { shape { dim: 3 } } }\n"
    'layer { name: "y" type: "Bias" bottom: "x0" bottom: "p" top: "y" }\n'
    'layer { name: "z" type: "Bias" bottom: "y" top: "z" param { name: "w" } }',
}
SHUFFLED = (
    inputs_text((2, 4, 3, 3)) + 'layer { name: "s" type: "ShuffleChannel" bottom: "x0" top: "s" '
    "shuffle_channel_param { group: 2 } }"
)
LANGUAGE = (
    'layer { name: "words" type: "Input" top: "words" top: "cont" '
    "input_param { shape { dim: 4 dim: 3 } } }\n"
    'layer { name: "embed" type: "Embed" bottom: "words" top: "embed" '
    "embed_param { input_dim: 9 num_output: 5 } }\n"
    'layer { name: "lstm" type: "LSTM" bottom: "embed" bottom: "cont" top: "lstm" '
    "recurrent_param { num_output: 6 } }\n"
    'layer { name: "rnn" type: "RNN" bottom: "lstm" bottom: "cont" top: "rnn" '
    "recurrent_param { num_output: 4 } }\n"
    'layer { name: "ip" type: "InnerProduct" bottom: "rnn" top: "ip" '
    "inner_product_param { num_output: 9 axis: 2 } }"
)
TRAIN_TEST = (
    """name: "student"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 3 dim: 6 dim: 6 } shape { dim: 8 } } }
"""
    + conv("conv", "data")
    + """
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" include { phase: TRAIN } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
layer { name: "soft" type: "SoftmaxWithTemperature" bottom: "fc" top: "soft"
  include { phase: TRAIN } }
layer { name: "teacher/fc" type: "InnerProduct" bottom: "data" top: "teacher/fc"
  inner_product_param { num_output: 5 } }
layer { name: "distill" type: "DistillingLoss" bottom: "fc" bottom: "teacher/fc" bottom: "label"
  top: "distill" include { phase: TRAIN } }
"""
)


def batches(net: Net) -> list[Inputs]:
    """Draw inputs at the net's batch, and with one sample more."""
    torch.manual_seed(2)
    shapes = [net.shapes[name] for name in net.inputs]
    return [[torch.randn(s[0] + more, *s[1:]) for s in shapes] for more in (0, 1)]


def sentences(steps: int, streams: int) -> list[Tensor]:
    shape = steps, streams
    return [torch.randint(0, 9, shape).float(), (torch.rand(shape) > 0.3).float()]


def real_models() -> dict[str, tuple[Path, Path]]:
    pairs = {
        "lenet": "lenet-ethereon/lenet lenet-ethereon/lenet_iter_10000",
        "lenet_of_2014": "lenet-v1-everpeace-2014/lenet lenet-v1-everpeace-2014/lenet_iter_10000",
        "cifar10_quick": "cifar10-v1-everpeace-2014/cifar10_quick "
        "cifar10-v1-everpeace-2014/cifar10_quick_iter_5000",
        "cifar10_full": "cifar10-v1-everpeace-2014/cifar10_full "
        "cifar10-v1-everpeace-2014/cifar10_full_iter_70000",
        **{
            f"det{i}": f"mtcnn-kpzhang93-2016/det{i} mtcnn-kpzhang93-2016/det{i}" for i in (1, 2, 3)
        },
    }
    files = {name: pair.split() for name, pair in pairs.items()}
    return {
        n: (MODELS / f"{m}.prototxt", MODELS / f"{w}.caffemodel") for n, (m, w) in files.items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """All nets and their modules; one process runs all modules."""
    result = Written(tmp_path_factory.mktemp("written"))
    for name, prototxt in NETS.items():
        net = randomized(make_net(prototxt))
        result.add(name.replace(", ", "_"), net, batches(net))
    torch.manual_seed(2)
    calls = [sentences(4, 3), sentences(2, 3), sentences(3, 5), sentences(1, 5)]
    result.add("language", randomized(make_net(LANGUAGE)), calls)
    for name, (model, weights) in real_models().items():
        if model.is_file():
            write(result.path(name), model, weights)
            net = load_net(model)
            load_all_weights(net, weights)
            result.ask(name, net, batches(net))
    result.run()
    return result


def write(path: Path, model: Path, weights: Path) -> None:
    words = ["-model", str(model), "-weights", str(weights), "-output", str(path)]
    assert main(words) == 0


@pytest.mark.parametrize("name", NETS)
def test_written_module_has_the_outputs_of_the_net(name: str, written: Written) -> None:
    written.check(name.replace(", ", "_"))


def test_written_sequences_go_on_from_call_to_call_as_the_net_s(written: Written) -> None:
    written.check("language")


@pytest.mark.parametrize("name", real_models())
def test_written_model_has_the_outputs_of_the_net(name: str, written: Written) -> None:
    if name not in written.ours:
        pytest.skip(f"{MODELS} is not here")
    written.check(name)


def test_train_test_net_is_written_in_its_deployed_form(tmp_path: Path) -> None:
    model, weights = tmp_path / "student.prototxt", tmp_path / "student.caffemodel"
    model.write_text(TRAIN_TEST)
    write_weights(weights, read_net(model), randomized(load_net(model)).weights())
    result = Written(tmp_path)
    write(result.path("student"), model, weights)
    net = Net(deploy(read_net(model), model), pb.TEST, model)
    load_all_weights(net, weights)
    assert (net.inputs, net.outputs) == (["data"], ["fc"])
    result.ask("student", net, batches(net))
    result.run()
    result.check("student")
    source = result.path("student").read_text()
    assert "Input data: (N, 3, 6, 6)\nOutput fc: (N, 5)" in source
    assert "    def forward(self, data: Tensor) -> Tensor:" in source


def test_module_reads_as_a_person_would_write_it() -> None:
    source = to_torch(make_net(NETS["inception"])).source
    assert "    self.a = nn.Conv2d(3, 4, kernel_size=1)  # net.prototxt:2 a (Convolution)" in source
    assert "    p = self.p(x0)\n" in source
    assert "    joined = torch.cat([a, p, a], dim=1)  # net.prototxt:7 joined (Concat)\n" in source
    assert "    return prob\n" in source


def test_written_clip_has_a_gradient_at_its_bounds(tmp_path: Path) -> None:
    clip = 'layer { type: "Clip" bottom: "x0" top: "y" clip_param { min: -1 max: 2 } }'
    path = tmp_path / "limit.py"
    path.write_text(to_torch(make_net('name: "Limit"' + inputs_text((1, 5)) + clip)).source)
    limit = runpy.run_path(str(path))["Limit"]()
    x = torch.tensor([[-1.5, -1.0, 0.5, 2.0, 2.5]], requires_grad=True)
    y = limit(x)
    y.sum().backward()
    assert y.tolist() == [[-1, -1, 0.5, 2, 2]]
    assert x.grad.tolist() == [[0, 1, 1, 1, 0]]


def test_helper_classes_are_written_once_and_only_where_needed() -> None:
    source = to_torch(make_net(LANGUAGE)).source
    for name in ("Recurrent", "LSTM", "RNN", "Embed"):
        assert source.count(f"\nclass {name}(") == 1
    assert "class Scale" not in source


def test_module_imports_what_it_uses() -> None:
    plain = to_torch(make_net(NETS["two inputs, two outputs"])).source
    assert "import torch\n" not in plain and "as F" not in plain
    joined = to_torch(make_net(NETS["inception"])).source
    assert "import torch\n" in joined and "as F" not in joined
    assert "import torch.nn.functional as F\n" in to_torch(make_net(SHUFFLED)).source


def test_names_stay_apart_and_are_python_s() -> None:
    source = to_torch(make_net(NETS["names"])).source
    made = ["forward_2", "class_2", "a_b", "a_b_2", "n1a", "n", "training_2"]
    assert [line.split()[0] for line in source.splitlines() if " = nn." in line] == [
        f"self.{name}" for name in made
    ]
    assert "class n5_nets_import_this(nn.Module):" in source
    assert "class Scale_2(nn.Module):" in to_torch(make_net(NETS["scale"])).source


def test_shared_parameter_stays_one_parameter() -> None:
    source = to_torch(make_net(NETS["names"])).source
    assert "self.a_b.weight = self.forward_2.weight" in source
    # The transposed one is another parameter, even where the values are the same.
    assert "self.a_b_2.weight =" not in source
    assert "self.z.bias = self.p" in to_torch(make_net(NETS["parameter"])).source
    source = to_torch(make_net(NETS["shared statistics"])).source
    assert "self.bn2.running_var = self.bn1.running_var" in source


def test_layers_without_a_form_are_all_listed_with_what_to_do() -> None:
    net = make_net(
        inputs_text((2, 3, 5, 5))
        + """layer { name: "c" type: "Convolution" bottom: "x0" top: "c"
  convolution_param { num_output: 2 kernel_size: 1 axis: 2 } }
layer { name: "fine" type: "ReLU" bottom: "c" top: "c" }
layer { name: "i" type: "Im2col" bottom: "c" top: "i"
  convolution_param { kernel_size: 1 axis: 2 } }"""
    )
    with pytest.raises(ExportError) as caught:
        to_torch(net)
    message = str(caught.value)
    assert "net.prototxt:2: layer 'c' (Convolution): channels must lie along axis 1" in message
    assert "net.prototxt:5: layer 'i' (Im2col): the bottom must be (N, C, H, W)" in message
    assert "(ReLU)" not in message
    assert "Types that can: AbsVal, ArgMax, Axpy, BN, BNLL," in message
    assert "export_onnx may be able to export the net" in message


PYTHON_LAYER = """
import caffe

class Twice(caffe.Layer):
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data
"""
OWN_TYPE = """
from caffe_kd.layers import Layer, register

@register("Thrice")
class Thrice(Layer):
    def forward(self, x):
        return 3 * x
"""
OWN_EMITTER = """
from caffe_kd.export.torch_emitters import Code, emits

@emits("Thrice")
def thrice(step, bottoms):
    return Code(f"3 * {bottoms[0]}")
"""


def net_of(folder: Path, layer: str) -> list[str]:
    """Write a net of one layer, without weights, and return the flags that name it."""
    body = inputs_text((2, 3)) + f'layer {{ name: "l" bottom: "x0" top: "y" {layer} }}'
    (folder / "n.prototxt").write_text(body)
    param = pb.NetParameter(name="n")
    param.layer.add(name="l")
    write_weights(folder / "n.caffemodel", param, {})
    files = {"model": "n.prototxt", "weights": "n.caffemodel", "output": "written.py"}
    return [word for name, file in files.items() for word in (f"-{name}", str(folder / file))]


def test_python_layer_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice_layer.py").write_text(PYTHON_LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    words = net_of(tmp_path, 'type: "Python" python_param { module: "twice_layer" layer: "Twice" }')
    assert main([*words, "-python_layers"]) == 1
    error = capsys.readouterr().err
    assert "n.prototxt:2: layer 'l' (Python): its code cannot be exported" in error
    assert "-outputs " in error
    assert "give its tops as inputs" in error


@pytest.fixture
def own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register a type and an emitter that are gone after it."""
    for registry in (base._REGISTRY, EMITTERS):
        monkeypatch.setitem(registry, "Thrice", None)
        monkeypatch.delitem(registry, "Thrice")


def test_own_type_is_written_by_its_own_emitter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_types: None
) -> None:
    words = net_of(tmp_path, 'type: "Thrice"')
    (tmp_path / "own.py").write_text(OWN_TYPE)
    assert main([*words, "-layers", str(tmp_path / "own.py")]) == 1
    error = capsys.readouterr().err
    assert "(Thrice): the type has no emitter. Register one beside the type" in error
    (tmp_path / "emitter.py").write_text(OWN_EMITTER)
    assert main([*words, "-layers", str(tmp_path / "emitter.py")]) == 0
    assert "y = 3 * x0  # n.prototxt:2 l (Thrice)" in (tmp_path / "written.py").read_text()


def test_output_that_is_no_python_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-model", "a.prototxt", "-weights", "a.caffemodel", "-output", "a.onnx"]
    monkeypatch.chdir(tmp_path)
    Path("a.prototxt").write_text("")
    assert main(words) == 1
    assert "NAME.py. Received: a.onnx" in capsys.readouterr().err
