import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run
from tests.layers.loss_nets import input_net

SHAPE = (2, 5, 3)


def ensemble(settings="", *shapes):
    body = f'type: "TeacherEnsemble" teacher_ensemble_param {{ {settings} }}'
    return make_layer(body, *(shapes or (SHAPE, SHAPE, SHAPE)))


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return [torch.randn(SHAPE) * 3 for _ in range(3)]


def softened(z, temperature=4.0):
    return torch.softmax(z / temperature, 1)


def test_ensemble_softened_by_its_temperature_is_the_mean_of_the_probabilities(logits):
    (got,) = run(ensemble("temperature: 6"), *logits)
    mean = sum(softened(z, 6) for z in logits) / 3
    torch.testing.assert_close(softened(got, 6), mean)


def test_ensemble_weights_count_by_their_ratios(logits):
    (got,) = run(ensemble("weight: 2 weight: 0 weight: 6"), *logits)
    mean = 0.25 * softened(logits[0]) + 0.75 * softened(logits[2])
    torch.testing.assert_close(softened(got), mean)


def test_ensemble_of_logits_is_their_weighted_mean(logits):
    (got,) = run(ensemble("mean: LOGITS weight: 1 weight: 1 weight: 2"), *logits)
    torch.testing.assert_close(got, (logits[0] + logits[1] + 2 * logits[2]) / 4)


def test_ensemble_teaches_by_the_cross_entropy_of_all_its_teachers():
    torch.manual_seed(1)
    values = {name: torch.randn(4, 6) * 3 for name in "sab"}
    net = input_net(
        {name: (4, 6) for name in values},
        """
        layer { name: "E" type: "TeacherEnsemble" bottom: "a" bottom: "b" top: "both" }
        layer { name: "L" type: "DistillingLoss" bottom: "s" bottom: "both" top: "loss"
                distilling_loss_param { divergence: CROSS_ENTROPY } }
        """,
    )
    apart = [
        input_net(
            {"s": (4, 6), "t": (4, 6)},
            'layer { name: "L" type: "DistillingLoss" bottom: "s" bottom: "t" '
            "distilling_loss_param { divergence: CROSS_ENTROPY } }",
        )({"s": values["s"], "t": values[name]})
        for name in "ab"
    ]
    torch.testing.assert_close(net(values), sum(apart) / 2)


@pytest.mark.parametrize("settings", ["", "mean: LOGITS", "weight: 1 weight: 2 weight: 3 axis: -1"])
def test_ensemble_gradient_and_onnx(settings, logits):
    gradcheck(ensemble(settings), *logits)
    body = f'type: "TeacherEnsemble" teacher_ensemble_param {{ {settings} }}'
    check_onnx(layer_net(body, SHAPE, SHAPE, SHAPE, phase=pb.TEST))


def test_ensemble_of_one_teacher_is_its_answer(logits):
    (got,) = run(ensemble("", SHAPE), logits[0])
    torch.testing.assert_close(softened(got, 1), softened(logits[0], 1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("weight: 1 weight: 2", "weight must be given once for each bottom, or never"),
        ("weight: 1 weight: -1 weight: 1", "weights must be 0 or more, and not all 0"),
        ("weight: 0 weight: 0 weight: 0", "weights must be 0 or more, and not all 0"),
        ("weight: nan weight: 0 weight: 0", "weights must be 0 or more, and not all 0"),
    ],
)
def test_ensemble_weights_that_cannot_be_are_refused(settings, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(TeacherEnsemble\): {words}"):
        ensemble(settings)


def test_ensemble_of_unlike_teachers_is_refused():
    with pytest.raises(NetError, match=r"same shape.*put a ClassMap between.*\(2, 4, 3\)"):
        ensemble("", SHAPE, (2, 4, 3))
