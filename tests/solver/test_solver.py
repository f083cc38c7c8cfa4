from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import NonFiniteLoss
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights, write_weights
from caffe_kd.solver.signals import SignalActions
from caffe_kd.solver.solver import Solver
from tests.solver.training import (
    SETTINGS,
    STUDENT,
    MemoryLog,
    assert_same_weights,
    lines_of,
    losses_of,
    make_solver,
    solved,
    weights_of,
    write_rows,
)

TEST = SETTINGS + "test_iter: 3 test_interval: 2\n"
# The log prints six digits.
PRINTED = 1e-5

needs_signals = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")


def events_of(solver: Solver) -> list[str]:
    """What happened, in short: T4 a test at 4, D4 a display, R4 its rate, S4 a snapshot."""
    patterns = {
        "T": r"Iteration (\d+), Testing net \(#0\)$",
        "D": r"Iteration (\d+) \(\S+ iter/s, \S+s/\d+ iters\), loss = \S+$",
        "R": r"Iteration (\d+), lr = \S+$",
        "F": r"Iteration (\d+), loss = \S+$",
        "S": r"Snapshotting to binary proto file solver_iter_(\d+)\.caffemodel$",
    }
    events = []
    for line in lines_of(solver):
        for letter, pattern in patterns.items():
            if match := re.match(pattern, line):
                events.append(letter + match[1])
    return events


# ---- the order of events


def test_events_come_in_the_originals_order(folder):
    solver = solved(TEST + "display: 2 snapshot: 2 max_iter: 4")
    wanted = "T0 D0 R0 S2 T2 D2 R2 S4 F4 T4".split()
    assert events_of(solver) == wanted
    assert lines_of(solver)[-1] == "Optimization Done."


def test_no_test_comes_before_the_first_update_where_unwanted(folder):
    solver = solved(TEST + "test_initialization: false max_iter: 2 snapshot_after_train: false")
    assert events_of(solver) == ["T2"]


def test_end_is_displayed_and_tested_only_where_due(folder):
    solver = solved(TEST + "display: 3 max_iter: 5")
    assert events_of(solver) == ["T0", "D0", "R0", "T2", "D3", "R3", "T4", "S5"]


def test_snapshot_after_training_is_not_made_twice(folder):
    assert events_of(solved(SETTINGS + "snapshot: 3 max_iter: 6")) == ["S3", "S6"]
    assert events_of(solved(SETTINGS + "snapshot: 4 max_iter: 6")) == ["S4", "S6"]
    assert events_of(solved(SETTINGS + "snapshot: 4 snapshot_after_train: false")) == ["S4"]
    assert events_of(solved(SETTINGS + "snapshot_after_train: false")) == []


# ---- the loss displayed


def test_displayed_loss_is_the_mean_of_the_last_ones(folder):
    want = losses_of(make_solver(), 6)
    solver = solved(SETTINGS + "display: 1 average_loss: 3")
    shown = [float(line.rsplit(" ", 1)[1]) for line in solver.log.matching(r"iters\), loss")]
    means = [np.mean(want[max(0, i - 2) : i + 1]) for i in range(6)]
    assert shown == pytest.approx(means, rel=PRINTED)
    (last,) = solver.log.matching("^Iteration 6, loss = ")
    seventh = float(solver.net.blobs["loss"].detach())
    assert float(last.rsplit(" ", 1)[1]) == pytest.approx(
        np.mean([*want[4:], seventh]), rel=PRINTED
    )


def test_ring_of_losses_is_emptied_by_each_step_call(folder):
    solver = make_solver(SETTINGS + "display: 1 average_loss: 10")
    want = losses_of(solver, 3)
    shown = [float(line.rsplit(" ", 1)[1]) for line in solver.log.matching(r"iters\), loss")]
    assert shown == pytest.approx(want, rel=PRINTED)


def test_last_pass_only_looks(folder):
    looked = weights_of(solved(SETTINGS + "display: 6"))
    assert_same_weights(looked, weights_of(solved(SETTINGS)))


