import pytest
import torch
from torch.autograd import gradcheck

from caffe_kd.core.errors import NetError
from caffe_kd.losses.classification import softmax_cross_entropy
from caffe_kd.losses.soft_targets import focal_weights, soft_label_weights, soft_target_loss
from tests.layers.loss_nets import input_net, layer_of
from tests.layers.soft_losses import check_edge_cases, hold_deployment

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
        ("standardize: true", 0.863148),
        ("standardize: true scale_by_temperature: false", 0.863148 / 16),
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


@pytest.mark.parametrize("divergence", ["KL", "CROSS_ENTROPY", "MSE", "PSEUDO_LABEL"])
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
    # The same on the kept positions alone, as samples.
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


@pytest.mark.parametrize("divergence", ["KL", "CROSS_ENTROPY", "MSE", "PSEUDO_LABEL"])
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
        ((80,), "axis is out of range"),
    ],
)
def test_distilling_loss_of_unlike_logits_fails(teacher, text):
    with pytest.raises(NetError, match=text) as caught:
        loss_net(teacher=teacher)
    assert f"student=(8, 10), teacher={teacher}" in str(caught.value)


@pytest.mark.parametrize(("student", "teacher"), [((8,), (8, 10)), ((8, 10), (8,))])
def test_distilling_loss_of_a_label_in_the_logits_place_tells_the_order(student, teacher):
    order = "bottoms are the student's logits, the teacher's, then the label"
    with pytest.raises(NetError, match=rf"axis is out of range: {order}.*Received: student="):
        input_net(
            {"s": student, "t": teacher, "label": (8, 10)},
            'layer { name: "L" type: "DistillingLoss" bottom: "s" bottom: "t" bottom: "label" }',
        )


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


def test_distilling_loss_beside_euclidean_loss_and_labels_have_their_reference_values(values):
    net = input_net(
        {"s": (8, 10), "t": (8, 10), "label": (8,)},
        """
        layer { name: "e" type: "EuclideanLoss" bottom: "s" bottom: "t" top: "e" }
        layer { name: "c" type: "SoftmaxWithLoss" bottom: "s" bottom: "label" top: "c" }
        layer { name: "m" type: "DistillingLoss" bottom: "s" bottom: "t" top: "m"
                distilling_loss_param { divergence: MSE } }
        """,
    )
    net(values)
    for name, expected in (("e", 91.475166), ("c", 5.322546), ("m", 18.295033)):
        torch.testing.assert_close(net.blobs[name], torch.tensor(expected), **CLOSE)


def test_distilling_loss_pseudo_label_learns_the_teachers_best_class(values):
    student = values["s"].requires_grad_()
    net = loss_net("divergence: PSEUDO_LABEL temperature: 20")
    (gradient,) = torch.autograd.grad(net({"s": student, "t": values["t"]}), student)
    best = torch.nn.functional.one_hot(values["t"].argmax(1), 10)
    torch.testing.assert_close(gradient, (torch.softmax(student.detach(), 1) - best) / 8)


def test_distilling_loss_standardized_is_the_same_for_logits_of_another_scale(values):
    net = loss_net("standardize: true")
    want = net(logits_of(values))
    torch.testing.assert_close(net({"s": 9 * values["s"] - 4, "t": values["t"] / 3}), want)


@pytest.mark.parametrize(
    ("setting", "weigh"),
    [
        ("FOCAL", lambda s, t, y: focal_weights(s, y)),
        ("FOCAL focal_gamma: 0.5", lambda s, t, y: focal_weights(s, y, 0.5)),
        ("WEIGHTED_SOFT_LABEL", soft_label_weights),
    ],
)
@pytest.mark.parametrize("divergence", ["KL", "MSE"])
def test_distilling_loss_of_hard_samples_counts_more(values, setting, weigh, divergence):
    settings = f"alpha: 0.6 divergence: {divergence} hard_sample_weight: {setting}"
    loss = loss_net(settings, label=True)(values)
    labels = torch.arange(8)
    weights = weigh(values["s"], values["t"], labels).flatten()
    each = torch.stack(
        [
            soft_target_loss(values["s"][n : n + 1], values["t"][n : n + 1], divergence=divergence)
            for n in range(8)
        ]
    )
    hard = softmax_cross_entropy(values["s"], labels)
    torch.testing.assert_close(loss, 0.6 * (weights * each).mean() + 0.4 * hard)


