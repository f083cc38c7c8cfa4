"""The schema is Caffe's, wherever ours adds nothing, and lives in a pool of its own."""

from __future__ import annotations

import copy
import csv
import pickle
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from caffe_kd.proto import caffe_pb2, schema

PROJECT = Path(__file__).parents[2]
FACTS = PROJECT.parent / "shared" / "caffe" / "schema.tsv"
PROTO = PROJECT / "caffe_kd" / "proto" / "caffe.proto"

FIRST_OWN = 51001
LAST_OF_ORIGINAL = 1002  # V1LayerParameter.blob_share_mode
OWN_FIELDS = {
    "LayerParameter.source_line": 51001,
    "LayerParameter.distilling_loss_param": 51002,
    "LayerParameter.softmax_with_temperature_param": 51003,
    "LayerParameter.lr_param": 51004,
    "LayerParameter.loss_weight_schedule": 51201,
    "LayerParameter.decoupled_distilling_loss_param": 51202,
    "LayerParameter.dist_loss_param": 51203,
    "LayerParameter.teacher_ensemble_param": 51204,
    "LayerParameter.class_map_param": 51205,
    "LossParameter.label_smoothing": 51206,
    "LayerParameter.ab_loss_param": 51221,
    "LayerParameter.crd_loss_param": 51222,
    "LayerParameter.factor_transfer_loss_param": 51223,
    "LayerParameter.hint_loss_param": 51226,
    "LayerParameter.sample_graph_loss_param": 51224,
    "LayerParameter.vid_loss_param": 51225,
    "LayerParameter.center_loss_param": 51010,
    "LayerParameter.tempsoftmax_param": 51011,
    "LayerParameter.reorg_param": 51030,
    "LayerParameter.upsample_param": 51031,
    "LayerParameter.bn_param": 51060,
    "BNParameter.scale_filler": 51061,
    "BNParameter.shift_filler": 51062,
    "BNParameter.bn_mode": 51063,
    "TransformationParameter.jitter": 51100,
    "SolverParameter.max_norm": 51110,
    "SolverParameter.refresh_statistics": 51111,
    "SolverParameter.pruning": 51131,
    "SolverParameter.slimming": 51132,
    "DataParameter.first": 51120,
    "DataParameter.count": 51121,
    "DataParameter.leave_out": 51122,
    "V1LayerParameter.source_line": 51001,
    "ForeignField.source_line": 51001,
    "SolverParameter.teacher": 51001,
    "SolverParameter.distiller_net": 51002,
    "SolverParameter.layer": 51003,
    "SolverParameter.student": 51020,
    "SolverParameter.inject": 51021,
    "SolverParameter.early_stopping": 51022,
    "SolverParameter.snapshot_best": 51023,
    "SolverParameter.lower_is_better": 51024,
    "LayerParameter.onnx_model_param": 51251,
    "LayerParameter.frozen": 51252,
    "SolverParameter.quantization": 51301,
    "QuantizationParameter.step_in": 51301,
    "QuantizationParameter.zero_in": 51302,
    "QuantizationParameter.step_params": 51303,
}
# With the number that a fork gave them.
FORK_FIELDS = {
    "LayerParameter.Knowledge_distillation_param": 162,
    "LayerParameter.detection_output_param": 204,
    "LayerParameter.interp_param": 163,
    "LayerParameter.knowledge_distillation_param": 1401,
    "LayerParameter.norm_param": 206,
    "LayerParameter.permute_param": 202,
    "LayerParameter.prior_box_param": 203,
    "LayerParameter.psroi_pooling_param": 10001,
    "LayerParameter.quantization_param": 158,
    "LayerParameter.relu6_param": 100000,
    "LayerParameter.roi_pooling_param": 8266711,
    "LayerParameter.shuffle_channel_param": 164,
    "LayerParameter.smooth_l1_loss_param": 8266712,
    "LayerParameter.softmax_temperature_param": 100005,
    "SoftmaxParameter.temperature": 3,
}
OWN_ENUM_VALUES = {"DataParameter.DB.IDX": 51001}
OWN_MESSAGES = {
    "TeacherParameter",
    "StudentParameter",
    "InjectParameter",
    "EarlyStoppingParameter",
    "ONNXModelParameter",
    "DistillingLossParameter",
    "ScheduleParameter",
    "SchedulePoint",
    "DecoupledDistillingLossParameter",
    "DISTLossParameter",
    "TeacherEnsembleParameter",
    "ClassMapParameter",
    "ClassGroup",
    "ForeignField",
    "SoftmaxWithTemperatureParameter",
    "LearningRateParameter",
    "BNParameter",
    "CenterLossParameter",
    "DetectionOutputParameter",
    "InterpParameter",
    "KnowledgeDistillationParameter",
    "NonMaximumSuppressionParameter",
    "NormalizeParameter",
    "PSROIPoolingParameter",
    "PermuteParameter",
    "PriorBoxParameter",
    "PruningParameter",
    "ROIPoolingParameter",
    "ReLU6Parameter",
    "ReorgParameter",
    "ResizeParameter",
    "SaveOutputParameter",
    "ShuffleChannelParameter",
    "SmoothL1LossParameter",
    "SoftmaxTemperatureParameter",
    "TempSoftmaxParameter",
    "UpsampleParameter",
    "ABLossParameter",
    "CRDLossParameter",
    "FactorTransferLossParameter",
    "HintLossParameter",
    "SampleGraphLossParameter",
    "VIDLossParameter",
    "QuantizationParameter",
    "QuantizationTrainingParameter",
}


