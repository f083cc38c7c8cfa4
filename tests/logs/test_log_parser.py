import io
import math
import os
import random
import time

import pytest

from caffe_kd.core.errors import DataError
from caffe_kd.logs.log import Log
from caffe_kd.logs.log_parser import parse_log

# As Caffe prints it since 2017, its file header and the lines in between included.
CURRENT = """\
Log file created at: 2018/03/05 09:59:58
Running on machine: gpu1
Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg
I0305 09:59:58.100000  4242 caffe.cpp:211] Use CPU.
I0305 09:59:58.120000  4242 solver.cpp:45] Initializing solver from parameters:
test_iter: 100
base_lr: 0.01
display: 100
net: "examples/mnist/lenet_train_test.prototxt"
I0305 09:59:58.300000  4242 net.cpp:255] Network initialization done.
I0305 10:00:00.000000  4242 caffe.cpp:248] Starting Optimization
I0305 10:00:00.000000  4242 solver.cpp:273] Solving LeNet
I0305 10:00:00.000100  4242 solver.cpp:274] Learning Rate Policy: inv
I0305 10:00:00.100000  4242 solver.cpp:331] Iteration 0, Testing net (#0)
I0305 10:00:02.250000  4250 data_layer.cpp:73] Restarting data prefetching from start.
I0305 10:00:02.300000  4242 solver.cpp:398]     Test net output #0: accuracy = 0.0884
I0305 10:00:02.300000  4242 solver.cpp:398]     Test net output #1: loss = 2.39 (* 1 = 2.39 loss)
I0305 10:00:02.350000  4242 solver.cpp:219] Iteration 0 (-4.2e-45 iter/s, 2.3s/100 iters), loss = 2.4
I0305 10:00:02.350000  4242 solver.cpp:238]     Train net output #0: loss = 2.4 (* 1 = 2.4 loss)
I0305 10:00:02.350000  4242 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I0305 10:00:04.270000  4242 solver.cpp:219] Iteration 100 (52.1 iter/s, 1.92s/100 iters), loss = 0.21
I0305 10:00:04.270000  4242 solver.cpp:238]     Train net output #0: loss = 0.2 (* 1 = 0.2 loss)
I0305 10:00:04.270000  4242 sgd_solver.cpp:105] Iteration 100, lr = 0.00992565
I0305 10:00:06.200000  4242 sgd_solver.cpp:46] MultiStep Status: Iteration 200, step = 1
I0305 10:00:06.300000  4242 solver.cpp:448] Snapshotting to binary proto file l_iter_200.caffemodel
I0305 10:00:06.310000  4242 sgd_solver.cpp:273] Snapshotting solver state to binary proto file l_iter_200.solverstate
I0305 10:00:06.350000  4242 solver.cpp:311] Iteration 200, loss = 0.1042
I0305 10:00:06.350000  4242 solver.cpp:331] Iteration 200, Testing net (#0)
I0305 10:00:08.500000  4242 solver.cpp:398]     Test net output #0: accuracy = 0.9655
I0305 10:00:08.500000  4242 solver.cpp:398]     Test net output #1: loss = 0.11 (* 1 = 0.11 loss)
I0305 10:00:08.500000  4242 solver.cpp:316] Optimization Done.
I0305 10:00:08.500000  4242 caffe.cpp:259] Optimization Done.
"""  # noqa: E501

# Before 2017, without parentheses; GoogLeNet's several losses with their weights; two test nets.
OLD = """\
I1121 12:34:56.000000 30171 solver.cpp:243] Solving GoogleNet
I1121 12:34:56.000000 30171 solver.cpp:291] Iteration 0, Testing net (#0)
I1121 12:35:10.000000 30171 solver.cpp:340]     Test net output #0: loss1/loss1 = 7 (* 0.3 = 2.1 loss)
I1121 12:35:10.000000 30171 solver.cpp:340]     Test net output #1: loss1/top-1 = 0.001
I1121 12:35:10.000000 30171 solver.cpp:340]     Test net output #2: loss3/loss3 = 6.9 (* 1 = 6.9 loss)
I1121 12:35:10.000000 30171 solver.cpp:291] Iteration 0, Testing net (#1)
I1121 12:35:20.000000 30171 solver.cpp:340]     Test net output #0: loss1/top-1 = 0.002
I1121 12:35:21.500000 30171 solver.cpp:214] Iteration 0, loss = 9.1
I1121 12:35:21.500000 30171 solver.cpp:229]     Train net output #0: loss1/loss1 = 7.1 (* 0.3 = 2.13 loss)
I1121 12:35:21.500000 30171 solver.cpp:489] Iteration 0, lr = 1e-05
"""  # noqa: E501


