from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf import text_format

from caffe_kd.core.errors import ParseError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text

ROOT = Path(__file__).parents[2]
OWN = sorted((ROOT / "prototxt").rglob("*.prototxt"))
CORPUS = ROOT.parent / "shared" / "golden" / "corpus"


def net_of(prototxt: str):
    return text.parse(prototxt, pb.NetParameter(), "net.prototxt")


def layer_of(prototxt: str):
    return text.parse(prototxt, pb.LayerParameter(), "net.prototxt")


def error_of(prototxt: str, kind=pb.NetParameter) -> str:
    with pytest.raises(ParseError) as error:
        text.parse(prototxt, kind(), "net.prototxt")
    return str(error.value)


def assert_as_protobuf(prototxt: str, message) -> None:
    """Protobuf's own reader must make the same message of it."""
    text.clear_source_lines(message)
    assert message == text_format.Parse(prototxt, type(message)())


# ---- what is read


@pytest.mark.parametrize(
    "prototxt",
    [
        'name: "a" # a comment\n# name: "b"\n',
        "name: 'single' layer { name: 'b' }",
        'layer < name: "a" bottom: "x" >',
        'layer: { name: "a" }',
        'name: "a"; layer { name: "b", type: "c"; },',
        'layer { bottom: ["a", "b"] top: [] }',
        'layer [ { name: "a" }, < name: "b" > ]',
        "input_dim: [1, 3, 0x10, 010]",
        'name: "adjacent" " strings" \' join\'\n"ed"',
        r'name: "\n\t\r\a\b\f\v\\\"\'"',
        r'name: "\x41\102\303\251"',
        'name: "é — 漢字"',
        "force_backward: true debug_info: 0",
        "force_backward: t debug_info: False",
        "layer { phase: TEST dropout_param { dropout_ratio: .5 } }",
        "layer { phase: 1 dropout_param { dropout_ratio: 5.f } }",
        "layer { power_param { power: -1.5e-3 scale: 1E+2 shift: -3 } }",
        "layer { power_param { power: inf scale: -inf shift: 2F } }",
        "layer { power_param { power: 16 scale: -Infinity shift: 1e400 } }",
        "layer { crop_param { axis: -1 } relu_param { } }",
        "input_shape { dim: 9223372036854775807 dim: -9223372036854775808 }",
        "",
        "\r\n\tname:\r\n'x'\r\n",
    ],
)
def test_text_means_what_protobuf_takes_it_for(prototxt):
    assert_as_protobuf(prototxt, net_of(prototxt))


def test_octets_of_a_byte_string_are_kept():
    datum = text.parse(r'data: "\001\xff\0é"', pb.Datum())
    assert datum.data == b"\x01\xff\x00" + "é".encode()


def test_what_only_caffes_reader_takes_is_read_too():
    param = layer_of(r'name: "\?" power_param { power: - 3 scale: 0x10 }')
    assert (param.name, param.power_param.power, param.power_param.scale) == ("?", -3, 16)


def test_nan_is_read():
    value = layer_of("power_param { power: nan }").power_param.power
    assert value != value


def test_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'\xef\xbb\xbfname: "a"')
    assert text.read(path, pb.NetParameter()).name == "a"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_lines_end_and_letters_are_encoded_as_systems_do(tmp_path, encoding, end):
    path = tmp_path / "net.prototxt"
    lines = ["# 全部学生", 'name: "a"', "", 'layer { type: "ReLU" }']
    path.write_bytes(end.join(lines).encode(encoding))
    net = text.read(path, pb.NetParameter())
    assert net.name == "a"
    assert net.layer[0].source_line == f"{path}:4"
    assert text.locate(path, "type") == f"{path}:4"


def test_long_tokens_cost_little(tmp_path):
    long = "n" * 3_000_000
    assert net_of(f'name: "{long}"').name == long
    assert net_of(f'name: "{chr(92)}n{long}{chr(92)}n"').name == f"\n{long}\n"
    assert net_of('name: "' + r"\n" * 1_000_000 + '"').name == "\n" * 1_000_000
    assert "at most" in error_of(f'name: "{long}{long}"')
    assert net_of(f"{long}: 1").foreign[0].text == f"{long}: 1"
    assert layer_of(f"loss_weight: 0x{'f' * 5000}").loss_weight[0] == float("inf")


