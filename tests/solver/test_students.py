"""Several students that learn from each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import CaffeKDError, NetError, SolverError
from caffe_kd.net import load_net
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto.binary import read_weights
from tests.solver.training import STUDENT, assert_same_weights, lines_of, make_solver, weights_of

DISTILLER = """
layer { name: "a_from_b" type: "DistillingLoss" bottom: "a/ip" bottom: "b/ip" top: "a_from_b"
  distilling_loss_param { temperature: 1 } }
layer { name: "b_from_a" type: "DistillingLoss" bottom: "b/ip" bottom: "a/ip" top: "b_from_a"
  distilling_loss_param { temperature: 1 } }
"""
MUTUAL = """
student { name: "a" net: "net.prototxt" } student { name: "b" net: "net.prototxt" }
distiller_net: "distiller.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1
"""
# float32 sums in another order, after a few updates
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _mutual(folder: Path) -> None:
    Path("distiller.prototxt").write_text(DISTILLER)


def own_weights(path: str) -> dict[str, list[np.ndarray]]:
    return {x.name: x.blobs for x in read_weights(path) if x.blobs}


def test_students_learn_by_the_papers_gradients() -> None:
    solver = make_solver(MUTUAL + "test_iter: 1 test_interval: 3 max_iter: 3")
    nets = {name: [torch.from_numpy(b) for b in weights_of(solver)[f"{name}/ip"]] for name in "ab"}
    assert not torch.equal(nets["a"][0], nets["b"][0])
    history = {name: [torch.zeros_like(b) for b in blobs] for name, blobs in nets.items()}
    batches = []
    forward = solver.net.forward

    def watching(*args):
        objective = forward(*args)
        batches.append([solver.net.blobs[k].detach().clone() for k in ("data", "label")])
        return objective

    solver.net.forward = watching
    solver.step(3)
    for data, label in batches:
        logits = {n: data @ w.T + b for n, (w, b) in nets.items()}
        p = {n: torch.softmax(z, 1) for n, z in logits.items()}
        hard = torch.nn.functional.one_hot(label.long(), 3)
        for name, other in (("a", "b"), ("b", "a")):
            # d/dz of CE(z, y) + KL(p_other || p) is (p - y) + (p - p_other), over the batch
            delta = ((p[name] - hard) + (p[name] - p[other])) / len(data)
            grads = [delta.T @ data, delta.sum(0)]
            for blob, h, grad, mult in zip(nets[name], history[name], grads, (1, 2), strict=True):
                h.mul_(0.9).add_(0.1 * mult * grad)
                blob.sub_(h)
    for name, blobs in nets.items():
        for got, want in zip(weights_of(solver)[f"{name}/ip"], blobs, strict=True):
            assert np.abs(got - want.numpy()).max() < TOLERANCE


def test_each_student_is_tested_and_written_under_its_own_names() -> None:
    solver = make_solver(MUTUAL + "test_iter: 2 test_interval: 6")
    solver.solve()
    logged = " ".join(lines_of(solver))
    assert "a/accuracy = " in logged
    assert "b/accuracy = " in logged
    assert [x.name for x in solver.net.param.layer].count("data") == 1
    for name in "ab":
        weights = own_weights(f"solver_{name}_iter_6.caffemodel")
        net = load_net("net.prototxt", pb.TEST)
        assert net.load_weights(f"solver_{name}_iter_6.caffemodel").ignored == []
        assert_same_weights(weights, {"ip": weights_of(solver)[f"{name}/ip"]})
        assert_same_weights(net.weights(), weights)


def test_hdf5_snapshots_are_written_for_each_student() -> None:
    solver = make_solver(MUTUAL + "snapshot_format: HDF5")
    solver.solve()
    for name in "ab":
        weights = own_weights(f"solver_{name}_iter_6.caffemodel.h5")
        assert_same_weights(weights, {"ip": weights_of(solver)[f"{name}/ip"]})


@pytest.mark.parametrize("type", ["SGD", "Adam"])
def test_resumed_run_gives_the_same_bits(type: str) -> None:
    settings = MUTUAL + f'type: "{type}" max_iter: 9 snapshot: 4'
    make_solver(settings).solve()
    names = [f"solver{part}_iter_9.caffemodel" for part in ("", "_a", "_b")]
    names.append("solver_iter_9.solverstate")
    before = [Path(name).read_bytes() for name in names]
    make_solver(settings).solve("solver_iter_4.solverstate")
    assert [Path(name).read_bytes() for name in names] == before


def test_student_starts_from_its_own_weights() -> None:
    make_solver(MUTUAL).solve()
    start = own_weights("solver_a_iter_6.caffemodel")
    settings = MUTUAL.replace(
        'name: "b" net: "net.prototxt"',
        'name: "b" net: "net.prototxt" weights: "solver_a_iter_6.caffemodel"',
    )
    solver = make_solver(settings)
    assert_same_weights({"ip": weights_of(solver)["b/ip"]}, start)
    assert not np.array_equal(weights_of(solver)["a/ip"][0], start["ip"][0])


def test_student_that_changes_the_data_in_place_has_its_own() -> None:
    doubled = STUDENT.replace(
        'layer { name: "ip"',
        'layer { name: "twice" type: "Power" bottom: "data" top: "data" power_param { scale: 2 } }'
        ' layer { name: "ip"',
    )
    Path("twice.prototxt").write_text(doubled)
    solver = make_solver(MUTUAL.replace('"b" net: "net', '"b" net: "twice'))
    solver.net()
    blobs = solver.net.blobs
    assert torch.equal(blobs["b/data"], 2 * blobs["data"])
    weights, bias = (torch.from_numpy(x) for x in weights_of(solver)["a/ip"])
    assert torch.allclose(blobs["a/ip"], blobs["data"] @ weights.T + bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name: "b"', 'name: "a"'), "two students have the same name"),
        (('name: "b"', 'name: "b/c"'), "has only letters"),
        (('name: "b"', ""), "has only letters"),
        (
            ('student { name: "a"', 'net: "net.prototxt" student { name: "a"'),
            "net cannot be used",
        ),
        (('name: "b" net: "net.prototxt"', 'name: "b"'), "the student has no net"),
        (('name: "b" net: "net', 'name: "b" net: "lost'), "no such file"),
    ],
)
def test_wrong_students_are_reported_with_their_place(
    change: tuple[str, str], message: str
) -> None:
    with pytest.raises(SolverError, match=rf"solver.prototxt:\d+: .*{message}"):
        make_solver(MUTUAL.replace(*change))


def test_students_of_other_data_are_refused() -> None:
    Path("other.prototxt").write_text(STUDENT.replace("batch_size: 4", "batch_size: 5"))
    with pytest.raises(NetError, match="layer 'data' is written at .* differs there in hdf5_data"):
        make_solver(MUTUAL.replace('"b" net: "net', '"b" net: "other'))


def test_student_blob_that_is_not_there_is_reported() -> None:
    Path("distiller.prototxt").write_text(DISTILLER.replace("b/ip", "b/ipp"))
    with pytest.raises(CaffeKDError, match="Unknown bottom blob 'b/ipp'.*Did you mean 'b/ip'"):
        make_solver(MUTUAL)
