import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.errors import NetError
from caffe_kd.losses.classification import softmax_cross_entropy
from caffe_kd.losses.soft_targets import soft_target_loss
from tests.layers.loss_nets import input_net, layer_of

# Two float32 sums of the same terms in another order; the reference values are float32 too.
CLOSE = {"rtol": 2e-6, "atol": 0.0}


def loss_net(settings="", label=False, student=(8, 10), teacher=None, extra=""):
    shapes = {"s": student, "t": teacher or student}
    if label:
        shapes["label"] = (student[0], 1, *student[2:])
    bottoms = " ".join(f'bottom: "{name}"' for name in shapes)
    return input_net(
        shapes,
        f'layer {{ name: "L" type: "DistillingLoss" {bottoms} top: "loss" {extra}'
        f" distilling_loss_param {{ {settings} }} }}",
    )


@pytest.fixture
def values():
    """The reference logits and labels."""
    torch.manual_seed(0)
    student, teacher = torch.randn(8, 10) * 3, torch.randn(8, 10) * 3
    return {"s": student, "t": teacher, "label": torch.arange(8.0).view(8, 1)}


def logits_of(values):
    return {k: values[k] for k in ("s", "t")}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("", 8.001925),
        ("temperature: 1", 4.725994),
        ("temperature: 4", 8.001925),
        ("temperature: 20", 8.114460),
        ("temperature: 4 scale_by_temperature: false", 8.001925 / 16),
        ("divergence: MSE", 18.295033),
        ("divergence: MSE temperature: 20", 18.295033),
    ],
)
def test_distilling_loss_of_two_bottoms_is_the_soft_term(values, settings, expected):
    net = loss_net(settings)
    objective = net(logits_of(values))
    torch.testing.assert_close(objective, torch.tensor(expected), **CLOSE)
    assert net.shapes["loss"] == net.blobs["loss"].shape == ()


@pytest.mark.parametrize(
    ("settings", "alpha"), [("", 0.9), ("alpha: 0.3", 0.3), ("alpha: 0", 0), ("alpha: 1", 1)]
)
def test_distilling_loss_of_three_bottoms_weighs_soft_and_hard(values, settings, alpha):
    loss = loss_net(settings, label=True)(values)
    expected = alpha * 8.001925 + (1 - alpha) * 5.322546
    torch.testing.assert_close(loss, torch.tensor(expected), **CLOSE)


def test_distilling_loss_is_the_sum_of_its_layers_apart(values):
    whole = loss_net("alpha: 0.5 temperature: 2", label=True)(values)
    parts = input_net(
        {"s": (8, 10), "t": (8, 10), "label": (8,)},
        """
        layer { name: "soft" type: "DistillingLoss" bottom: "s" bottom: "t" loss_weight: 0.5
                distilling_loss_param { temperature: 2 } }
        layer { name: "hard" type: "SoftmaxWithLoss" bottom: "s" bottom: "label" loss_weight: 0.5 }
        """,
    )(values)
    torch.testing.assert_close(whole, parts, **CLOSE)


def test_distilling_loss_weight_multiplies_the_objective_and_not_the_top(values):
    net = loss_net(extra="loss_weight: 0.5")
    objective = net(logits_of(values))
    torch.testing.assert_close(objective, net.blobs["loss"] / 2)
    torch.testing.assert_close(net.blobs["loss"], torch.tensor(8.001925), **CLOSE)


@pytest.mark.parametrize("divergence", ["KL", "MSE"])
def test_distilling_loss_of_an_equal_student_is_zero(values, divergence):
    loss = loss_net(f"divergence: {divergence}")({"s": values["s"], "t": values["s"].clone()})
    assert float(loss) == 0


def test_distilling_loss_cross_entropy_of_an_equal_student_is_the_entropy(values):
    loss = loss_net("divergence: CROSS_ENTROPY temperature: 1")(
        {"s": values["s"], "t": values["s"]}
    )
    entropy = torch.distributions.Categorical(logits=values["s"]).entropy().mean()
    torch.testing.assert_close(loss, entropy)


def test_distilling_loss_learns_by_t_times_the_difference_of_probabilities(values):
    student = values["s"].requires_grad_()
    loss = loss_net("temperature: 5")({"s": student, "t": values["t"]})
    p_s, p_t = (torch.softmax(values[k].detach() / 5, 1) for k in "st")
    torch.testing.assert_close(torch.autograd.grad(loss, student)[0], 5 * (p_s - p_t) / 8)


def teacher_gradient(values, extra):
    teacher = values["t"].clone().requires_grad_()
    student = values["s"].clone().requires_grad_()
    loss = loss_net(extra=extra)({"s": student, "t": teacher})
    return torch.autograd.grad(loss, [student, teacher], allow_unused=True)


def test_distilling_loss_gives_the_teacher_no_gradient(values):
    student, teacher = teacher_gradient(values, "")
    assert student.any()
    assert teacher is None


def test_distilling_loss_gives_the_teacher_a_gradient_if_propagate_down_says_so(values):
    student, teacher = teacher_gradient(values, "propagate_down: true propagate_down: true")
    assert student.any()
    assert teacher.any()