def parse(folder, text):
    path = folder / "train.log"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_log(path)


def losses(log):
    return [(row.iteration, row.loss) for row in log.train]


def test_log_of_caffe_caffe(tmp_path):
    log = parse(tmp_path, CURRENT)
    assert log.net == "LeNet"
    assert losses(log) == [(0, 2.4), (100, 0.21), (200, 0.1042)]
    assert log.train[1].outputs == {"loss": 0.2}
    assert list(log.tests) == [0]
    first, last = log.tests[0]
    assert (first.iteration, first.outputs) == (0, {"accuracy": 0.0884, "loss": 2.39})
    assert (last.iteration, last.outputs) == (200, {"accuracy": 0.9655, "loss": 0.11})
    assert last.loss == 0.11
    assert [(row.iteration, row.lr) for row in log.learning_rates] == [
        (0, 0.01),
        (100, 0.00992565),
    ]


def test_seconds_count_from_solving(tmp_path):
    log = parse(tmp_path, CURRENT)
    assert [row.seconds for row in log.train] == pytest.approx([2.35, 4.27, 6.35])
    assert [row.seconds for row in log.tests[0]] == pytest.approx([0.1, 6.35])
    assert [row.seconds for row in log.learning_rates] == pytest.approx([2.35, 4.27])


def test_log_before_2017_with_two_test_nets_and_weighted_losses(tmp_path):
    log = parse(tmp_path, OLD)
    assert log.net == "GoogleNet"
    assert losses(log) == [(0, 9.1)]
    assert log.tests[0][0].outputs == {"loss1/loss1": 7, "loss1/top-1": 0.001, "loss3/loss3": 6.9}
    assert log.tests[0][0].loss == pytest.approx(9.0)  # 0.3 * 7 + 6.9
    assert log.tests[1][0].outputs == {"loss1/top-1": 0.002}
    assert log.tests[1][0].loss is None
    assert log.learning_rates[0].lr == 1e-05


def test_own_log_is_read_back(tmp_path):
    path = tmp_path / "train.log"
    with Log(path, stream=io.StringIO()) as out:
        out.info("Solving student")
        out.info("Iteration 0, Testing net (#0)\n    Test net output #0: accuracy = 0.1")
        out.info("Iteration 0 (-1 iter/s, 0s/100 iters), loss = 2.3")
        out.info("Iteration 0, lr = 0.01")
    log = parse_log(path)
    assert log.net == "student"
    assert losses(log) == [(0, 2.3)]
    assert log.tests[0][0].outputs == {"accuracy": 0.1}
    assert 0 <= log.learning_rates[0].seconds < 60


def test_lines_without_prefix_have_no_seconds(tmp_path):
    log = parse(tmp_path, "Iteration 100, loss = 0.21\nIteration 100, lr = 0.1\n")
    assert losses(log) == [(100, 0.21)]
    assert log.train[0].seconds is None


def test_outputs_of_one_name_are_distinguished(tmp_path):
    text = "Iteration 0, Testing net (#0)\n" + "".join(
        f"    Test net output #{i}: prob = 0.{i}\n" for i in range(3)
    )
    assert parse(tmp_path, text).tests[0][0].outputs == {"prob": 0, "prob#1": 0.1, "prob#2": 0.2}


@pytest.mark.parametrize(
    ("printed", "value"),
    [
        ("nan", math.nan),
        ("-nan", math.nan),
        ("-nan(ind)", math.nan),
        ("1.#QNAN", math.nan),
        ("-1.#IND", math.nan),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("1.#INF", math.inf),
        ("1e-05", 1e-05),
        ("-0.5", -0.5),
    ],
)
def test_numbers_as_c_libraries_print_them(tmp_path, printed, value):
    log = parse(tmp_path, f"Iteration 7, loss = {printed}\n")
    assert log.train[0].loss == pytest.approx(value, nan_ok=True)


def test_year_rollover(tmp_path):
    text = (
        "I1231 23:59:50.000000  1 solver.cpp:1] Solving net\n"
        "I1231 23:59:55.000000  1 solver.cpp:1] Iteration 0, loss = 1\n"
        "I0101 00:00:05.500000  1 solver.cpp:1] Iteration 1, loss = 1\n"
        "I0102 00:00:05.500000  1 solver.cpp:1] Iteration 2, loss = 1\n"
    )
    seconds = [row.seconds for row in parse(tmp_path, text).train]
    assert seconds == pytest.approx([5, 15.5, 86415.5])


