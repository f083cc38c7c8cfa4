import math
import random
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from caffe_kd.cli.plot_training_log import main
from caffe_kd.core.errors import CaffeKDError, DataError
from caffe_kd.logs.log_parser import (
    LearningRateRow,
    OutputRow,
    ShareRow,
    TrainingLog,
    TrainRow,
    parse_log,
)
from caffe_kd.logs.plot import COLOURS, plot

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_warnings():
    """What matplotlib warns of would stand on the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def write_log(path, seed=0, first_loss=2.3, accuracy=0.98):
    """A run of 5,000 iterations as Caffe logs it: noisy loss, few tests."""
    rng = random.Random(seed)
    lines = ["Solving LeNet"]
    for i in range(0, 5001, 20):
        if i % 500 == 0:
            tested = 0.1 if i == 0 else accuracy - 0.05 * math.exp(-i / 1000)
            test_loss = f"{3 - 3 * tested:.4f}"
            lines += [
                f"Iteration {i}, Testing net (#0)",
                f"    Test net output #0: accuracy = {tested:.4f}",
                f"    Test net output #1: loss = {test_loss} (* 1 = {test_loss} loss)",
            ]
        loss = first_loss if i == 0 else (2 * math.exp(-i / 300) + 0.05) * rng.uniform(0.5, 2)
        lines.append(f"Iteration {i} (52.1 iter/s, 0.38s/20 iters), loss = {loss:.6g}")
        lines.append(f"Iteration {i}, lr = {0.01 * 0.1 ** (i // 2000):g}")
    prefix = "I1121 12:34:56.123456  4242 solver.cpp:123] "
    path.write_text("".join(f"{prefix}{line}\n" for line in lines))
    return path


def pixels(path):
    return matplotlib.image.imread(path)[:, :, :3]


def count(image, colour):
    """How many pixels of an image (or a part of it) have a colour."""
    return int((np.abs(image - np.array(to_rgb(colour))) < 0.02).all(axis=2).sum())


def panels(image):
    """The parts of the image below its legend: loss, accuracy, learning rate."""
    return image[100:370], image[400:675], image[715:845]


def constant_log(**changes):
    log = TrainingLog(
        net="net",
        train=[TrainRow(i, None, 1.0) for i in range(0, 300, 100)],
        tests={0: [OutputRow(i, None, None, {"accuracy": 0.5}) for i in range(0, 300, 100)]},
        learning_rates=[LearningRateRow(i, None, 0.01) for i in range(0, 300, 100)],
    )
    for name, value in changes.items():
        setattr(log, name, value)
    return log


def test_three_logs_are_drawn_over_one_another_in_three_panels(tmp_path):
    logs = {
        name: parse_log(write_log(tmp_path / f"{name}.log", seed, accuracy=0.97 + seed / 100))
        for seed, name in enumerate(["teacher", "alone", "distilled"])
    }
    plot(logs, tmp_path / "out.png", "MNIST")
    image = pixels(tmp_path / "out.png")
    assert image.shape == (900, 1200, 3)
    for panel in panels(image):
        for colour in COLOURS[:3]:
            assert count(panel, colour) > 300
        assert count(panel, COLOURS[3]) == 0


def test_runs_with_equal_rates_are_all_seen(tmp_path):
    plot({"a": constant_log(), "b": constant_log()}, tmp_path / "out.png", "title")
    rate = panels(pixels(tmp_path / "out.png"))[2]
    assert count(rate, COLOURS[0]) > 300 and count(rate, COLOURS[1]) > 300


def test_gradient_shares_get_a_panel_of_their_own(tmp_path):
    """The image is 200 pixels higher; the lines are where the shares are, 20% below 80%."""
    shares = [ShareRow(i, None, {"kd": 0.8, "loss": 0.2}) for i in range(0, 300, 100)]
    plot({"a": constant_log(gradient_shares=shares)}, tmp_path / "out.png", "title")
    image = pixels(tmp_path / "out.png")
    assert image.shape == (1100, 1200, 3)
    panel = image[690:870]
    close = (np.abs(panel - np.array(to_rgb(COLOURS[0]))) < 0.02).all(axis=2)
    rows = np.flatnonzero(close.sum(axis=1) > 100)
    assert len(rows) and 0.4 * len(panel) < np.ptp(rows) < 0.75 * len(panel)
    plot({"a": constant_log()}, tmp_path / "out.png", "title")
    assert pixels(tmp_path / "out.png").shape == (900, 1200, 3)


def test_first_value_far_off_does_not_flatten_the_rest(tmp_path):
    """The lines take most of the panel's height though iteration 0 had 10% and a loss of 9000."""
    log = parse_log(write_log(tmp_path / "a.log", first_loss=9000))
    plot({"a": log}, tmp_path / "out.png", "title")
    accuracy = panels(pixels(tmp_path / "out.png"))[1]
    close = (np.abs(accuracy - np.array(to_rgb(COLOURS[0]))) < 0.02).all(axis=2)
    rows = np.flatnonzero(close[:, 250:].any(axis=1))  # right of the first test
    assert np.ptp(rows) > 0.6 * len(accuracy)


