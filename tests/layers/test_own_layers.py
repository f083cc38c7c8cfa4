"""Layer types of a user's own: their block of settings, and errors in their code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from caffe_kd.cli.main import main
from caffe_kd.core.errors import NetError
from caffe_kd.layers import Layer, base, register
from caffe_kd.net import Net, read_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text, user_blocks
from caffe_kd.proto.upgrade import upgrade_net
from caffe_kd.pycaffe.net_spec import NetSpec, layers

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
TIMES = "message TimesParameter { optional float factor = 1 [default = 3]; }"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    yield


def net_of(prototxt: str) -> Net:
    param = text.parse(INPUT + prototxt, pb.NetParameter(), "net.prototxt")
    return Net(upgrade_net(param, "net.prototxt"), pb.TRAIN)


def times() -> type[Layer]:
    @register("Times", message=TIMES)
    class Times(Layer):
        """Multiply."""

        def forward(self, x):
            return self.param.factor * x

    return Times


LAYER = 'layer { name: "t" type: "Times" bottom: "x" top: "y" times_param { factor: 2 } }'


def test_block_of_its_own_is_read_and_has_defaults() -> None:
    assert times().param_field == "times_param"
    for prototxt, factor in ((LAYER, 2), (LAYER.replace("factor: 2", ""), 3)):
        net = net_of(prototxt)
        net({"x": torch.ones(2, 3)})
        assert net.blobs["y"].tolist() == [[factor] * 3] * 2


def test_block_is_written_as_it_was_read_in_text_and_binary() -> None:
    times()
    param = text.parse(LAYER, pb.NetParameter())
    text.clear_source_lines(param)
    assert "times_param {\n    factor: 2.0\n  }" in text.to_text(param)
    again = text.parse(str(param), pb.NetParameter())  # as protobuf itself writes it
    assert text.to_text(again) == text.to_text(param)
    back = pb.NetParameter()
    back.ParseFromString(param.SerializeToString())
    assert text.to_text(back) == text.to_text(param)


def test_process_without_the_type_keeps_its_block_in_text_and_binary(tmp_path: Path) -> None:
    times()
    (tmp_path / "net.prototxt").write_text(INPUT + LAYER)
    net = text.read(tmp_path / "net.prototxt", pb.NetParameter())
    (tmp_path / "net.bin").write_bytes(net.SerializeToString())
    program = (
        "from pathlib import Path\n"
        "from caffe_kd.proto import caffe_pb2 as pb, text\n"
        "net = text.read('net.prototxt', pb.NetParameter())\n"
        "text.write('text.prototxt', net)\n"
        "Path('text.bin').write_bytes(net.SerializeToString())\n"
        "net = pb.NetParameter()\n"
        "net.ParseFromString(Path('net.bin').read_bytes())\n"
        "Path('bin.bin').write_bytes(net.SerializeToString())\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    back = pb.NetParameter()
    back.ParseFromString((tmp_path / "bin.bin").read_bytes())
    assert text.to_text(back) == text.to_text(net)
    kept = pb.NetParameter()
    kept.ParseFromString((tmp_path / "text.bin").read_bytes())
    for param in (read_net(tmp_path / "text.prototxt"), kept):
        built = Net(param, pb.TRAIN)
        assert built.nodes[1].layer.param.factor == 2


def test_number_of_a_block_follows_from_its_name_alone() -> None:
    # Written in files: it may never change.
    assert user_blocks.number_of("my_loss_param") == 445024208
    assert user_blocks.FIRST <= user_blocks.number_of("times_param") <= user_blocks.LAST


def test_block_of_a_fork_is_read_as_its_users_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_fields", "_texts"):  # other tests do not know the block
        monkeypatch.setattr(user_blocks, table, dict(getattr(user_blocks, table)))

    @register(
        "Transpose",
        param="transpose_param",
        message="message AxesParameter { repeated int32 dim = 1; }",
    )
    class Transpose(Layer):
        def forward(self, x):
            return x.permute(*self.param.dim)

    net = net_of(
        'layer { name: "t" type: "Transpose" bottom: "x" top: "y"\n'
        " transpose_param { dim: 1 dim: 0 } }"
    )
    assert net.shapes["y"] == (3, 2)


def test_block_uses_fillers_enums_schedules_and_messages_of_its_own() -> None:
    name = user_blocks.define(
        "message RichParameter { enum Mode { A = 0; B = 1; } optional Mode mode = 1 [default = B];"
        " optional FillerParameter weight_filler = 2; repeated Inner inner = 3;"
        " optional ScheduleParameter mode_schedule = 4; optional Phase phase = 5; }"
        " message Inner { optional int32 n = 1; }"
    )
    layer = text.parse(
        'rich_param { weight_filler { type: "xavier" } inner { n: 4 } phase: TEST }',
        pb.LayerParameter(),
    )
    field = user_blocks.field_of(pb.LayerParameter.DESCRIPTOR, name)
    param = user_blocks.value_of(layer, field)
    assert (param.mode, param.weight_filler.type, param.inner[0].n) == (param.B, "xavier", 4)


def test_unknown_field_in_a_users_block_is_refused_with_its_place() -> None:
    times()
    with pytest.raises(NetError, match=r"net.prototxt:2: layer 't' \(Times\): .*mean 'factor'"):
        net_of(LAYER.replace("factor", "facto"))


def test_net_spec_takes_the_settings() -> None:
    times()
    net = NetSpec()
    net.x = layers.Input(shape={"dim": [2, 3]})
    net.y = layers.Times(net.x, factor=5)
    written = str(net.to_proto())
    assert "factor: 5" in text.to_text(text.parse(written, pb.NetParameter()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"message": ""}, "expects 'message NameParameter { ... }'"),
        ({"message": "message Times { }"}, "its name must end in Parameter"),
        ({"message": "message ZParameter { float a = 1; }"}, "unexpected 'float'"),
        ({"message": "message ZParameter { optional foo a = 1; }"}, "there is no type 'foo'"),
        ({"message": "message ZParameter { optional int32 a = 1; optional int32 b = 1; }"}, ""),
        ({"message": "message PoolingParameter { }"}, "'pooling_param' is a field of"),
        ({"message": "message ZParameter { }", "param": "a b"}, "expects the name of a block"),
        ({"param": "nonesuch_param"}, "has no field 'nonesuch_param': describe the block"),
    ],
)
def test_block_that_cannot_be_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError) as error:
        register("Wrong", **options)(Layer)
    assert words in str(error.value)


def test_second_block_of_a_name_is_refused_unless_it_is_the_same() -> None:
    assert user_blocks.define(TIMES) == user_blocks.define(TIMES)
    with pytest.raises(ValueError, match="'times_param' is already defined, with other text"):
        user_blocks.define(TIMES.replace("3", "4"))


def test_two_names_with_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    user_blocks.define(TIMES)
    monkeypatch.setattr(
        user_blocks, "number_of", lambda _: user_blocks._fields["times_param"].number
    )
    with pytest.raises(ValueError, match="'twin_param' and 'times_param' have the same number"):
        user_blocks.define("message TwinParameter { }")


# ---- errors in a user's code


FAULTY = """import torch
from caffe_kd.layers import Layer, register
from caffe_kd.layers.loss.loss import axis_of_same_logits

class Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2
    @staticmethod
    def backward(ctx, grad):
        raise KeyError("in backward")

@register("Faulty")
class Faulty(Layer):
    is_loss = True
    def setup(self, bottom_shapes):
        if self.name == "setup":
            [][1]
        if self.name == "settings":
            axis_of_same_logits(self, *bottom_shapes, *bottom_shapes)
    def top_shapes(self, bottom_shapes):
        return [()] if self.name != "count" else [(), ()]
    def forward(self, x):
        if self.name == "forward":
            x.no_such_thing
        return Explode.apply(x).sum()
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_prefix: "out"
solver_mode: CPU random_seed: 1
"""
DATA = 'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 3 } } }'


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("setup", "setup of Faulty failed at mine.py:18 (in setup): IndexError: "),
        ("forward", "forward of Faulty failed at mine.py:25 (in forward): AttributeError: "),
        ("backward", "backward of Faulty failed at mine.py:11 (in backward): KeyError: "),
        ("settings", "its settings are asked for, but the type has none: register it with param="),
        ("count", "its forward makes a different number of tops. Received: makes=2"),
    ],
)
def test_error_in_a_users_layer_names_layer_type_place_and_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAULTY)
    Path("solver.prototxt").write_text(SOLVER)
    Path("net.prototxt").write_text(
        f'{DATA}\nlayer {{ name: "ip" type: "InnerProduct" bottom: "d" top: "ip"\n'
        " inner_product_param { num_output: 2 } }\n"
        f'layer {{ name: "{name}" type: "Faulty" bottom: "ip" top: "loss" }}\n'
    )
    assert main(["train", "-solver", "solver.prototxt", "-layers", "mine.py", "-no_progress"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"net.prototxt:4: layer '{name}' (Faulty): {words}" in last


def test_error_keeps_its_class_for_a_script() -> None:
    @register("Failing")
    class Failing(Layer):
        def setup(self, bottom_shapes):
            raise KeyError("x")

    with pytest.raises(KeyError):
        net_of('layer { name: "f" type: "Failing" bottom: "x" top: "y" }')


def test_error_in_a_layer_of_ours_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("caffe_kd.layers.activation.neurons.ReLU.setup", fail)
    with pytest.raises(KeyError) as error:
        net_of('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    assert not isinstance(error.value, NetError)


# ---- the example, and entry points

EXAMPLE = Path(__file__).parents[2] / "tools" / "examples" / "own_layer"


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    for file in EXAMPLE.glob("*.*"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.chdir(tmp_path)

    def call(*words: str, layers: bool = True) -> str:
        monkeypatch.setattr(base, "_REGISTRY", dict(before))
        assert main([*words, *(("-layers", "own_layers.py") if layers else ())]) == 0
        return capsys.readouterr().out

    before = dict(base._REGISTRY)
    return call


def test_example_trains_resumes_exports_and_is_explained(run: Callable[..., str]) -> None:
    train = ("train", "-solver", "solver.prototxt", "-no_progress")
    run(*train)
    weights = Path("out/own_iter_40.caffemodel")
    first = weights.read_bytes()
    run(*train, "-snapshot", "out/own_iter_20.solverstate")
    assert weights.read_bytes() == first
    explained = run("explain_kd", "-solver", "solver.prototxt")
    assert "loss = mean of (d^2 / 2 where |d| < delta" in explained
    assert "with delta = 0.5" in explained
    model = ("-model", "net.prototxt", "-weights", str(weights), "-output", "own.onnx")
    assert "ONNX Runtime and the net agree" in run("export_onnx", *model)
    import onnx

    assert [n.op_type for n in onnx.load("own.onnx").graph.node][-3:] == ["Div", "Tanh", "Mul"]
    run("make_deploy", "-model", "net.prototxt", "-output", "deploy.prototxt", layers=False)
    assert "soft_clip_param {\n    limit: 2" in Path("deploy.prototxt").read_text()


def test_example_is_documented(run: Callable[..., str]) -> None:
    described = run("layers", "SoftClip")
    assert described.startswith("SoftClip, from own_layers.py. Bottoms: 1. Tops: 1. In ONNX: own")
    assert "soft_clip_param { limit: 2 }" in described
    limit = "  optional float limit = 1 [default = 6]\n      The bound that the values approach"
    assert limit in described
    assert "message SoftClipParameter\n  optional float limit" in run("fields", "soft_clip_param")


def test_installed_package_brings_types_by_an_entry_point(tmp_path: Path) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[caffe_kd.layers]\na = own_layers\nb = nonesuch\n")
    (tmp_path / "own_layers.py").write_text((EXAMPLE / "own_layers.py").read_text())
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from caffe_kd.cli.main import main\n"
        "sys.exit(main(['layers', 'SoftClip']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "soft_clip_param:" in done.stdout
    assert "entry point 'b' (nonesuch) are missing: ModuleNotFoundError" in done.stderr
