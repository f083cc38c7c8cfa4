"""The doctor as a whole: what it reads, what it survives, what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from caffe_kd.analysis.shape_inference import infer_shapes
from caffe_kd.data.image_file import encode_image
from caffe_kd.doctor.examine import examine
from caffe_kd.doctor.findings import NET_CHECKS, TARGET_CHECKS
from caffe_kd.doctor.report import as_dict, as_text, short
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_blob
from tests.doctor.examining import INPUT, IP, LOSS, NET, SOLVER, found, report_of, write

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "prototxt").rglob("*.prototxt"))
SHARED = ROOT.parent / "shared"
DATA = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { TRANSFORM }
  data_param { source: "gone" batch_size: 4 } }
"""


def test_every_check_has_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    checks = [*NET_CHECKS, *TARGET_CHECKS]
    assert len(checks) > 50
    assert [check.name for check in checks if f'"{check.name}"' not in tests] == []


def test_checks_have_names_of_their_own_and_say_what_to_do() -> None:
    checks = [*NET_CHECKS, *TARGET_CHECKS]
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.why.endswith(".") and check.do.endswith(".") for check in checks)
    assert all(check.run.__doc__ for check in checks)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_examples_have_no_errors(path: Path) -> None:
    report = examine(path)
    assert [f.occurrence for f in report.findings if f.occurrence.severity == "error"] == []


@pytest.mark.parametrize("folder", ["golden/corpus", "models", "article"])
def test_files_of_many_authors_are_survived(folder: Path) -> None:
    files = sorted((SHARED / folder).rglob("*.prototxt"))
    if not files:
        pytest.skip(f"../shared/{folder}, prototxts from public repositories, is absent")
    from caffe_kd.python_layers import user_code

    with user_code.forbidden():
        for path in [p for p in files if p.name.count(".") == 1][::3]:
            report = examine(path)
            assert list(as_text(report))
            json.dumps(as_dict(report))


@pytest.mark.parametrize(
    ("content", "words", "line"),
    [
        ('layer {\n blobs { nmae: "x" } }', "BlobProto has no field named 'nmae'", 2),
        ('layer { name: "a" }\nlayers { name: "b" }', "Refusing to upgrade inconsistent", 2),
        ("", "holds neither a net nor a solver", None),
    ],
)
def test_file_that_cannot_be_read_is_a_finding(
    tmp_path: Path, content: str, words: str, line: int | None
) -> None:
    path = write(tmp_path, broken=content)
    (finding,) = report_of(path).findings
    assert finding.check.name == "cannot_be_read"
    assert finding.occurrence.severity == "error"
    assert words in finding.occurrence.what
    assert finding.occurrence.where == (f"{path}:{line}" if line else str(path))


def test_net_is_examined_in_the_phases_it_has_data_for(tmp_path: Path) -> None:
    only_train = NET.replace('name: "in"', 'name: "in" include { phase: TRAIN }')
    report = report_of(write(tmp_path, net=only_train))
    assert list(report.costs) == ["TRAIN"]
    assert report.count("error") == 0
    assert list(report_of(write(tmp_path, net=NET)).costs) == ["TRAIN", "TEST"]


def test_layers_behind_one_that_fails_are_left_out_and_the_others_looked_at(tmp_path: Path) -> None:
    broken = f"""{INPUT}
      layer {{ name: "bad" type: "InnerProduct" bottom: "data" top: "bad" }}
      layer {{ name: "r" type: "ReLU" bottom: "bad" top: "bad" }}
      {IP}{LOSS}"""
    report = report_of(write(tmp_path, net=broken))
    assert [row.name for row in report.costs["TEST"].rows] == ["in", "ip", "loss"]
    errors = [f.occurrence.what for f in report.findings if f.occurrence.severity == "error"]
    assert errors == [
        "layer 'bad' (InnerProduct): num_output must be at least 1. Received: none, as in the "
        "last layer of nets of DIGITS, which fills in the number of classes when it trains"
    ]


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ("crop_size: 9", "Assumed: 3 x 9 x 9, from crop_size, supposing three colours"),
        ("crop_size: 9 force_gray: true", "Assumed: 1 x 9 x 9, from crop_size, in grey"),
        ("crop_size: 9 mean_value: 1 mean_value: 2", "Assumed: 2 x 9 x 9, from crop_size and"),
        ('mean_file: "mean.binaryproto"', "Assumed: 3 x 7 x 5, from the mean_file"),
        ('mean_file: "mean.binaryproto" crop_size: 4', "Assumed: 3 x 4 x 4, from the mean_file"),
        ("", "No shape can be assumed"),
    ],
)
def test_absent_datas_shape_is_supposed_from_the_settings(
    tmp_path: Path, transform: str, words: str
) -> None:
    write_blob(tmp_path / "mean.binaryproto", np.zeros((1, 3, 7, 5), np.float32))
    path = write(tmp_path, net=DATA.replace("TRANSFORM", transform) + IP + LOSS)
    (occurrence,) = found(path, "data_absent")
    assert words in occurrence[1]