def test_loss_that_is_not_a_number_is_marked(tmp_path):
    """A dotted line goes through the panel, where the curve ends."""
    losses = [1.0, 0.9, 0.8, math.nan, math.nan]
    train = [TrainRow(i * 1000, None, loss) for i, loss in enumerate(losses)]
    plot({"a": constant_log(train=train, tests={})}, tmp_path / "out.png", "title")
    loss = panels(pixels(tmp_path / "out.png"))[0]
    columns = (loss[:, 150:, 0] < 0.8).sum(axis=0)  # what is darker than the grid
    assert columns.max() > 0.25 * len(loss)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": []},
        {"tests": {}},
        {"learning_rates": []},
        {"train": [], "tests": {}},
        {"train": [TrainRow(0, None, 1.0)]},
        {"train": [TrainRow(i, None, math.nan) for i in range(50)]},
        {"train": [TrainRow(i, None, 0.0) for i in range(50)]},
        {"train": [TrainRow(i, None, v) for i, v in enumerate([math.inf, 1e308, -1e308] * 20)]},
        {"train": [TrainRow(i, None, v) for i, v in enumerate([1.0, 1e-320, 1e38] * 20)]},
        {"tests": {0: [OutputRow(0, None, None, {"mAP": 71.3})]}},
        {"tests": {0: [OutputRow(0, None, None, {f"prob#{i}": 0.1 for i in range(1000)})]}},
        {"tests": {i: [OutputRow(5, None, 1.0, {"accuracy": 0.5})] for i in range(6)}},
        {"learning_rates": [LearningRateRow(i, None, 0.0) for i in range(3)]},
    ],
)
def test_unusual_logs_can_be_drawn(tmp_path, changes):
    plot({"log": constant_log(**changes)}, tmp_path / "out.png")
    assert pixels(tmp_path / "out.png").shape == (900, 1200, 3)


@pytest.mark.parametrize(
    "label", ["_hidden", "$x_{$", "", "a" * 300, "線路", "\udcff", "two\nlines", "nolegend"]
)
def test_any_label_and_title(tmp_path, label):
    plot({label: constant_log(), "other": constant_log()}, tmp_path / "out.png", label)
    image = pixels(tmp_path / "out.png")
    assert count(image[:90], COLOURS[0]) > 50  # its colour stands in the legend
    assert image.shape == (900, 1200, 3)


def test_more_logs_than_the_palette_has_colours(tmp_path):
    logs = {f"run {i}": constant_log() for i in range(len(COLOURS) + 5)}
    plot(logs, tmp_path / "out.png")
    legend = pixels(tmp_path / "out.png")[:110, :1000].reshape(-1, 3)
    colours, counts = np.unique((legend * 255).round().astype(int), axis=0, return_counts=True)
    saturated = np.ptp(colours, axis=1) > 30
    assert (counts[saturated] > 100).sum() == len(logs)  # a handle is 30x4 pixels and its edge


def test_no_log_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no training log"):
        plot({}, tmp_path / "out.png")


def test_unwritable_image_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CaffeKDError, match=r"out\.png"):
        plot({"a": constant_log()}, tmp_path / "file" / "out.png")


def test_command_prints_the_path_it_wrote(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "a.log")
    write_log(tmp_path / "b.log", seed=1)
    assert main(["a.log", "b.log", "-title", "Two runs"]) == 0
    assert capsys.readouterr().out == "training.png\n"
    assert main(["a.log", "--output=new/x.png"]) == 0
    assert capsys.readouterr().out == "new/x.png\n"
    assert (tmp_path / "new" / "x.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((tmp_path / "new").glob(".*"))  # no temporary file is left


def test_command_draws_logs_of_one_name_from_two_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_log(tmp_path / folder / "train.log", seed=ord(folder))
    paths = [str(tmp_path / folder / "train.log") for folder in ("a", "b", "a")]
    assert main([*paths, "-output", str(tmp_path / "out.png")]) == 0
    loss = panels(pixels(tmp_path / "out.png"))[0]
    assert count(loss, COLOURS[1]) > 300 and count(loss, COLOURS[2]) == 0


def test_command_names_all_missing_files_and_writes_nothing(tmp_path, capsys):
    present = write_log(tmp_path / "a.log")
    output = tmp_path / "out.png"
    assert main(["x.log", str(present), "y.log", "-output", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "x.log, y.log" in error and error.count("\n") == 1
    assert not output.exists()


def test_command_refuses_what_is_no_log(tmp_path, capsys):
    (tmp_path / "net.prototxt").write_text('name: "net"\n')
    assert main([str(tmp_path / "net.prototxt"), "-output", str(tmp_path / "out.png")]) == 1
    error = capsys.readouterr().err
    assert "net.prototxt: is not a training log" in error and error.count("\n") == 1


def test_command_refuses_another_format(tmp_path, capsys):
    log = write_log(tmp_path / "a.log")
    assert main([str(log), "-output", str(tmp_path / "out.pdf")]) == 2
    assert "out.pdf" in capsys.readouterr().err


def test_command_without_logs_is_a_usage_error(capsys):
    assert main([]) == 2


def test_tool_works_from_a_checkout_in_any_folder(tmp_path):
    write_log(tmp_path / "a.log")
    tool = [sys.executable, str(ROOT / "tools" / "plot_training_log.py")]
    answer = subprocess.run([*tool, "a.log"], cwd=tmp_path, capture_output=True, text=True)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "training.png\n", "")
    assert (tmp_path / "training.png").exists()


def test_help_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys; from caffe_kd.cli.plot_training_log import main\n"
        "try: main(['-h'])\n"
        "except SystemExit: print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("stem", ["student_distilled_20261129-120000_{}", "W" * 40 + "{}"])
def test_legend_of_several_logs_stays_within_the_image(tmp_path, count, stem):
    logs = [write_log(tmp_path / f"{stem.format(i)}.log", seed=i) for i in range(count)]
    assert main([*map(str, logs), "-output", str(tmp_path / "out.png")]) == 0
    image = pixels(tmp_path / "out.png")
    assert (image[:250, -8:] > 0.99).all()  # no letter runs over the right edge
    labels = image[:, :500]
    for colour in COLOURS[:count]:
        assert (np.abs(labels - to_rgb(colour)).max(axis=2) < 0.01).any(axis=1)[:250].any()
