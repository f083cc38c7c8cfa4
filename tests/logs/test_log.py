import gc
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.logs.log import Log

# What DIGITS' and extract_seconds' readers rely on.
GLOG = re.compile(r"^([IWE])(\d{4}) (\d\d:\d\d:\d\d\.\d{6}) +(\d+) (\w+\.py):(\d+)\] (.*)$")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_line_has_the_shape_of_glog_and_names_the_caller():
    stream = io.StringIO()
    Log(stream=stream).info("Iteration 100, lr = 0.01")
    line = sys._getframe().f_lineno - 1
    match = GLOG.match(stream.getvalue())
    assert match and match[1] == "I"
    assert match[4] == str(threading.get_native_id())
    assert (match[5], int(match[6])) == ("test_log.py", line)
    assert match[7] == "Iteration 100, lr = 0.01"


def test_levels_have_their_letters():
    stream = io.StringIO()
    log = Log(stream=stream)
    log.info("a")
    log.warning("b")
    log.error("c")
    assert [line[0] for line in stream.getvalue().splitlines()] == ["I", "W", "E"]


def test_each_line_of_a_text_becomes_a_line_with_its_spaces():
    stream = io.StringIO()
    Log(stream=stream).info("Testing\n    Test net output #0: accuracy = 0.98\n")
    texts = [GLOG.match(line)[7] for line in stream.getvalue().splitlines()]
    assert texts == ["Testing", "    Test net output #0: accuracy = 0.98"]


def test_file_gets_the_same_lines_at_once_and_its_folders_are_made(tmp_path):
    path = tmp_path / "new" / "train.log"
    stream = io.StringIO()
    with Log(path, stream=stream) as log:
        log.info("Solving LeNet")
        assert path.read_text() == stream.getvalue() != ""  # before it is closed


def test_file_is_continued_by_the_next_run(tmp_path):
    path = tmp_path / "train.log"
    for text in ("first run", "second run"):
        with Log(path, stream=io.StringIO()) as log:
            log.info(text)
    assert [GLOG.match(line)[7] for line in path.read_text().splitlines()] == [
        "first run",
        "second run",
    ]


def test_file_takes_a_name_that_is_not_unicode(tmp_path):
    path = tmp_path / "train.log"
    with Log(path, stream=io.StringIO()) as log:
        log.info("Snapshotting to \udcff.caffemodel")
    assert r"\udcff.caffemodel" in path.read_text()


def test_unwritable_path_is_named(tmp_path):
    with pytest.raises(CaffeKDError, match=f"{tmp_path}: the log file cannot be written"):
        Log(tmp_path)  # a folder
    (tmp_path / "file").touch()
    with pytest.raises(CaffeKDError, match=r"file/train\.log"):
        Log(tmp_path / "file" / "train.log")


@pytest.mark.filterwarnings("error")
def test_closed_pipe_does_not_end_the_run(tmp_path):
    """As in ``caffe_kd train 2>&1 | head -1``."""
    path = tmp_path / "train.log"
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        with Log(path, stream=stream, progress=True) as log:
            log.progress(0, 10, 0.5, 0.01)
            os.close(reader)
            log.info("Iteration 0")
            log.info("Iteration 1")
            log.progress(1, 10, 0.5, 0.01)
        gc.collect()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what the stream still holds
    lines = path.read_text().splitlines()
    assert [line[0] for line in lines] == ["I", "W", "I"]
    assert "the log stream is closed" in lines[1]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_does_not_end_the_run():
    stream = io.StringIO()
    with Log("/dev/full", stream=stream) as log:
        log.info("Iteration 0")
        log.info("Iteration 1")
    texts = [GLOG.match(line)[7] for line in stream.getvalue().splitlines()]
    assert texts[-1] == "Iteration 1"
    assert any("/dev/full: the log file ends here" in text for text in texts)


def test_progress_shows_iteration_loss_rate_and_time_left(monkeypatch):
    stream = Terminal()
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    log = Log(stream=stream)
    for iteration in range(0, 101, 10):
        log.progress(iteration, 1000, 0.21034, 0.01)
        now[0] += 1
    status = stream.getvalue().split("\r")[-1]
    assert "Iteration 100/1000" in status
    assert "loss 0.2103" in status and "lr 0.01" in status
    assert "10.00it/s" in status
    assert re.search("01:(29|30) left", status)
    log.close()


def test_progress_of_a_resumed_run_counts_its_speed_from_where_it_resumed(monkeypatch):
    stream = Terminal()
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    log = Log(stream=stream)
    for iteration in range(5000, 5006):
        log.progress(iteration, 10000, 0.2, 0.01)
        now[0] += 1
    assert " 1.00it/s" in stream.getvalue().split("\r")[-1]
    log.close()