def test_comment_in_another_encoding_does_no_harm(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b'name: "a" # caf\xe9\n')
    assert text.read(path, pb.NetParameter()).name == "a"


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_prototxt_reads_as_with_protobuf(path):
    names = [n for n in path.read_text().splitlines() if re.match(r"name\s*:", n)]
    if len(names) > 1 and "solver" not in path.stem:
        pytest.skip("several nets in one file, which protobuf does not read")
    kind = pb.SolverParameter if "solver" in path.stem else pb.NetParameter
    assert_as_protobuf(path.read_text(), text.read(path, kind()))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="../shared/golden/corpus is not there")
def test_nets_of_the_world_read_as_with_protobuf():
    """Both read the same files, and make the same of them."""
    same = refused = 0
    for path in sorted(CORPUS.glob("*.prototxt")):
        content = path.read_bytes().decode("utf-8", "replace")
        try:
            wanted = text_format.Parse(content, pb.NetParameter())
        except text_format.ParseError:
            refused += 1
            try:
                net = text.read(path, pb.NetParameter())
            except ParseError as error:
                assert re.match(rf"{re.escape(str(path))}:\d+: ", str(error))
            else:  # fields of a fork, of which none is lost
                assert "foreign {" in text_format.MessageToString(net), path.name
            continue
        net = text.read(path, pb.NetParameter())
        text.clear_source_lines(net)
        assert net == wanted, path.name
        same += 1
    assert same > 500
    assert refused > 50


# ---- what is refused


@pytest.mark.parametrize(
    ("prototxt", "line", "words"),
    [
        # Fields.
        ("layer { blobs { dta: 1 } }", 1, "no field named 'dta'. Did you mean 'data'"),
        ("layer { include { phase: TEST\n bias_param { } } }", 2, "is a '}' missing before this"),
        ("base_lr: 3", 1, "This seems to be a solver; a net is expected here."),
        ('layer { source_line: "a" }', 1, "has no field named 'source_line'"),
        ('name: "a"\nname: "b"', 2, "'name' is given twice, first at line 1"),
        ("layer {\n relu_param { }\n relu_param { }\n}", 3, "'relu_param' is given twice"),
        ("7: 3", 1, "a field name was expected. Received: '7'"),
        ("layer { } }", 1, "a field name was expected. Received: '}'"),
        ('name "a"', 1, "':' was expected after 'name'. Received: '\"a\"'"),
        ('layer: "a"', 1, "'{' was expected after 'layer', which is a block"),
        ("name:", 1, "'name' takes a string in quotes"),
        # Values.
        ("name: a", 1, "'name' takes a string in quotes, as \"name\". Received: a"),
        ('name: -"a"', 1, "'name' takes a string in quotes"),
        ("force_backward: yes", 1, "'force_backward' takes true or false. Received: yes"),
        ('layer { phase: "TEST" }', 1, "'phase' takes one of TRAIN, TEST"),
        ("layer { phase: TSET }", 1, "Did you mean 'TEST'?"),
        ("layer { phase: 7 }", 1, "'phase' takes one of TRAIN, TEST. Received: 7"),
        ("layer { phase: -1 }", 1, "'phase' takes one of TRAIN, TEST"),
        ("layer { phase: " + "1" * 9999 + " }", 1, "'phase' takes one of TRAIN, TEST"),
        ("layer { loss_weight: high }", 1, "'loss_weight' takes a number. Received: high"),
        ("input_dim: 1.5", 1, "'input_dim' takes an integer"),
        ("input_dim: 2147483648", 1, "'input_dim' takes an integer of -2147483648 to"),
        ("input_dim: 09", 1, "'input_dim' takes an integer"),
        ("input_dim: " + "9" * 9999, 1, "'input_dim' takes an integer"),
        (
            "layer { convolution_param { num_output: -1 } }",
            1,
            "'num_output' takes an integer of 0 to 4294967295. Received: -1",
        ),
        ("input_dim: [1, 2\nname: 3", 2, "',' or ']' was expected. Received: 'name'"),
        ("input_dim: [1 2]", 1, "',' or ']' was expected. Received: '2'"),
        ("name: ['a']", 1, "'name' takes a string in quotes"),
        # Strings.
        ('name: "a\nlayer { }', 1, 'a string that begins with " does not end on its line'),
        ("\nname: 'a", 2, "a string that begins with ' does not end on its line"),
        (r'name: "C:\data"', 1, r"'\d' in a string is not an escape; for a backslash write '\\'"),
        (r'name: "\377"', 1, "'name' takes UTF-8"),
        # Blocks.
        ('layer {\n  name: "a"\n', 3, "the file ends, but the block opened at line 1 has no '}'"),
        ("layer <\n name: 'a' }", 2, "a field name was expected. Received: '}'"),
        ("layer {\n  ...\n}", 2, "'...' replaces layers that were left out"),
        ("name: @", 1, "not a prototxt: unexpected character '@'"),
    ],
)
def test_fault_is_reported_with_its_line(prototxt, line, words):
    message = error_of(prototxt)
    assert message.startswith(f"net.prototxt:{line}: ")
    assert words in message
    assert len(message) < 300