@pytest.mark.parametrize("year", [2023, 2024])
def test_leap_day_whatever_the_year_of_the_file(tmp_path, year):
    path = tmp_path / "train.log"
    path.write_text(
        "I0228 12:00:00.000000  1 solver.cpp:1] Iteration 0, loss = 1\n"
        "I0229 12:00:00.000000  1 solver.cpp:1] Iteration 1, loss = 1\n"
        "I0301 12:00:00.000000  1 solver.cpp:1] Iteration 2, loss = 1\n"
    )
    moment = time.mktime((year, 6, 1, 0, 0, 0, 0, 0, 0))
    os.utime(path, (moment, moment))
    assert [row.seconds for row in parse_log(path).train] == [0, 86400, 2 * 86400]


def test_prefix_of_newer_glogs_with_a_year(tmp_path):
    text = (
        "I20251231 23:59:59.000000  1 solver.cpp:1] Iteration 0, loss = 1\n"
        "I20260101 00:00:01.000000  1 solver.cpp:1] Iteration 1, loss = 1\n"
    )
    assert [row.seconds for row in parse(tmp_path, text).train] == [0, 2]


def test_clock_set_back_a_little_is_no_new_year(tmp_path):
    text = (
        "I0305 10:00:10.000000  1 solver.cpp:1] Iteration 0, loss = 1\n"
        "I0305 10:00:09.000000  1 solver.cpp:1] Iteration 1, loss = 1\n"
    )
    assert [row.seconds for row in parse(tmp_path, text).train] == [0, -1]


def test_resumed_run_replaces_what_it_trained_again(tmp_path):
    first = "".join(
        f"Iteration {i}, loss = 1.{i}\nIteration {i}, lr = 1\n" for i in range(0, 701, 100)
    )
    resumed = (
        "Resuming from x_iter_500.solverstate\n"
        "Iteration 500, Testing net (#0)\n    Test net output #0: accuracy = 0.9\n"
        "Iteration 500, loss = 2.5\nIteration 500, lr = 2\n"
        "Iteration 600, loss = 2.6\nIteration 600, lr = 2\n"
    )
    log = parse(tmp_path, first + resumed)
    assert [row.iteration for row in log.train] == [0, 100, 200, 300, 400, 500, 600]
    assert losses(log)[-3:] == [(400, 1.400), (500, 2.5), (600, 2.6)]
    assert [row.lr for row in log.learning_rates] == [1, 1, 1, 1, 1, 2, 2]
    assert [row.iteration for row in log.tests[0]] == [500]


def test_run_continued_at_its_end_keeps_one_row_of_each_iteration(tmp_path):
    log = parse(tmp_path, "Iteration 9, loss = 1\nIteration 9 (1 iter/s), loss = 2\n")
    assert losses(log) == [(9, 2)]


def test_run_started_anew_in_the_same_log_replaces_the_former(tmp_path):
    later = OLD.replace("I1121 12", "I1121 22").replace("GoogleNet", "second")
    log = parse(tmp_path, CURRENT + later)
    assert log.net == "second"
    assert losses(log) == [(0, 9.1)]
    assert log.train[0].seconds == pytest.approx(25.5)


