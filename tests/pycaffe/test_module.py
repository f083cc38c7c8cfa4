from __future__ import annotations

import copy
import importlib
import io
import pickle
import re
import subprocess
import sys

import pytest
import torch
from google.protobuf import text_format

import caffe_kd as caffe
from caffe_kd.core.errors import UsageError

# The names of Caffe's module that are here and a few more, so that none gets lost.
NAMES = {
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Classifier",
    "Detector",
    "Layer",
    "NCCL",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "TEST",
    "TRAIN",
    "Timer",
    "__version__",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "pycaffe",
    "set_device",
    "set_exact_sums",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
}
MODULES = ("classifier", "coord_map", "detector", "draw", "io", "net_spec")


def test_all_has_caffes_names_and_every_name_is_there() -> None:
    assert NAMES <= set(caffe.__all__)
    assert len(set(caffe.__all__)) == len(caffe.__all__)
    assert dir(caffe) == sorted(caffe.__all__)
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None, name
    with pytest.raises(AttributeError, match="module 'caffe_kd' has no attribute 'Nett'"):
        _ = caffe.Nett


def test_version_is_the_packages() -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?\S*", caffe.__version__)


def test_import_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import caffe_kd as caffe, sys; dir(caffe); caffe.TEST, caffe.__version__; "
        "print({'torch', 'numpy', 'google.protobuf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_phases_are_those_of_the_schema() -> None:
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    assert caffe.proto.caffe_pb2.Phase.Name(caffe.TEST) == "TEST"


def test_caffe_pb2_works_with_protobufs_own_text_format() -> None:
    pb = importlib.import_module("caffe_kd.proto.caffe_pb2")
    net = pb.NetParameter()
    text_format.Merge('name: "n" layer { name: "a" type: "ReLU" bottom: "x" top: "x" }', net)
    assert net.layer[0].type == "ReLU"
    again = pb.NetParameter()
    again.ParseFromString(net.SerializeToString())
    assert text_format.MessageToString(again) == text_format.MessageToString(net)


def test_messages_are_there_as_soon_as_the_package_is() -> None:
    code = "import caffe_kd as caffe; print(caffe.proto.caffe_pb2.Datum(label=3).label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_messages_are_where_caffes_modules_have_them() -> None:
    for module in (caffe.io, caffe.draw, caffe.net_spec):
        assert module.caffe_pb2 is caffe.proto.caffe_pb2


def test_messages_are_copied_and_pickled() -> None:
    net = caffe.proto.caffe_pb2.NetParameter(name="n")
    net.layer.add(name="a", type="ReLU", bottom=["x"], top=["x"])
    assert pickle.loads(pickle.dumps(net)) == copy.deepcopy(net) == net


def test_classes_are_where_caffe_was_compiled() -> None:
    for name in caffe._caffe.__all__:
        assert getattr(caffe, name, None) in (None, getattr(caffe._caffe, name)), name
    assert "_caffe" not in caffe.__all__  # nor does Caffe's ``import *`` take it
    net_module = importlib.import_module("caffe_kd.pycaffe")
    assert net_module.Net is caffe.Net is caffe._caffe.Net
    assert issubclass(net_module.AdamSolver, caffe._caffe.Solver)


def test_layer_type_list_names_the_types() -> None:
    types = caffe.layer_type_list()
    assert {"Data", "Convolution", "Split", "SoftmaxWithLoss"} <= set(types)
    assert types == sorted(types)


def test_one_process_trains_alone_and_says_so() -> None:
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(False)
    for call in (
        lambda: caffe.set_solver_count(2),
        lambda: caffe.set_solver_rank(1),
        lambda: caffe.set_multiprocess(True),
        lambda: caffe.NCCL(None, ""),
        caffe.NCCL.new_uid,
    ):
        with pytest.raises(UsageError, match="one process"):
            call()


def test_mode_decides_where_nets_are_computed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_kd.pycaffe import mode

    caffe.set_mode_cpu()
    assert mode.device().type == "cpu"
    if torch.cuda.is_available():
        caffe.set_device(0)
        caffe.set_mode_gpu()
        assert mode.device() == torch.device("cuda", 0)
        caffe.set_mode_cpu()
        with pytest.raises(UsageError, match=r"set_device\(99\)"):
            caffe.set_device(99)
        return
    monkeypatch.setitem(mode._state, "fell_back", False)
    for _ in range(2):  # as solver_mode: GPU; said once
        caffe.set_device(0)
        caffe.set_mode_gpu()
    assert mode.device().type == "cpu"
    assert capsys.readouterr().err == "Use CPU. (set_device(0), but there is no CUDA device)\n"


def test_timer_measures_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    now += 0.25
    timer.stop()
    now += 3
    assert timer.ms == 250
    timer.start()
    now += 0.125
    assert timer.ms == 125  # asking stops it
    now += 3
    assert timer.ms == 125


def test_log_writes_a_line_from_the_level_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_kd.pycaffe.glog import LOG

    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(LOG, "level", None)
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
    caffe.log("one")
    monkeypatch.setenv("GLOG_minloglevel", "1")
    caffe.log("two")
    LOG.warning("three")
    caffe.init_log(0)
    caffe.log("four")
    caffe.init_log(1)
    caffe.log("not this")
    LOG.warning("five")
    caffe.init_log(2)
    LOG.warning("nor this")
    LOG.error("six")
    caffe.init_log(0, False)
    LOG.error("seven")
    lines = stream.getvalue().splitlines()
    assert [line.split("] ")[1] for line in lines] == ["one", "three", "four", "five", "six"]
    assert [line[0] for line in lines] == ["I", "W", "I", "W", "E"]


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_same_by_every_way_to_them(name: str) -> None:
    module = importlib.import_module(f"caffe_kd.{name}")
    assert module is getattr(caffe, name)
    assert module is importlib.import_module(f"caffe_kd.pycaffe.{name}")
    first = f"import caffe_kd.{name} as m, caffe_kd as c; print(m is c.{name})"
    done = subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("imports", ["", "import caffe_kd.logs.log", "caffe.Net"])
def test_log_can_be_called_whatever_was_imported_before(imports: str) -> None:
    code = f"import caffe_kd as caffe\n{imports}\ncaffe.log('hello')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.rstrip().endswith("] hello")
