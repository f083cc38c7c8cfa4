"""The walk over protobuf's wire format, and what it says of files that are something else."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from caffe_kd.core.errors import ParseError
from caffe_kd.proto import wire
from caffe_kd.proto.wire import LEN, VARINT, Damaged, Walker


def walk(data, kinds):
    return list(Walker(data).fields(0, len(data), kinds))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63, 2**64 - 1])
def test_number_field_is_read_back(value):
    (field,) = walk(wire.number_field(536870911, value), {536870911: (VARINT,)})
    assert field.value == value


def test_signed_takes_twos_complement():
    assert wire.signed(2**64 - 1, 64) == wire.signed(2**32 - 1, 32) == -1
    assert wire.signed(2**31 - 1, 32) == 2**31 - 1


def test_fields_skips_what_is_not_asked_for():
    data = wire.number_field(9, 5) + b"\x15abcd" + b"\x11abcdefgh" + wire.header(1, 2) + b"hi"
    walker = Walker(data)
    (field,) = walker.fields(0, len(data), {1: (LEN,)})
    assert walker.bytes(field) == b"hi"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated"),  # 2**63 bytes long
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x08\xff", "truncated"),
        (b"\x0b\x0c", "there is no valid field"),  # a group, which no version of the format has
        (b"\x07", "there is no valid field"),
        (b"\x00\x00", "there is no valid field"),
        (b"\x80\x80\x80\x80\x80\x01\x00", "there is no valid field"),  # a number beyond 29 bits
        (b"\x0d\x00\x00\x00", "truncated"),
        (b"\x08\x01", "is a number, expected text or a block"),
    ],
)
def test_fields_refuses_damage(data, message):
    with pytest.raises(Damaged, match=message):
        walk(data, {1: (LEN,)})


def test_fields_refuses_a_field_longer_than_its_block():
    inner = wire.header(1, 50) + b"x"
    data = wire.header(7, len(inner)) + inner + b"\x08" * 100
    walker = Walker(data)
    (outer,) = walker.fields(0, 2 + len(inner), {7: (LEN,)})
    with pytest.raises(Damaged, match="does not fit the block"):
        list(walker.fields(outer.start, outer.end, {1: (LEN,)}))


def test_fields_are_bounded_in_number():
    data = wire.number_field(9, 0) * (wire.MAX_FIELDS + 1)
    with pytest.raises(Damaged, match="more than 200000 fields"):
        walk(data, {})


def test_file_that_is_cut_short_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"abc")

    @contextmanager
    def reading_before_the_cut(_path):
        yield 5

    monkeypatch.setattr(wire, "reading", reading_before_the_cut)
    with pytest.raises(ParseError, match="was truncated while it was being read"):
        wire.whole_file(path)


def test_file_read_whole_stays_as_it_is_when_its_bytes_are_changed(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    mapped = wire.whole_file(path)
    mapped[0] = ord("X")
    assert path.read_bytes() == b"abc"


def test_whole_file_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for name, message in [
        ("missing", "no such file"),
        (".", "is a folder"),
        ("pipe", "is not a regular file"),
        ("empty", "is empty"),
    ]:
        with pytest.raises(ParseError, match=message):
            wire.whole_file(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b'name: "LeNet"\nlayer {', "text, such as a prototxt"),
        ("# né\n".encode() * 300, "text, such as a prototxt"),  # the window ends inside the é
        (b"PK\x03\x04\x00", "zip archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x02}q", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_looks_like_names_the_kind(data, kind):
    assert kind in wire.looks_like(data)


def test_looks_like_is_silent_about_other_bytes():
    assert wire.looks_like(b"\x0a\x04tiny\xa2\x06/") is None
