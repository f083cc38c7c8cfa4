from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError, MissingFile, ParseError
from caffe_kd.core.files import find, new_file, read_bytes, replacing, write_atomically

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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("D:\train", r'holds a tab: in a prototxt "\\t" stands for it. .* "\\\\" for one'),
        ("D:\new", r"holds a line break: "),
        ("D:\x07cat", r"holds a bell: "),
        pytest.param(
            r"D:\pics", r'A backslash does not separate folders here: write "/"',
            marks=pytest.mark.skipif(os.sep == "\\", reason="there it does"),
        ),
    ],
)  # fmt: skip
def test_missing_file_with_a_windows_path_says_what_is_wrong(name, words):
    with pytest.raises(MissingFile, match=f"no such file. Looked from .*{words}"):
        read_bytes(name, 100)


def test_missing_file_with_an_ordinary_name_says_no_more():
    with pytest.raises(MissingFile, match=f"no such file. Looked from {re.escape(os.getcwd())}$"):
        read_bytes("gone/train", 100)


@pytest.mark.skipif(as_root, reason="nothing is forbidden to root")
def test_file_that_may_not_be_read_is_reported(tmp_path):
    path = tmp_path / "a"
    path.touch(mode=0)
    with pytest.raises(ParseError, match="cannot be read: Permission denied"):
        read_bytes(path, 100)


def test_missing_file_names_where_it_was_looked_for(tmp_path, monkeypatch):
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


def test_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaffeKDError, match=r"file/a: cannot be written: "):
        write_atomically(tmp_path / "file" / "a", b"")


def test_folder_in_the_place_of_the_file_is_reported(tmp_path):
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
        with pytest.raises(ParseError, match="is not a regular file"):
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


# ---- what killed processes leave

needs_locks = pytest.mark.skipif(os.name != "posix", reason="there are no locks on files here")

KILLED = """
import os, signal, sys
from pathlib import Path
from caffe_kd.core.files import replacing, unfinished
with unfinished(Path("made"), as_folder=True) as folder, replacing("a") as temporary:
    (folder / "part").write_bytes(b"half")
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read() if sys.argv[1:] else os.kill(os.getpid(), signal.SIGKILL)
"""


def writer(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a process that is within a write when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


@needs_locks
def test_next_write_removes_what_a_killed_process_left_and_no_live_one_s(tmp_path):
    with writer(tmp_path) as killed:
        killed.communicate()
    left = set(os.listdir(tmp_path))
    assert len(left) == 2 and all(name.endswith(".unfinished") for name in left)
    with writer(tmp_path, "wait") as live:
        assert not left & set(os.listdir(tmp_path))
        at_work = set(os.listdir(tmp_path))
        write_atomically(tmp_path / "b", b"new")
        assert set(os.listdir(tmp_path)) == {"b", *at_work}
        live.communicate("")
    assert set(os.listdir(tmp_path)) == {"a", "b"}
    assert (tmp_path / "a").read_bytes() == b"half"


@needs_locks
def test_other_people_s_files_are_left_alone(tmp_path):
    names = {".unfinished", "a.12345678.unfinished", ".a.1234.unfinished", ".a.12345678.part"}
    for name in names:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "b", b"")
    assert set(os.listdir(tmp_path)) == names | {"b"}


def test_longest_name_that_a_file_may_have_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 127)
    write_atomically(path, b"abc")
    assert path.read_bytes() == b"abc"


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle):
        done.append(("sync", os.fstat(handle).st_ino))
        fsync(handle)

    def recorded_replace(source, target):
        done.append(("rename", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(tmp_path / "a", b"abc")
    file, folder = ((tmp_path / name).stat().st_ino for name in ("a", "."))
    assert done[:2] == [("sync", file), ("rename", file)]
    assert done[2:] == ([] if os.name == "nt" else [("sync", folder)])


def test_two_new_files_of_one_name_are_two(tmp_path):
    paths = [new_file(tmp_path / "logs" / "run.log") for _ in range(3)]
    assert [path.name for path in paths] == ["run.log", "run_2.log", "run_3.log"]
    assert all(path.is_file() for path in paths)


@pytest.mark.parametrize("use", [read_bytes, write_atomically, find])
def test_name_with_a_nul_is_one_clear_error(tmp_path, use):
    with pytest.raises(ParseError, match=r"a\\x00b: a file's name cannot hold a NUL character"):
        use(f"{tmp_path}/a\0b", b"" if use is write_atomically else 100)
