from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from caffe_kd.errors import CaffeKDError, ParseError
from caffe_kd.files import find, read_bytes, replacing, write_atomically

as_root = hasattr(os, "geteuid") and os.geteuid() == 0


# ---- reading


def test_bytes_of_a_file_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_bytes(path, 3) == b"abc"


def test_file_over_the_bound_is_refused_unread(tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # would not fit in memory
    with pytest.raises(ParseError, match=f"a: is {1 << 40} bytes long, more than the 100 allowed"):
        read_bytes(path, 100)


@pytest.mark.skipif(as_root, reason="nothing is forbidden to root")
def test_file_that_may_not_be_read_is_told(tmp_path):
    path = tmp_path / "a"
    path.touch(mode=0)
    with pytest.raises(ParseError, match="cannot be read: Permission denied"):
        read_bytes(path, 100)


def test_missing_file_tells_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParseError) as error:
        read_bytes("lost", 100)
    assert str(error.value) == f"lost: no such file. Looked from {tmp_path}"


def test_folder_is_no_file(tmp_path):
    with pytest.raises(ParseError, match="is a folder, where a file was expected"):
        read_bytes(tmp_path, 1 << 20)


# ---- writing


def test_file_and_its_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c"
    write_atomically(path, b"abc")
    assert path.read_bytes() == b"abc"
    assert os.listdir(path.parent) == ["c"]


def test_content_may_come_in_pieces(tmp_path):
    write_atomically(tmp_path / "a", iter([b"ab", b"", b"c"]))
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_file_is_as_open_as_any_other(tmp_path):
    (tmp_path / "ordinary").touch()
    write_atomically(tmp_path / "a", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "a")]
    assert modes[0] == modes[1]


def test_failing_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def pieces():
        yield b"new"
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_atomically(path, pieces())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent
    assert path.read_bytes() == b"new"


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaffeKDError, match=r"file/a: cannot be written: "):
        write_atomically(tmp_path / "file" / "a", b"")


def test_folder_in_the_place_of_the_file_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(CaffeKDError, match="cannot be written"):
        write_atomically(tmp_path / "a", b"abc")
    assert os.listdir(tmp_path) == ["a"]


# ---- finding


def test_path_is_looked_up_here_first_then_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets").mkdir()
    for path in ("here", "nets/here", "nets/there"):
        (tmp_path / path).touch()
    assert find("here", "nets/net.prototxt") == Path("here")
    assert find("there", "nets/net.prototxt") == Path("nets/there")
    assert find("nowhere", "nets/net.prototxt") == Path("nowhere")
    assert find("there", None) == Path("there")
    assert find(str(tmp_path / "here"), "nets/net.prototxt") == tmp_path / "here"


def test_pipe_or_device_is_refused_and_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in the file system here")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ParseError, match="is not an ordinary file"):
            read_bytes(path, 100)
    with pytest.raises(CaffeKDError, match="it is a device or pipe"):
        write_atomically(tmp_path / "pipe", b"abc")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_link_still_leads_to_the_file_that_was_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a").write_bytes(b"old")
    try:
        (tmp_path / "link").symlink_to(tmp_path / "far" / "a")
    except OSError:
        pytest.skip("no links here")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "a").read_bytes() == b"new"


def test_failure_inside_names_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(CaffeKDError) as error, replacing(tmp_path / "a") as temporary:
        raise CaffeKDError("cannot be written: full", str(temporary))
    assert str(error.value) == f"{tmp_path / 'a'}: cannot be written: full"


def test_name_that_is_too_long_is_not_found():
    assert find("x" * 5000, __file__) == Path("x" * 5000)