IMAGES = """layer { name: "d" type: "ImageData" top: "data" top: "label"
  transform_param { TRANSFORM } image_data_param { source: "list.txt" batch_size: 2 } }
"""


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ("crop_size: 64", ["larger than the image", "crop_size: 64, an image of 40 x 36"]),
        (
            'mean_file: "mean.binaryproto"',
            ["mean.binaryproto: ", "(3, 30, 30), images of (3, 40, 36)"],
        ),
    ],
)
def test_images_that_do_not_fit_are_an_error_with_both_sizes(
    tmp_path: Path, transform: str, words: list[str]
) -> None:
    write_blob(tmp_path / "mean.binaryproto", np.zeros((1, 3, 30, 30), np.float32))
    (tmp_path / "p.png").write_bytes(encode_image(np.zeros((3, 40, 36), np.uint8), "png"))
    (tmp_path / "list.txt").write_text("p.png 0\n")
    path = write(tmp_path, net=IMAGES.replace("TRANSFORM", transform) + IP + LOSS)
    report = report_of(path)
    (error,) = [f.occurrence.what for f in report.findings if f.occurrence.severity == "error"]
    assert all(word in error for word in words)
    assert not found(path, "data_absent")


def test_absent_list_and_absent_image_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, net=IMAGES.replace("TRANSFORM", "crop_size: 9") + IP + LOSS)
    (occurrence,) = found(path, "data_absent")
    assert "list.txt: no such file" in occurrence[1] and "Assumed: 3 x 9 x 9" in occurrence[1]
    (tmp_path / "list.txt").write_text("gone/p.png 0\n")
    (occurrence,) = found(path, "data_absent")
    assert "list.txt:1: Could not load gone/p.png: no such file" in occurrence[1]


@pytest.mark.parametrize("backend", ["", "backend: LMDB", "backend: LEVELDB", "backend: IDX"])
def test_windows_path_of_absent_data_says_that_it_holds_a_tab(tmp_path: Path, backend: str) -> None:
    net = DATA.replace("TRANSFORM", "crop_size: 9").replace('"gone"', rf'"D:\train" {backend}')
    occurrences = [f.occurrence for f in report_of(write(tmp_path, net=net + IP + LOSS)).findings]
    assert [occurrence.severity for occurrence in occurrences] == ["error"]
    assert r'holds a tab: in a prototxt "\t" stands for it' in occurrences[0].what


def test_shape_of_records_can_be_reported(tmp_path: Path) -> None:
    path = write(tmp_path, net=DATA.replace("TRANSFORM", "") + IP + LOSS)
    for name in ("data", ""):
        report = report_of(path, shapes={name: (2, 3, 4)})
        assert report.costs["TRAIN"].rows[0].tops == [(4, 2, 3, 4), (4,)]
        assert report.count("warning") == 0
    inputs = write(tmp_path, inputs=NET)
    assert report_of(inputs, shapes={"data": (1, 2, 2)}).costs["TEST"].rows[0].tops[0] == (
        4,
        1,
        2,
        2,
    )


def test_crop_larger_than_the_image_is_an_error(tmp_path: Path) -> None:
    from caffe_kd.data.backends.idx import write_idx

    write_idx(tmp_path / "x-images-idx3-ubyte", np.zeros((4, 8, 8), np.uint8))
    write_idx(tmp_path / "x-labels-idx1-ubyte", np.zeros(4, np.uint8))
    net = DATA.replace("TRANSFORM", "crop_size: 9").replace('"gone"', '"x-images-idx3-ubyte"')
    path = write(tmp_path, net=net.replace("batch_size", "backend: IDX batch_size") + IP + LOSS)
    ((severity, what),) = found(path, "cannot_be_built")
    assert severity == "error"
    assert "crop_size is larger than the image. Received: crop_size: 9" in what