# ---- iter_size


def test_iter_size_makes_one_update_of_several_batches(folder):
    """Five batches of two rows, averaged, are one of ten."""
    settings = SETTINGS + "momentum: 0.9 weight_decay: 0.1 max_iter: 3 "
    for batch, iter_size in ((2, 5), (10, 1)):
        Path("net.prototxt").write_text(STUDENT.replace("batch_size: 4", f"batch_size: {batch}"))
        solver = solved(settings + f"iter_size: {iter_size} display: 1")
        shown = [float(line.rsplit(" ", 1)[1]) for line in solver.log.matching(r"iters\), loss")]
        if batch == 2:
            want, losses = weights_of(solver), shown
    for got, wanted in zip(weights_of(solver)["ip"], want["ip"], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert shown == pytest.approx(losses, rel=PRINTED)


# ---- testing


def test_test_reports_the_mean_of_its_batches(folder):
    solver = make_solver(TEST + "test_compute_loss: true")
    (scores,) = solver.test_all()
    again = make_solver(TEST)
    (net,) = again.test_nets
    with torch.no_grad():
        batches = [(float(net()), float(net.blobs["accuracy"])) for _ in range(3)]
    losses, accuracies = zip(*batches, strict=True)
    assert len(set(losses)) == 3
    assert scores["loss"] == pytest.approx([np.mean(losses)], rel=PRINTED)
    assert scores["accuracy"] == pytest.approx([np.mean(accuracies)], rel=PRINTED)
    (line,) = solver.log.matching("Test loss: ")
    assert float(line.split()[-1]) == pytest.approx(np.mean(losses), rel=PRINTED)


def test_objective_of_a_test_is_not_reported_unasked(folder):
    assert not solved(TEST).log.matching("Test loss")


def test_outputs_of_several_values_are_numbered_on(folder):
    Path("net.prototxt").write_text(
        STUDENT + 'layer { name: "a" type: "Silence" bottom: "ip" include { phase: TRAIN } }'
        'layer { name: "p" type: "Softmax" bottom: "ip" top: "p" }'
    )
    solver = solved(TEST + "max_iter: 1 display: 1")
    tests = [line.split(" = ")[0] for line in solver.log.matching("Test net output")]
    assert tests[:2] == ["    Test net output #0: accuracy", "    Test net output #1: loss"]
    assert tests[13] == "    Test net output #13: p"
    assert len(tests) == 14
    assert len(solver.log.matching("Train net output")) == 13


def test_each_test_net_has_its_number_and_its_rows(folder):
    write_rows(folder, "others", offset=1)
    Path("other.prototxt").write_text(STUDENT.replace("rows.txt", "others.txt"))
    solver = solved(TEST + 'test_iter: 1 test_net: "other.prototxt" max_iter: 2')
    tests = solver.log.matching("Testing net")
    assert tests == [f"Iteration {i}, Testing net (#{n})" for i in (0, 2) for n in (0, 1)]
    losses = [scores["loss"] for scores in solver.test_all()]
    assert losses[0] != losses[1]


def test_test_nets_see_the_weights_being_trained(folder):
    solver = make_solver(TEST)
    before = solver.test_all()
    solver.step(6)
    after = solver.test_all()
    assert before != after
    trained, tested = solver.net.node_of("ip").layer, solver.test_nets[0].node_of("ip").layer
    assert trained.blobs[0] is tested.blobs[0]


def test_testing_changes_no_weights(folder):
    assert_same_weights(weights_of(solved(TEST)), weights_of(solved(SETTINGS)))


# ---- weights to start from


def test_weights_of_the_solver_are_where_training_begins(folder):
    first = solved(SETTINGS)
    settings = SETTINGS.replace("random_seed: 1", "random_seed: 2")
    second = make_solver(settings + 'weights: "solver_iter_6.caffemodel" snapshot_prefix: "b"')
    assert_same_weights(weights_of(second), weights_of(first))
    assert "Finetuning from solver_iter_6.caffemodel" in lines_of(second)
    assert second.iter == 0


def test_weights_of_the_command_line_win(folder):
    first = solved(SETTINGS)
    second = make_solver(SETTINGS + 'weights: "lost.caffemodel"', weights=[str(first.snapshots[0])])
    assert_same_weights(weights_of(second), weights_of(first))


def test_layers_the_net_lacks_are_reported(folder):
    net = pb.NetParameter()
    net.layer.add(name="elsewhere", type="InnerProduct")
    write_weights("more.caffemodel", net, {"elsewhere": [np.ones(2, np.float32)]})
    solver = make_solver(SETTINGS, weights=["more.caffemodel"])
    assert "Ignoring source layer elsewhere" in lines_of(solver)


def test_weights_reach_layers_that_only_the_test_net_has(folder):
    Path("net.prototxt").write_text(
        STUDENT + 'layer { name: "probe" type: "InnerProduct" bottom: "ip" top: "probe" '
        "include { phase: TEST } inner_product_param { num_output: 1 } }"
    )
    net = pb.NetParameter()
    net.layer.add(name="probe", type="InnerProduct")
    values = [np.full((1, 3), 2, np.float32), np.full(1, 3, np.float32)]
    write_weights("probe.caffemodel", net, {"probe": values})
    solver = make_solver(TEST, weights=["probe.caffemodel"])
    for blob, value in zip(solver.test_nets[0].weights()["probe"], values, strict=True):
        assert np.array_equal(blob, value)


# ---- chance


def test_random_seed_gives_the_same_run_again(folder):
    one, same = solved(SETTINGS), solved(SETTINGS)
    other = solved(SETTINGS.replace("random_seed: 1", "random_seed: 2"))
    assert_same_weights(weights_of(one), weights_of(same))
    assert not np.array_equal(weights_of(one)["ip"][0], weights_of(other)["ip"][0])


def test_seed_that_was_drawn_is_reported_and_gives_the_same_run_again(folder):
    free = SETTINGS.replace("random_seed: 1", "")
    one = solved(free)
    (line,) = one.log.matching("random_seed is not given")
    seed = int(line.split()[-1])
    same = solved(free + f"random_seed: {seed}")
    assert_same_weights(weights_of(one), weights_of(same))


# ---- going on


@pytest.mark.parametrize("rule", ['type: "SGD" momentum: 0.9', 'type: "Adam" momentum: 0.9'])
def test_resumed_run_goes_on_where_it_was(folder, rule):
    """Ten rows in batches of five: the data stand at the start after an even iteration."""
    Path("net.prototxt").write_text(STUDENT.replace("batch_size: 4", "batch_size: 5"))
    settings = f"{SETTINGS} {rule} snapshot: 4 max_iter: 8 ".replace("fixed", "inv")
    settings += "gamma: 0.1 power: 0.75"
    whole = solved(settings)
    again = make_solver(settings)
    again.solve("solver_iter_4.solverstate")
    assert again.iter == 8
    for got, want in zip(weights_of(again)["ip"], weights_of(whole)["ip"], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    assert "Resuming from solver_iter_4.solverstate" in lines_of(again)


def test_resumed_multistep_keeps_the_steps_it_took(folder):
    settings = SETTINGS.replace("fixed", "multistep") + "gamma: 0.1 max_iter: 8 display: 1 "
    solved(settings + "stepvalue: 2 snapshot: 4")
    again = make_solver(settings + "stepvalue: 6")
    again.solve("solver_iter_4.solverstate")
    rates = [float(line.split()[-1]) for line in again.log.matching("lr = ")]
    assert rates == pytest.approx([0.01] * 4)


def test_run_may_be_resumed_at_its_end(folder):
    solver = solved(SETTINGS)
    again = make_solver(SETTINGS + "display: 1")
    again.solve(solver.snapshots[1])
    assert again.iter == 6
    assert_same_weights(weights_of(again), weights_of(solver))


# ---- a loss that is no number


def test_loss_that_is_not_finite_stops_and_tells_where(folder):
    # Of squares, so that the loss overflows while the weights are still finite.
    squares = STUDENT.replace("SoftmaxWithLoss", "EuclideanLoss")
    Path("net.prototxt").write_text(squares.replace("num_output: 3", "num_output: 1"))
    diverging = SETTINGS.replace("base_lr: 0.1", "base_lr: 1e20") + "snapshot: 1 max_iter: 50"
    solver = make_solver(diverging)
    with pytest.raises(NonFiniteLoss) as error:
        solver.solve()
    message = str(error.value)
    assert re.match(rf"the loss is (nan|inf) in iteration {solver.iter}: training stopped", message)
    assert f"Last snapshot: solver_iter_{solver.iter}.solverstate" in message
    assert "base_lr (now 1e+20)" in message
    assert read_weights(f"solver_iter_{solver.iter}.caffemodel")
    assert not Path(f"solver_iter_{solver.iter + 1}.caffemodel").exists()


def test_loss_that_is_not_finite_before_any_snapshot_says_so(folder):
    solver = make_solver(SETTINGS.replace("base_lr: 0.1", "base_lr: 3e38") + "max_iter: 50")
    with pytest.raises(NonFiniteLoss, match="Last snapshot: none yet"):
        solver.solve()
    assert not list(folder.glob("*.solverstate"))


# ---- signals


class SignallingLog(MemoryLog):
    """Sends signals to this process in given iterations, in the midst of training."""

    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.numbers = {int(key.removeprefix("at")): value for key, value in numbers.items()}

    def progress(self, iteration: int, max_iter: int, loss: float, lr: float) -> None:
        if iteration in self.numbers:
            os.kill(os.getpid(), self.numbers[iteration])


@needs_signals
def test_sigint_snapshots_and_stops_after_the_iteration(folder):
    with SignalActions() as signals:
        solver = make_solver(TEST + "display: 1", SignallingLog(at3=signal.SIGINT), signals)
        solver.solve()
    assert (solver.iter, solver.stopped) == (4, True)
    assert lines_of(solver)[-1] == "Optimization stopped early."
    assert events_of(solver)[-1] == "S4"
    again = make_solver(SETTINGS)
    again.restore("solver_iter_4.solverstate")
    assert_same_weights(weights_of(again), weights_of(solver))


@needs_signals
def test_sighup_snapshots_and_goes_on(folder):
    with SignalActions() as signals:
        solver = make_solver(SETTINGS, SignallingLog(at2=signal.SIGHUP), signals)
        solver.solve()
    assert events_of(solver) == ["S3", "S6"]
    assert not solver.stopped
    assert_same_weights(weights_of(solver), weights_of(solved(SETTINGS)))


@needs_signals
def test_second_sigint_interrupts(folder):
    class Impatient(SignallingLog):
        def progress(self, iteration: int, max_iter: int, loss: float, lr: float) -> None:
            for _ in range(2):
                super().progress(iteration, max_iter, loss, lr)

    with SignalActions() as signals:
        solver = make_solver(SETTINGS, Impatient(at2=signal.SIGINT), signals)
        with pytest.raises(KeyboardInterrupt):
            solver.solve()
    assert solver.iter == 2
    assert not list(folder.glob("*.solverstate"))


@needs_signals
def test_signals_are_heard_while_testing(folder):
    with SignalActions() as signals:
        solver = make_solver(TEST, signals=signals)
        os.kill(os.getpid(), signal.SIGHUP)
        solver.test_all()
        assert events_of(solver) == ["T0", "S0"]
        os.kill(os.getpid(), signal.SIGINT)
        solver.solve()
    assert solver.iter == 0
    assert lines_of(solver)[-5:-3] == ["Iteration 0, Testing net (#0)", "Test interrupted."]
    assert lines_of(solver)[-1] == "Optimization stopped early."