def original_rows(kind):
    if not FACTS.exists():
        pytest.skip("../shared/caffe/schema.tsv, Caffe's schema as a table, is absent")
    with FACTS.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["kind"] == kind]


def default_text(field):
    """The default as the table writes it; there an empty string and none are equal."""
    if not field.has_default_value:
        return ""
    if field.enum_type:
        return field.enum_type.values_by_number[field.default_value].name
    return str(field.default_value)


def row_of(field, proto):
    """One of our fields as the table writes it."""
    of = field.message_type or field.enum_type
    return {
        "kind": "field",
        "message": field.containing_type.full_name,
        "field": field.name,
        "number": str(field.number),
        "label": proto.Label.Name(proto.label).removeprefix("LABEL_").lower(),
        "type": of.full_name if of else proto.Type.Name(proto.type).removeprefix("TYPE_").lower(),
        "default": default_text(field),
        "options": "packed" if proto.options.packed else "",
    }


def our_messages():
    return schema.descriptor().message_types_by_name


def our_enums():
    """Top-level and nested enums by full name."""
    nested = [e for m in our_messages().values() for e in m.enum_types]
    return {e.full_name: e for e in [*schema.descriptor().enum_types_by_name.values(), *nested]}


def test_fields_equal_caffe():
    expected = {(row["message"], row["field"]): row for row in original_rows("field")}
    assert len(expected) > 400  # the table was read
    ours = {}
    for message in our_messages().values():
        proto = descriptor_pb2.DescriptorProto()
        message.CopyToProto(proto)
        for field, field_proto in zip(message.fields, proto.field, strict=True):
            ours[message.full_name, field.name] = row_of(field, field_proto)
    assert {key: ours.get(key) for key in expected} == expected


def test_enums_equal_caffe():
    rows = original_rows("enum")
    assert len(rows) > 20
    for row in rows:
        expected = dict(pair.split("=") for pair in row["field"].split())
        enum = our_enums()[row["message"]]
        ours = {
            v.name: str(v.number)
            for v in enum.values
            if f"{row['message']}.{v.name}".removeprefix("caffe.") not in OWN_ENUM_VALUES
        }
        assert ours == expected, row["message"]
    assert our_enums().keys() - {row["message"] for row in rows} == {
        "caffe.DistillingLossParameter.Divergence",
        "caffe.DistillingLossParameter.HardSampleWeight",
        "caffe.ScheduleParameter.Policy",
        "caffe.TeacherEnsembleParameter.Mean",
        "caffe.HintLossParameter.Distance",
        "caffe.BNParameter.Engine",
        "caffe.BNParameter.BNMode",
        "caffe.PriorBoxParameter.CodeType",
        "caffe.PruningParameter.Policy",
        "caffe.PruningParameter.Scope",
        "caffe.ResizeParameter.Interp_mode",
        "caffe.ResizeParameter.Pad_mode",
        "caffe.ResizeParameter.Resize_mode",
        "caffe.QuantizationParameter.Precision",
        "caffe.QuantizationParameter.Rounding",
        "caffe.QuantizationTrainingParameter.Range",
    }


def test_whatever_caffe_lacks_is_ours():
    rows = original_rows("field")
    theirs = {f"{row['message']}.{row['field']}".removeprefix("caffe.") for row in rows}
    ours = {
        f"{m.name}.{f.name}"
        for m in our_messages().values()
        for f in m.fields
        if m.name not in OWN_MESSAGES and f.name != schema.FOREIGN
    }
    added = OWN_FIELDS.keys() | FORK_FIELDS.keys()
    assert ours - theirs == {name for name in added if name.split(".")[0] not in OWN_MESSAGES}
    assert set(our_messages()) - {name.split(".")[0] for name in theirs} == OWN_MESSAGES