def test_log_may_be_cut_anywhere(tmp_path):
    """Each value that comes out of a cut log stands in the whole one."""

    def values(log):
        for row in log.train:
            yield ("train", row.iteration, row.loss)
        for net, rows in log.tests.items():
            for row in rows:
                yield from (("test", net, row.iteration, *item) for item in row.outputs.items())
        for row in log.learning_rates:
            yield ("lr", row.iteration, row.lr)

    for text in (CURRENT, OLD):
        whole = set(values(parse(tmp_path, text)))
        for end in range(0, len(text), 3):
            try:
                part = parse(tmp_path, text[:end])
            except DataError:
                continue
            assert set(values(part)) <= whole, text[:end][-80:]
        for start in range(0, len(text) // 2, 7):
            assert set(values(parse(tmp_path, text[start:]))) <= whole


def test_last_line_without_newline_counts_up_to_its_last_word(tmp_path):
    log = parse(
        tmp_path, "Iteration 1, Testing net (#0)\n    Test net output #0: loss = 0.5 (* 1 = 0."
    )
    assert log.tests[0][0].outputs == {"loss": 0.5}


def test_terminal_recording_with_a_progress_line(tmp_path):
    text = "\rIteration 5/10 |### | loss 0.3\r                               "
    text += "\rIteration 5, loss = 0.25\r\nIteration 6, lr = 1\r\n"
    log = parse(tmp_path, text)
    assert losses(log) == [(5, 0.25)]
    assert log.learning_rates[0].lr == 1


def test_log_redirected_by_powershell_is_utf_16(tmp_path):
    assert losses(parse(tmp_path, CURRENT.encode("utf-16")))[-1] == (200, 0.1042)


def test_lines_of_other_programs_before_the_prefix(tmp_path):
    log = parse(
        tmp_path, "caffe_1  | I0305 10:00:00.000000  1 solver.cpp:9] Iteration 5, loss = 0.25\n"
    )
    assert losses(log) == [(5, 0.25)]


def test_very_long_line_is_passed_over(tmp_path):
    junk = "Iteration 1, loss = 2" + "Iteration 1, Testing net (#0) = " * 300_000  # 10 MB
    began = time.process_time()
    log = parse(tmp_path, f"{junk}\nIteration 3, loss = 0.5\n")
    assert losses(log)[-1] == (3, 0.5)
    assert time.process_time() - began < 10  # seconds; it takes well under one


def test_binary_junk_around_the_lines(tmp_path):
    junk = bytes(random.Random(1).randrange(256) for _ in range(20_000))
    log = parse(tmp_path, junk + b"\nIteration 3, loss = 0.5\n" + junk + b"\n")
    assert losses(log) == [(3, 0.5)]


def test_counts_beyond_sense_are_passed_over(tmp_path):
    nines = "9" * 4000
    text = f"Iteration {nines}, loss = 1\nIteration 3, loss = {nines}x\nIteration 4, loss = 2\n"
    assert losses(parse(tmp_path, text)) == [(4, 2)]


def test_log_that_goes_back_at_every_line_is_read_in_time(tmp_path):
    lines = [f"Iteration {i}, loss = 1\n" for i in range(50_000)]
    lines += [f"Iteration {i % 2 + 49_000}, lr = 1\n" for i in range(50_000)]
    began = time.process_time()
    parse(tmp_path, "".join(lines))
    assert time.process_time() - began < 10  # seconds; it takes well under one


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"hello\n", bytes(range(256)) * 50, b"\xff\xfe\x00", b"Solving LeNet\n"]
)
def test_nothing_to_parse_says_what_was_expected(tmp_path, text):
    with pytest.raises(DataError) as caught:
        parse(tmp_path, text)
    message = str(caught.value)
    assert "train.log" in message and "'Iteration 100, loss = 0.21'" in message


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.log: no such file"):
        parse_log(tmp_path / "absent.log")


def test_folder_and_device_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a regular file"):
        parse_log(tmp_path)
    if os.path.exists("/dev/zero"):
        with pytest.raises(DataError, match="not a regular file"):
            parse_log("/dev/zero")


SHARES = """Iteration 0, gradient shares in 15 parameters of the student
    Gradient share: kd/soft = 0.75 (norm 3)
    Gradient share: loss = 0.25 (norm 1)
Iteration 0, loss = 2
Iteration 100, gradient shares in 15 parameters of the student
    Gradient share: kd/soft = 0.5 (norm 2e-05)
    Gradient share: loss = 0.5 (norm 2e-05)
Iteration 100, loss = 1
"""


def test_gradient_shares_are_rows_of_their_own(tmp_path):
    log = parse(tmp_path, SHARES)
    assert [row.iteration for row in log.gradient_shares] == [0, 100]
    assert log.gradient_shares[0].shares == {"kd/soft": 0.75, "loss": 0.25}
    assert log.gradient_shares[1].norms == {"kd/soft": 2e-5, "loss": 2e-5}
    assert [row.loss for row in log.train] == [2, 1]
    assert parse(tmp_path, "Iteration 0, loss = 2\n").gradient_shares == []


def test_gradient_shares_beyond_a_resumed_iteration_are_forgotten(tmp_path):
    again = SHARES[SHARES.index("Iteration 100") :].replace("0.5 (norm", "0.4 (norm")
    log = parse(tmp_path, SHARES + again)
    assert [row.shares["loss"] for row in log.gradient_shares] == [0.25, 0.4]