def test_nesting_without_end_is_refused():
    """The reader descends only where the schema does, a few levels."""
    assert "has no field named 'layer'" in error_of("layer { " * 100_000)
    assert "a field name was expected. Received: '{'" in error_of("layer " + "{" * 100_000)


def test_no_message_of_the_schema_holds_itself():
    def depth(message, above=()) -> int:
        assert message.name not in above
        below = [f.message_type for f in message.fields if f.message_type is not None]
        return 1 + max([depth(m, (*above, message.name)) for m in below], default=0)

    assert depth(pb.SolverParameter.DESCRIPTOR) < 10


def test_binary_file_is_no_prototxt(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"\x0a\x03abc\x00\x01")
    with pytest.raises(ParseError, match="is not a prototxt: it holds binary data"):
        text.read(path, pb.NetParameter())


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(ParseError, match=r"lost\.prototxt: no such file"):
        text.read(tmp_path / "lost.prototxt", pb.NetParameter())
    with pytest.raises(ParseError, match="is a folder"):
        text.read(tmp_path, pb.NetParameter())


# ---- lines


def test_every_layer_keeps_its_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('name: "n"\n\nlayer { name: "a" }\nlayer\n{\n name: "b" }')
    net = text.read(path, pb.NetParameter())
    assert [layer.source_line for layer in net.layer] == [f"{path}:3", f"{path}:4"]


def test_lines_are_never_written(tmp_path):
    solver = text.parse(
        'net_param { layer { name: "a" } } layer { name: "b" }', pb.SolverParameter()
    )
    assert solver.net_param.layer[0].source_line
    assert "source_line" not in text.to_text(solver)
    text.write(tmp_path / "solver.prototxt", solver)
    assert "source_line" not in (tmp_path / "solver.prototxt").read_text()
    assert solver.net_param.layer[0].source_line  # only what is written lacks it


def test_written_net_is_read_back_the_same(tmp_path):
    net = net_of(
        r'name: "é\"\n" layer { name: "a" type: "ReLU" bottom: "x" loss_weight: [1, 0.1] '
        "relu_param { } phase: TEST }"
    )
    path = tmp_path / "net.prototxt"
    text.write(path, net)
    again = text.read(path, pb.NetParameter())
    text.clear_source_lines(net)
    text.clear_source_lines(again)
    assert again == net
    assert "é" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("field", "line"),
    [("base_lr", 2), ("lr", 3), ("teacher", 4), ("net", 5), ("weights", 5), ("momentum", None)],
)
def test_locate_finds_the_first_mention_of_a_field(tmp_path, field, line):
    path = tmp_path / "solver.prototxt"
    path.write_text(
        '# net: "x" momentum: 1\nbase_lr: 1\nlr : 2 # momentum: 1\nteacher {\nnet:"a" weights: "b"}'
    )
    wanted = str(path) if line is None else f"{path}:{line}"
    assert text.locate(path, field) == wanted


def test_locate_in_a_lost_file_gives_the_file(tmp_path):
    assert text.locate(tmp_path / "lost", "net") == str(tmp_path / "lost")