def test_distilling_loss_weights_take_no_notice_of_ignored_labels(values):
    values["label"][:3] = 255
    settings = "hard_sample_weight: FOCAL"
    ignoring = loss_net(settings, label=True, extra="loss_param { ignore_label: 255 }")(values)
    kept = {k: v[3:] for k, v in values.items()}
    torch.testing.assert_close(ignoring, loss_net(settings, label=True, student=(5, 10))(kept))


def test_distilling_loss_smooths_its_labels_alone(values):
    smooth = "loss_param { label_smoothing: 0.1 }"
    loss = loss_net("alpha: 0.4", label=True, extra=smooth)(values)
    hard = torch.nn.functional.cross_entropy(values["s"], torch.arange(8), label_smoothing=0.1)
    torch.testing.assert_close(loss, 0.4 * torch.tensor(8.001925) + 0.6 * hard)


@pytest.mark.parametrize(("iteration", "alpha"), [(0, 1), (50, 0.75), (100, 0.5), (500, 0.5)])
def test_distilling_loss_alpha_follows_its_schedule(values, iteration, alpha):
    schedule = "alpha_schedule { point { value: 1 } point { iter: 100 value: 0.5 } }"
    net = loss_net(schedule, label=True)
    net.set_iteration(iteration)
    torch.testing.assert_close(net(values), loss_net(f"alpha: {alpha}", label=True)(values))


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "divergence: PSEUDO_LABEL",
        "standardize: true",
        "hard_sample_weight: FOCAL",
        "hard_sample_weight: WEIGHTED_SOFT_LABEL",
    ],
)
def test_distilling_loss_of_one_record_or_constant_logits_is_finite(settings):
    check_edge_cases(lambda n: loss_net(settings, label=True, student=(n, 10)))


def test_distilling_loss_is_absent_from_deployment():
    hold_deployment('type: "DistillingLoss"', label=True)


def test_distilling_loss_standardized_gradient():
    net = loss_net("standardize: true", student=(3, 4))
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    assert gradcheck(layer_of(net), (student, teacher))


@pytest.mark.parametrize("setting", ["FOCAL", "WEIGHTED_SOFT_LABEL"])
def test_distilling_loss_has_no_gradient_through_its_weights(values, setting):
    labels = torch.arange(8)
    student = values["s"].requires_grad_()
    net = loss_net(f"alpha: 1 hard_sample_weight: {setting}", label=True)
    (got,) = torch.autograd.grad(net(values), student)
    s, t = student.detach(), values["t"]
    weights = focal_weights(s, labels) if setting == "FOCAL" else soft_label_weights(s, t, labels)
    p_s, p_t = (torch.softmax(z / 4, 1) for z in (s, t))
    torch.testing.assert_close(got, weights * 4 * (p_s - p_t) / 8)


@pytest.mark.parametrize(
    ("settings", "extra", "words"),
    [
        ("alpha_schedule { point { value: 1 } }", "", "alpha.*needs the label as third bottom"),
        ("hard_sample_weight: FOCAL", "", "hard_sample_weight needs the label as third bottom"),
        ("", "loss_param { label_smoothing: 0.1 }", "label_smoothing needs the label as third"),
        ("standardize: true divergence: PSEUDO_LABEL", "", "standardize has no use with PSEUDO"),
        ("focal_gamma: -1", "", "focal_gamma must be at least 0"),
    ],
)
def test_distilling_loss_setting_without_use_fails(settings, extra, words):
    with pytest.raises(NetError, match=rf"layer 'L' \(DistillingLoss\): {words}"):
        loss_net(settings, extra=extra)


def test_distilling_loss_standardized_of_one_class_fails():
    with pytest.raises(NetError, match="standardize needs at least 2 classes"):
        loss_net("standardize: true", student=(3, 1))


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_distilling_loss_label_smoothing_out_of_range_fails(share):
    with pytest.raises(NetError, match=r"label_smoothing must be in 0\.\.1"):
        loss_net(label=True, extra=f"loss_param {{ label_smoothing: {share} }}")