def test_own_fields_are_numbered_from_51001_up():
    numbers = {
        f"{m.name}.{f.name}": f.number
        for m in our_messages().values()
        for f in m.fields
        if f.name != schema.FOREIGN
    }
    assert {name: numbers[name] for name in FORK_FIELDS} == FORK_FIELDS
    above = {
        name: number
        for name, number in numbers.items()
        if number > LAST_OF_ORIGINAL and name not in FORK_FIELDS
    }
    assert above == OWN_FIELDS
    values = {
        f"{name}.{v.name}".removeprefix("caffe."): v.number
        for name, e in our_enums().items()
        for v in e.values
        if v.number > LAST_OF_ORIGINAL
    }
    assert values == OWN_ENUM_VALUES
    assert min([*above.values(), *values.values()]) == FIRST_OWN


def test_every_message_has_room_for_the_fields_of_forks():
    for message in our_messages().values():
        field = message.fields_by_name.get(schema.FOREIGN)
        if message.name == "ForeignField":
            assert field is None
            continue
        assert (field.number, field.is_repeated) == (51080, True)
        assert field.message_type.name == "ForeignField"


def test_every_message_and_own_field_has_a_comment():
    lines = PROTO.read_text(encoding="utf-8").splitlines()
    needs_comment = re.compile(r"message |enum |  (optional|repeated) .* = 51\d\d\d\b")
    seen = 0
    for above, line in pairwise(lines):
        if needs_comment.match(line):
            seen += 1
            assert above.lstrip().startswith("//"), line
    assert seen == len(our_messages()) + len(["Phase"]) + len(OWN_FIELDS)


def test_defaults_are_caffes_where_a_field_is_unset():
    assert caffe_pb2.PoolingParameter().stride == 1
    assert caffe_pb2.BatchNormParameter().moving_average_fraction == pytest.approx(0.999)
    assert caffe_pb2.DataParameter().backend == caffe_pb2.DataParameter.LEVELDB
    assert caffe_pb2.SolverParameter().type == "SGD"
    assert caffe_pb2.SolverParameter().random_seed == -1
    assert caffe_pb2.NetState().phase == caffe_pb2.TEST
    assert not caffe_pb2.LossParameter().HasField("normalize")
    loss = caffe_pb2.DistillingLossParameter()
    assert (loss.temperature, loss.divergence, loss.axis) == (4.0, loss.KL, 1)
    assert loss.alpha == pytest.approx(0.9)


def test_enums_are_where_protoc_puts_them():
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1)
    assert caffe_pb2.Phase.Name(0) == "TRAIN"
    assert caffe_pb2.Phase.Value("TEST") == 1
    assert caffe_pb2.PoolingParameter.AVE == 1
    assert caffe_pb2.PoolingParameter.PoolMethod.Name(2) == "STOCHASTIC"
    assert caffe_pb2.V1LayerParameter.CONVOLUTION == 4
    assert caffe_pb2.V1LayerParameter.LayerType.Value("SOFTMAX_LOSS") == 21
    assert caffe_pb2.DESCRIPTOR.package == "caffe"


def test_unknown_message_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NetParameters"):
        _ = caffe_pb2.NetParameters


def test_wire_bytes_are_caffes():
    # NetParameter { name(1): "n"  layer(100) { name(1): "ip"  type(2): "InnerProduct"
    #                inner_product_param(117) { num_output(1): 10 } } }
    layer = b"\x0a\x02ip" + b"\x12\x0cInnerProduct" + b"\xaa\x07\x02\x08\x0a"
    data = b"\x0a\x01n" + b"\xa2\x06" + bytes([len(layer)]) + layer
    net = caffe_pb2.NetParameter.FromString(data)
    assert net.layer[0].type == "InnerProduct"
    assert net.layer[0].inner_product_param.num_output == 10
    assert net.SerializeToString() == data


def test_repeated_numbers_are_read_packed_and_unpacked():
    packed, unpacked = b"\x0a\x02\x03\x04", b"\x08\x03\x08\x04"
    for data in (packed, unpacked):
        assert list(caffe_pb2.BlobShape.FromString(data).dim) == [3, 4]
    assert caffe_pb2.BlobShape(dim=[3, 4]).SerializeToString() == packed