def test_blob_of_another_stage_is_named_with_the_stage(tmp_path: Path) -> None:
    staged = NET.replace('name: "ip"', 'name: "ip" include { stage: "a" }')
    ((severity, what), *_) = found(write(tmp_path, net=staged), "cannot_be_built")
    assert severity == "error" and "layer 'ip' does, only in stage 'a' (-stage a)" in what


def test_stages_choose_layers(tmp_path: Path) -> None:
    staged = NET.replace('name: "loss"', 'name: "loss" include { stage: "a" }')
    path = write(tmp_path, net=staged)
    assert found(path, "never_included") == [
        (
            "note",
            "layer 'loss' (SoftmaxWithLoss) is in no phase: only in stage 'a' (-stage a)",
        )
    ]
    assert found(path, "never_included", stages=["a"]) == []


def test_layer_type_of_a_user_that_fails_in_any_way_is_reported(tmp_path: Path) -> None:
    from caffe_kd.layers import Layer, base, register

    @register("Exploding")
    class Exploding(Layer):
        def setup(self, bottom_shapes):
            raise KeyError("no such thing")

    try:
        net = NET + 'layer { name: "e" type: "Exploding" bottom: "ip" top: "e" }'
        ((severity, what),) = found(write(tmp_path, net=net), "cannot_be_built")
        assert severity == "error"
        assert what.startswith("layer 'e' (Exploding): setup of Exploding failed at ")
        assert what.endswith("(in setup): KeyError: 'no such thing'")
    finally:
        del base._REGISTRY["Exploding"]


def test_parameters_take_no_memory(tmp_path: Path) -> None:
    param = text.parse(NET, pb.NetParameter())
    net = infer_shapes(param, pb.TEST, None).net
    assert net is not None
    assert [tuple(p.blob.shape) for p in net.params] == [(5, 243), (5,)]
    assert all(p.blob.is_meta for p in net.params)


def test_text_groups_by_check_and_counts(tmp_path: Path) -> None:
    pools = "".join(
        f"""layer {{ name: "p{i}" type: "Pooling" bottom: "data" top: "p{i}"
          pooling_param {{ kernel_size: 2 stride: 2 }} }}\n"""
        for i in range(12)
    )
    path = write(tmp_path, net=f'name: "n"\n{INPUT}{pools}')
    lines = list(as_text(report_of(path)))
    assert lines[0] == f"{path}: net"
    assert lines.count("note: ceil_pooling (numbers)") == 1
    assert (
        f"  {path}:4: layer 'p0' (Pooling): 9 x 9 becomes 5 x 5; rounding down gives 4 x 4" in lines
    )
    assert "  and 2 more (doctor -json lists all)" in lines
    assert any(line.startswith("  Why: Caffe rounds the output size up.") for line in lines)
    assert lines[-1] == "0 errors, 0 warnings, 12 notes"
    assert any(line.startswith("TRAIN and TEST: 0 parameters") for line in lines)


def test_dict_holds_findings_and_costs(tmp_path: Path) -> None:
    path = write(tmp_path, solver=SOLVER, net=NET)
    report = json.loads(json.dumps(as_dict(report_of(path))))
    assert report["kind"] == "solver"
    assert report["counts"] == {"error": 0, "warning": 0, "note": 1}
    (finding,) = report["findings"]
    assert finding["check"] == "no_test"
    assert finding["where"] == str(path)
    cost = report["costs"]["TRAIN"]
    assert cost["parameters"] == cost["learned"] == 1220
    assert [layer["name"] for layer in cost["layers"]] == ["in", "ip", "loss"]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 "), (999, "999 "), (1000, "1 k"), (1.43e9, "1.43 G"), (5e15, "5e+03 T")],
)
def test_counts_are_shortened(value: float, words: str) -> None:
    assert short(int(value)) == words


def test_nets_of_one_file_are_all_examined_and_one_without_data_is_a_part(tmp_path: Path) -> None:
    student = f'name: "student"\n{IP}{LOSS}'
    path = write(tmp_path, both=NET.replace('"n"', '"teacher"') + student)
    assert found(path, "part_of_a_net") == [
        ("note", "net 'student' has neither data nor inputs of its own")
    ]
    assert report_of(path).count("error") == 0
