"""The schema is the original's, wherever ours adds nothing, and lives in a pool of its own."""

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
    "V1LayerParameter.source_line": 51001,
    "SolverParameter.teacher": 51001,
    "SolverParameter.distiller_net": 51002,
    "SolverParameter.layer": 51003,
}
OWN_ENUM_VALUES = {"DataParameter.DB.IDX": 51001}
OWN_MESSAGES = {
    "TeacherParameter",
    "DistillingLossParameter",
    "SoftmaxWithTemperatureParameter",
    "LearningRateParameter",
}


def original_rows(kind):
    if not FACTS.exists():
        pytest.skip("../shared/caffe/schema.tsv, the original's schema as a table, is absent")
    with FACTS.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["kind"] == kind]


def default_text(field):
    """The default as the table writes it; an empty string and none at all are alike there."""
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


def test_fields_equal_the_original():
    expected = {(row["message"], row["field"]): row for row in original_rows("field")}
    assert len(expected) > 400  # the table was read
    ours = {}
    for message in our_messages().values():
        proto = descriptor_pb2.DescriptorProto()
        message.CopyToProto(proto)
        for field, field_proto in zip(message.fields, proto.field, strict=True):
            ours[message.full_name, field.name] = row_of(field, field_proto)
    assert {key: ours.get(key) for key in expected} == expected


def test_enums_equal_the_original():
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
        "caffe.DistillingLossParameter.Divergence"
    }


def test_whatever_the_original_lacks_is_ours():
    rows = original_rows("field")
    theirs = {f"{row['message']}.{row['field']}".removeprefix("caffe.") for row in rows}
    ours = {
        f"{m.name}.{f.name}"
        for m in our_messages().values()
        for f in m.fields
        if m.name not in OWN_MESSAGES
    }
    assert ours - theirs == OWN_FIELDS.keys()
    assert set(our_messages()) - {name.split(".")[0] for name in theirs} == OWN_MESSAGES


def test_own_fields_are_numbered_from_51001_up():
    above = {
        f"{m.name}.{f.name}": f.number
        for m in our_messages().values()
        for f in m.fields
        if f.number > LAST_OF_ORIGINAL
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


def test_every_message_and_own_field_has_a_comment():
    lines = PROTO.read_text(encoding="utf-8").splitlines()
    needs_comment = re.compile(r"message |enum |  (optional|repeated) .* = 510\d\d;")
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
    assert (file.syntax, file.package) == ("proto2", "p")
    a = file.message_type[0]
    assert [(v.name, v.number) for v in a.enum_type[0].value] == [("X", 0), ("Y", 7)]
    e, d, b, s, f = a.field
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
