from __future__ import annotations

import pytest

from caffe_kd.cli.fields import main
from caffe_kd.proto import describe, schema


def printed(capsys: pytest.CaptureFixture[str], name: str) -> list[str]:
    assert main([name]) == 0
    return capsys.readouterr().out.splitlines()


def test_fields_have_type_number_default_choices_and_comment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(capsys, "PoolingParameter")
    assert lines[0] == "message PoolingParameter"
    assert "  optional PoolMethod pool = 1 [default = MAX]  (MAX, AVE, STOCHASTIC)" in lines
    at = lines.index("  optional uint32 pad = 4 [default = 0]")
    assert lines[at + 1] == "      must be smaller than the kernel"
    assert printed(capsys, "pooling_param") == lines


def test_every_message_can_be_listed_without_what_no_prototxt_has() -> None:
    for message in schema.descriptor().message_types_by_name.values():
        names = [line.split()[2] for line in describe.lines(message) if " = " in line[:60]]
        assert "foreign" not in names
        assert "source_line" not in names


@pytest.mark.parametrize("name", ["poling_param", "PoolingParam", "Poolingparameter"])
def test_unknown_message_is_a_mistake_of_usage(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name]) == 2
    assert "Did you mean '" in capsys.readouterr().err


def test_comment_is_whole_where_it_has_a_semicolon(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "TeacherParameter")
    comment = " ".join(lines[lines.index("  optional float ema = 4") + 1 :])
    assert "0 to below 1; 0.99 to" in comment
    assert comment.split()[:3] == "A mean teacher:".split()
    to = printed(capsys, "InjectParameter")
    assert to[to.index("  optional string to = 3") + 1].endswith("unset: of the same name")


def test_values_of_an_enum_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "DistillingLossParameter")
    at = next(i for i, line in enumerate(lines) if " divergence = 3" in line)
    assert lines[at + 1].startswith("      KL: ")
    assert lines[at + 2].startswith("      CROSS_ENTROPY: ")