def test_unknown_fields_survive_a_round_trip():
    known = caffe_pb2.LayerParameter(name="kd", type="KnowledgeDistillation").SerializeToString()
    number, of_bytes = 1401, 2  # knowledge_distillation_param of a public fork
    tag = (number << 3) | of_bytes
    unknown = bytes([tag & 0x7F | 0x80, tag >> 7]) + b"\x05\x0d\x00\x00\x80\x40"  # temperature: 4
    layer = caffe_pb2.LayerParameter.FromString(known + unknown)
    assert layer.name == "kd"
    assert layer.SerializeToString() == known + unknown

    net = caffe_pb2.NetParameter(layer=[layer])
    net = caffe_pb2.NetParameter.FromString(net.SerializeToString())
    assert net.layer[0].SerializeToString() == known + unknown
    assert copy.deepcopy(net).layer[0].SerializeToString() == known + unknown


ORIGINAL = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
for name in ("NetParameter", "LayerParameter"):
    file.message_type.add(name=name).field.add(name="name", number=1, label=1, type=9)
net = file.message_type[0]
net.field.add(name="layer", number=100, label=3, type=11, type_name=".caffe.LayerParameter")
descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
find = descriptor_pool.Default().FindMessageTypeByName
Theirs = message_factory.GetMessageClass(find("caffe.NetParameter"))
"""
OURS = """
from caffe_kd.proto import caffe_pb2
"""
BOTH_WORK = """
assert Theirs.DESCRIPTOR.full_name == caffe_pb2.NetParameter.DESCRIPTOR.full_name
assert [f.name for f in Theirs.DESCRIPTOR.fields] == ["name", "layer"]
theirs = Theirs(name="net")
theirs.layer.add(name="conv1")
ours = caffe_pb2.NetParameter.FromString(theirs.SerializeToString())
assert (ours.name, ours.layer[0].name) == ("net", "conv1")
ours.layer[0].type = "Convolution"
again = Theirs.FromString(ours.SerializeToString())
assert again.layer[0].name == "conv1"
assert again.SerializeToString() == ours.SerializeToString()
print("both work")
"""


@pytest.mark.parametrize("order", [ORIGINAL + OURS, OURS + ORIGINAL], ids=["after", "before"])
def test_import_beside_another_caffe_in_the_default_pool(order):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", order + BOTH_WORK],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("both work\n", "", 0)


def test_import_leaves_the_default_pool_alone():
    script = """
import caffe_kd.proto.caffe_pb2
from google.protobuf import descriptor_pool
try:
    descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")
except KeyError:
    print("absent")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "absent\n"


def test_messages_can_be_pickled():
    net = caffe_pb2.NetParameter(name="net", layer=[caffe_pb2.LayerParameter(name="conv1")])
    assert caffe_pb2.NetParameter.__module__ == "caffe_kd.proto.caffe_pb2"
    back = pickle.loads(pickle.dumps(net))
    assert back == net
    assert type(back) is caffe_pb2.NetParameter


def test_parse_reads_every_construct_of_its_language():
    file = schema.parse(
        """
        syntax = "proto2";  // a comment with "quotes; and {braces}"
        package p;
        message A {
          enum E { X = 0; Y = 7; }
          required E e = 1 [default = Y];
          repeated double d = 2 [packed = true];
          optional B b = 3;
          optional string s = 4 [default = "a//b"];
          optional float f = 5 [default = -1.5e-3];
        }
        message B {}
        """,
        name="p.proto",
    )
    schema.complete(file)
    assert (file.syntax, file.package) == ("proto2", "p")
    a = file.message_type[0]
    assert [(v.name, v.number) for v in a.enum_type[0].value] == [("X", 0), ("Y", 7)]
    e, d, b, s, f, kept = a.field
    assert (kept.name, kept.type_name) == ("foreign", ".caffe.ForeignField")
    assert (e.label, e.type_name, e.default_value) == (e.LABEL_REQUIRED, ".p.A.E", "Y")
    assert (e.type, b.type) == (e.TYPE_ENUM, b.TYPE_MESSAGE)
    assert d.options.packed
    assert b.type_name == ".p.B"
    assert (s.default_value, f.default_value) == ("a//b", "-1.5e-3")


@pytest.mark.parametrize(
    "text",
    [
        "message A { optional int32 x = 1;",  # the block does not end
        "message A { optional int32 x = 1 }",  # no semicolon
        "message A { reserved 3; }",
        "message A { oneof o { int32 x = 1; } }",
        "message A { optional int32 x = 1 [deprecated = true]; }",
        "/* another kind of comment */ message A {}",
        "enum E { X = 0; ",
        'import "other.proto";',
    ],
)
def test_parse_refuses_what_it_does_not_know(text):
    with pytest.raises(ValueError):
        schema.parse(text)
