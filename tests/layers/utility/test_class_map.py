import pytest
import torch

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, gradcheck, layer_net, make_layer, run

SHAPE = (2, 6, 3)
PICKED = "class: 5 class: 0 class: 3"
JOINED = "group { class: 1 class: 4 class: 5 } group { class: 0 } group { class: 3 class: 2 }"


def class_map(settings, shape=SHAPE):
    return make_layer(f'type: "ClassMap" class_map_param {{ {settings} }}', shape)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(SHAPE) * 3


def test_class_map_picks_classes_in_their_order(logits):
    (got,) = run(class_map(PICKED), logits)
    assert torch.equal(got, logits[:, [5, 0, 3]])


@pytest.mark.parametrize("temperature", [1, 4])
def test_class_map_adds_the_probabilities_of_a_group(logits, temperature):
    (got,) = run(class_map(f"{JOINED} temperature: {temperature}"), logits)
    p = torch.softmax(logits / temperature, 1)
    wanted = torch.stack([p[:, [1, 4, 5]].sum(1), p[:, 0], p[:, [3, 2]].sum(1)], 1)
    torch.testing.assert_close(torch.softmax(got / temperature, 1), wanted)


def test_class_map_leaves_out_what_is_in_no_group(logits):
    (got,) = run(class_map("group { class: 1 class: 4 } group { class: 0 }"), logits)
    p = torch.softmax(logits / 4, 1)
    wanted = torch.stack([p[:, [1, 4]].sum(1), p[:, 0]], 1)
    torch.testing.assert_close(torch.softmax(got / 4, 1), wanted / wanted.sum(1, keepdim=True))


def test_class_map_along_another_axis(logits):
    want = class_map(JOINED)(logits)
    (last,) = run(class_map(f"{JOINED} axis: -1", (2, 3, 6)), logits.transpose(1, 2))
    torch.testing.assert_close(last.transpose(1, 2), want)


def test_class_map_takes_another_batch_size(logits):
    assert run(class_map(JOINED, (5, 6, 3)), logits)[0].shape == (2, 3, 3)


@pytest.mark.parametrize("settings", [PICKED, JOINED, "group { class: 2 class: 1 } axis: -1"])
def test_class_map_gradient_and_onnx(settings, logits):
    gradcheck(class_map(settings), logits)
    body = f'type: "ClassMap" class_map_param {{ {settings} }}'
    check_onnx(layer_net(body, SHAPE, phase=pb.TEST))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("", "needs either class or group.*class=0, group=0"),
        ("class: 1 group { class: 2 }", "needs either class or group.*class=1, group=1"),
        ("group { class: 2 } group { }", "every group must have a class"),
        ("class: 1 class: 1", "a class can be named only once"),
        ("group { class: 1 } group { class: 2 class: 1 }", "a class can be named only once"),
        ("class: 6", r"class must be in 0\.\.5.*class=6"),
    ],
)
def test_class_map_that_cannot_be_is_refused(settings, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(ClassMap\): {words}"):
        class_map(settings)