def test_progress_draws_five_times_a_second_and_the_last_iteration(monkeypatch):
    stream = Terminal()
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    log = Log(stream=stream)
    for iteration in range(1, 1001):
        log.progress(iteration, 1000, 0.2, 0.01)
        now[0] += 0.001
    assert stream.getvalue().count("Iteration ") <= 6
    assert "Iteration 1000/1000" in stream.getvalue()
    log.close()


def test_progress_does_not_read_the_loss_between_its_updates():
    """Reading a loss on a GPU waits for the GPU."""

    class Loss:
        reads = 0

        def __float__(self):
            Loss.reads += 1
            return 0.5

    log = Log(stream=Terminal())
    for iteration in range(100):
        log.progress(iteration, 1000, Loss(), 0.01)
    assert 1 <= Loss.reads < 100
    log.close()


def test_log_lines_stand_above_the_progress_line():
    stream = Terminal()
    log = Log(stream=stream)
    log.progress(1, 10, 0.5, 0.01)
    log.info("Iteration 1")
    # Line by line as a terminal shows it: what follows the last carriage return, over the rest.
    first, second = stream.getvalue().split("\n")
    assert GLOG.match(first.split("\r")[-1])
    assert first.split("\r")[-2].strip() == ""  # the status line was wiped
    assert "Iteration 1/10" in second.split("\r")[-1]  # and stands below
    log.close()
    assert stream.getvalue().split("\r")[-2].strip() == ""  # gone at the end


def test_progress_begins_anew_for_the_next_training():
    stream = Terminal()
    log = Log(stream=stream)
    log.progress(10, 10, 0.5, 0.01)
    log.progress(0, 20, 2.3, 0.01)
    log._next_update = 0
    log.progress(20, 20, 0.1, 0.01)
    status = stream.getvalue().split("\r")[-1]
    assert "Iteration 20/20" in status and "loss 0.1" in status
    log.close()


def test_progress_is_off_where_the_stream_is_no_terminal():
    stream = io.StringIO()
    log = Log(stream=stream)
    log.progress(1, 10, 0.5, 0.01)
    log.close()
    assert stream.getvalue() == ""


def test_progress_can_be_switched_off_on_a_terminal():
    stream = Terminal()
    Log(stream=stream, progress=False).progress(1, 10, 0.5, 0.01)
    assert stream.getvalue() == ""


def test_file_holds_no_progress(tmp_path):
    path = tmp_path / "train.log"
    with Log(path, stream=Terminal()) as log:
        log.progress(1, 10, 0.5, 0.01)
        log.info("Iteration 1")
    assert len(path.read_text().splitlines()) == 1
    assert "\r" not in path.read_text()


def test_threads_do_not_tear_each_others_lines(tmp_path):
    stream = io.StringIO()
    log = Log(stream=stream)
    threads = [
        threading.Thread(target=lambda: [log.info("a\nb") for _ in range(200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [GLOG.match(line)[7] for line in stream.getvalue().splitlines()]
    assert texts == ["a", "b"] * 800


def test_default_stream_is_stderr(capsys):
    Log().info("Solving LeNet")
    out, err = capsys.readouterr()
    assert out == "" and "Solving LeNet" in err


def test_import_needs_neither_torch_nor_tqdm():
    code = "import sys, caffe_kd.logs.log; print({'torch', 'tqdm'} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == "set()", answer.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system here")
def test_pipe_as_log_file_needs_a_reader(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(CaffeKDError, match="the log file cannot be written"):
        Log(path, stream=io.StringIO())
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with Log(path, stream=io.StringIO()) as log:
        log.info("seen")
    assert os.read(reader, 1000).endswith(b"] seen\n")
    os.close(reader)


def test_quiet_log_shows_warnings_alone_and_names_what_they_are_about(tmp_path):
    stream = Terminal()
    with Log(tmp_path / "log", stream, quiet=True, label="run 2 of 5: kd") as log:
        log.info("Iteration 0, lr = 0.1")
        log.warning("the teacher\nis at chance")
        log.progress(3, 10, 0.5, 0.1)
    shown = stream.getvalue()
    assert shown.startswith("warning: run 2 of 5: kd: the teacher\\nis at chance\n")
    assert "run 2 of 5: kd: Iteration 3/10 |" in shown and "lr = 0.1" not in shown
    assert (tmp_path / "log").read_text().count("\n") == 3