@pytest.mark.parametrize("divergence", ["KL", "CROSS_ENTROPY", "MSE"])
@pytest.mark.parametrize(
    ("loss_param", "divisor"),
    [
        ("ignore_label: 255", 11),
        ("ignore_label: 255 normalization: BATCH_SIZE", 2),
        ("ignore_label: 255 normalization: FULL", 18),
        ("ignore_label: 255 normalize: false", 2),
        ("ignore_label: 255 normalization: NONE", 1),
    ],
)
def test_distilling_loss_ignores_and_normalises_both_terms(loss_param, divisor, divergence):
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    labels = torch.randint(0, 4, (2, 1, 3, 3)).float()
    labels.view(-1)[::3] = 255
    labels.view(-1)[1] = 255
    kept = labels.flatten() != 255
    assert kept.sum() == 11
    net = loss_net(
        f"alpha: 0.4 divergence: {divergence}",
        label=True,
        student=(2, 4, 3, 3),
        extra=f"loss_param {{ {loss_param} }}",
    )
    loss = net({"s": student, "t": teacher, "label": labels})
    # The same on the kept positions alone, as records.
    rows = [z.movedim(1, -1).reshape(-1, 4)[kept] for z in (student, teacher)]
    soft = soft_target_loss(*rows, divergence=divergence)
    hard = softmax_cross_entropy(rows[0], labels.flatten()[kept])
    torch.testing.assert_close(loss, (0.4 * soft + 0.6 * hard) * 11 / divisor)


def test_distilling_loss_ignored_positions_get_no_gradient():
    net = loss_net("", label=True, student=(3, 4), extra="loss_param { ignore_label: -1 }")
    student = torch.randn(3, 4, requires_grad=True)
    loss = net({"s": student, "t": torch.randn(3, 4), "label": torch.tensor([[0.0], [-1], [3]])})
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.any(1).tolist() == [True, False, True]


def test_distilling_loss_with_every_label_ignored_is_zero():
    net = loss_net("", label=True, student=(3, 4), extra="loss_param { ignore_label: 1 }")
    values = {"s": torch.randn(3, 4), "t": torch.randn(3, 4), "label": torch.ones(3, 1)}
    assert float(net(values)) == 0


@pytest.mark.parametrize("divergence", ["KL", "CROSS_ENTROPY", "MSE"])
@pytest.mark.parametrize("axis", [1, -1])
def test_distilling_loss_gradient(divergence, axis):
    net = loss_net(
        f"divergence: {divergence} alpha: 0.7 axis: {axis}",
        label=True,
        student=(2, 3, 3),
        extra="loss_param { ignore_label: 1 }",
    )
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    labels = torch.tensor([[0.0, 1, 2], [2, 2, 1]])
    assert gradcheck(lambda s, t: layer_of(net)(s, t, labels), (student, teacher))


def test_distilling_loss_takes_logits_of_the_same_extents(values):
    net = loss_net(teacher=(8, 10, 1, 1))
    loss = net({"s": values["s"], "t": values["t"].view(8, 10, 1, 1)})
    torch.testing.assert_close(loss, torch.tensor(8.001925), **CLOSE)


def test_distilling_loss_takes_another_batch_size(values):
    net = loss_net(label=True, student=(3, 10))
    torch.testing.assert_close(net(values), loss_net(label=True)(values))


@pytest.mark.parametrize("settings", ["temperature: 0", "temperature: -4", "temperature: nan"])
def test_distilling_loss_temperature_not_above_zero_fails(settings):
    with pytest.raises(NetError, match=r"net.prototxt:3: layer 'L' .*temperature must be above 0"):
        loss_net(settings)


@pytest.mark.parametrize("alpha", ["-0.1", "1.1", "nan"])
def test_distilling_loss_alpha_out_of_range_fails(alpha):
    with pytest.raises(NetError, match=r"alpha must be in 0\.\.1.*alpha="):
        loss_net(f"alpha: {alpha}", label=True)


def test_distilling_loss_alpha_without_label_fails():
    with pytest.raises(NetError, match=r"alpha.*needs the label as third bottom"):
        loss_net("alpha: 0.9")


def test_distilling_loss_ignore_label_without_label_fails():
    with pytest.raises(NetError, match="ignore_label needs the label as third bottom"):
        loss_net(extra="loss_param { ignore_label: 0 }")


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ((8, 100), "same number of classes"),
        ((8, 10, 2), "same shape"),
        ((4, 10), "same shape"),
        ((80,), "same number of classes"),
    ],
)
def test_distilling_loss_of_unlike_logits_fails(teacher, text):
    with pytest.raises(NetError, match=text) as caught:
        loss_net(teacher=teacher)
    assert f"student=(8, 10), teacher={teacher}" in str(caught.value)


def test_distilling_loss_label_count_differs_fails():
    with pytest.raises(NetError, match="Number of labels must match number of predictions"):
        input_net(
            {"s": (8, 10), "t": (8, 10), "label": (9,)},
            'layer { name: "L" type: "DistillingLoss" bottom: "s" bottom: "t" bottom: "label" }',
        )


def test_distilling_loss_label_outside_the_classes_fails(values):
    values["label"] += 3
    with pytest.raises(NetError, match=r"layer 'L' \(DistillingLoss\).*label=10, classes=10"):
        loss_net(label=True)(values)
