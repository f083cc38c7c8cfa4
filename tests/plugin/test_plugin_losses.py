"""The plugin's layers beside those of this package: values, gradients, finite differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from caffe_kd import plugin
from caffe_kd.core.errors import NetError
from caffe_kd.plugin.features import pooling, variational_information
from tests.helpers import make_layer, run
from tests.layers.python_nets import without_caffe

pytestmark = without_caffe

# The plugin computes in double precision, the layers in float32, sums of some 100 terms.
RTOL = 2e-5
# Differences quotients at steps of 1e-6 of values of order 1.
GRADIENT_RTOL = 1e-5

MAPS, FEWER, LARGER = (4, 3, 6, 6), (4, 5, 4, 5), (4, 3, 9, 8)
ROWS, WIDE = (6, 5), (6, 7)
LOGITS, PIXELS = (6, 5), (3, 4, 2, 2)


@dataclass
class Case:
    """A layer type with its settings, in prototxt and in param_str, and its bottoms."""

    type: str
    shapes: list[tuple[int, ...]]
    own: str = ""
    settings: str = ""
    students: int = 1
    label: bool = False
    ignored: int | None = None
    scale: float = 1.0
    id: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.type} {self.settings} {self.shapes[0]}"

    def bottoms(self) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        drawn = [torch.randn(s, generator=generator) * self.scale for s in self.shapes]
        if self.label:
            shape = self.shapes[0]
            label = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
            if self.ignored is not None:
                label.reshape(-1)[::3] = self.ignored
            drawn.append(label.float())
        return drawn


def distilling(settings: str, shape: tuple[int, ...], more: str = "", **kind: Any) -> Case:
    own = f"distilling_loss_param {{ {settings} }} loss_param {{ {more} }}"
    return Case("DistillingLoss", [shape, shape], own, f"{settings} {more}", **kind, scale=3)


def of(param: str, settings: str) -> dict[str, str]:
    return {"own": f"{param} {{ {settings} }}", "settings": settings}


SMOOTH = [
    distilling("standardize: true", LOGITS),
    distilling("standardize: true temperature: 2 divergence: MSE", PIXELS),
    distilling(
        "standardize: true alpha: 0.6", PIXELS, "ignore_label: 9", label=True, ignored=9
    ),
    *(
        Case("DecoupledDistillingLoss", [shape, shape], label=True, scale=3,
             **of("decoupled_distilling_loss_param", settings))
        for shape in (LOGITS, PIXELS, (5, 2))
        for settings in ("", "temperature: 2 alpha: 0.5 beta: 3")
    ),
    Case(
        "DecoupledDistillingLoss", [PIXELS, PIXELS], "loss_param { ignore_label: 1 }",
        "ignore_label: 1", label=True, ignored=1, scale=3,
    ),
    *(
        Case("DISTLoss", [shape, shape], scale=2, **of("dist_loss_param", settings))
        for shape in (LOGITS, PIXELS)
        for settings in ("", "temperature: 3 beta: 0.5 gamma: 2")
    ),
    Case(
        "SoftmaxWithLoss", [PIXELS], "loss_param { label_smoothing: 0.2 ignore_label: 2 }",
        "label_smoothing: 0.2 ignore_label: 2", label=True, ignored=2,
    ),
    Case("HintLoss", [MAPS, MAPS]),
    Case("HintLoss", [ROWS, (6, 5, 1, 1)], **of("hint_loss_param", "distance: NORM")),
    *(Case("AttentionTransferLoss", [MAPS, s]) for s in (MAPS, FEWER, LARGER)),
    *(Case("NSTLoss", [MAPS, s]) for s in (MAPS, FEWER, LARGER)),
    *(
        Case("FactorTransferLoss", [MAPS, shape], **of("factor_transfer_loss_param", settings))
        for shape, settings in (
            (FEWER, ""), (LARGER, "p1: 0"), (FEWER, "p1: 3 p2: 2"), (FEWER, "p1: 1"),
        )
    ),
    Case("ABLoss", [MAPS, MAPS]),
    Case("ABLoss", [ROWS, ROWS], **of("ab_loss_param", "margin: 0.3")),
    Case("FSPLoss", [MAPS, (4, 2, 3, 4), LARGER, (4, 2, 4, 9)], students=2),
    *(
        Case(kind, [ROWS, other])
        for kind in (
            "SimilarityPreservingLoss", "RelationalDistanceLoss", "RelationalAngleLoss", "PKTLoss",
        )
        for other in (ROWS, WIDE, (6, 2, 3, 1))
    ),
    Case("CorrelationCongruenceLoss", [ROWS, ROWS]),
    Case("SampleGraphLoss", [ROWS, ROWS]),
    Case(
        "SampleGraphLoss", [ROWS, WIDE],
        **of("sample_graph_loss_param", "neighbours: 2 node_weight: 0 edge_weight: 3"),
    ),
]  # fmt: skip

# No gradient goes through the weights, nor to the teachers of an ensemble.
DETACHED = [
    distilling("hard_sample_weight: FOCAL focal_gamma: 1.5", LOGITS, label=True),
    distilling("hard_sample_weight: FOCAL", PIXELS, "ignore_label: 9", label=True, ignored=9),
    distilling("hard_sample_weight: WEIGHTED_SOFT_LABEL divergence: MSE", PIXELS, label=True),
    distilling("hard_sample_weight: WEIGHTED_SOFT_LABEL standardize: true", LOGITS, label=True),
]


def python(case: Case) -> str:
    return (
        f'type: "Python" loss_weight: 1 python_param {{ module: "caffe_kd.plugin" '
        f'layer: "{case.type}" param_str: "{case.settings}" }}'
    )


def outcome(body: str, case: Case) -> list[np.ndarray]:
    """Return the top, and the gradients to the student's bottoms of a weighted sum of it."""
    bottoms = case.bottoms()
    for bottom in bottoms[: case.students]:
        bottom.requires_grad_()
    (top,) = run(make_layer(body, *(tuple(b.shape) for b in bottoms)), *bottoms)
    (top * torch.arange(1.0, 1 + top.numel()).reshape(top.shape) * 1.5).sum().backward()
    gradients = [b.grad.numpy() for b in bottoms[: case.students]]
    return [top.detach().reshape(-1).numpy(), *gradients]


@pytest.mark.parametrize("case", [*SMOOTH, *DETACHED], ids=str)
def test_layer_equals_the_packages_own(case: Case) -> None:
    expected = outcome(f'type: "{case.type}" {case.own}', case)
    found = outcome(python(case), case)
    for theirs, mine in zip(expected, found, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(mine, theirs, rtol=RTOL, atol=RTOL * np.abs(theirs).max())


class Blob:
    """A blob in double precision."""

    def __init__(self, values: np.ndarray) -> None:
        self.data, self.diff = values, np.zeros_like(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def reshape(self, *dims: int) -> None:
        self.data, self.diff = np.zeros(dims), np.zeros(dims)


class Vector:
    """Blobs as pycaffe gives them to a layer: by number alone, and never in a loop."""

    __iter__ = None

    def __init__(self, blobs: list[Blob]) -> None:
        self._blobs = blobs

    def __len__(self) -> int:
        return len(self._blobs)

    def __getitem__(self, index: int) -> Blob:
        return self._blobs[index]


def made(kind: str, settings: str, bottoms: Vector) -> tuple[Any, Vector]:
    layer, tops = getattr(plugin, kind)(None), Vector([Blob(np.zeros(0))])
    layer.param_str = settings
    layer.setup(bottoms, tops)
    layer.reshape(bottoms, tops)
    return layer, tops


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_gradient_is_that_of_the_value(case: Case) -> None:
    blobs = [Blob(b.double().numpy()) for b in case.bottoms()]
    bottoms = Vector(blobs)
    layer, tops = made(case.type, case.settings, bottoms)
    layer.forward(bottoms, tops)
    tops[0].diff[...] = 1
    down = [True] * len(bottoms)
    layer.backward(tops, down, bottoms)
    for bottom in blobs[case.students :]:
        assert not bottom.diff.any()
    draw, step = np.random.default_rng(0), 1e-6
    for student in blobs[: case.students]:
        gradient, values = student.diff.copy(), student.data
        for index in draw.choice(values.size, min(values.size, 24), replace=False):
            at = np.unravel_index(index, values.shape)
            ends = []
            for moved in (values[at] + step, values[at] - step):
                student.data = values.copy()
                student.data[at] = moved
                layer.forward(bottoms, tops)
                ends.append(float(tops[0].data.item()))
            student.data = values
            slope = (ends[0] - ends[1]) / (2 * step)
            most = np.abs(gradient).max()
            assert gradient[at] == pytest.approx(slope, rel=GRADIENT_RTOL, abs=1e-4 * most)


def test_gradient_of_features_that_are_zero_is_finite() -> None:
    for kind in ("AttentionTransferLoss", "NSTLoss", "FactorTransferLoss"):
        bottoms = Vector([Blob(np.zeros(MAPS)), Blob(np.ones(MAPS))])
        layer, tops = made(kind, "", bottoms)
        layer.forward(bottoms, tops)
        tops[0].diff[...] = 1
        layer.backward(tops, [True, False], bottoms)
        assert np.isfinite(bottoms[0].diff).all() and np.isfinite(tops[0].data).all()


@pytest.mark.parametrize("kind", ["RelationalDistanceLoss", "PKTLoss", "SimilarityPreservingLoss"])
def test_samples_that_coincide_give_the_packages_own_gradient(kind: str) -> None:
    bottoms = [torch.ones(4, 3), torch.arange(12.0).reshape(4, 3)]
    results = []
    for body in (f'type: "{kind}"', python(Case(kind, []))):
        student = bottoms[0].clone().requires_grad_()
        (top,) = run(make_layer(body, (4, 3), (4, 3)), student, bottoms[1])
        top.sum().backward()
        results.append([top.detach().reshape(-1).numpy(), student.grad.numpy()])
    for theirs, mine in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=RTOL, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(6, 3), (7, 3), (5, 4), (9, 1)])
def test_pooling_is_torchs(before: int, after: int) -> None:
    x = torch.randn(1, 1, before, dtype=torch.float64)
    expected = torch.nn.functional.adaptive_avg_pool1d(x, after)[0, 0]
    np.testing.assert_allclose(pooling(before, after) @ x[0, 0].numpy(), expected, rtol=1e-12)


VID = [(MAPS, (4, 3, 4, 9)), (ROWS, (6, 5, 1, 1))]


def vid_gradients(body: str, shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    case = Case("VIDLoss", list(shapes))
    bottoms = case.bottoms()
    bottoms[0].requires_grad_()
    layer = make_layer(body, *shapes)
    (scale,) = layer.parameters_in_order
    with torch.no_grad():
        scale += torch.arange(len(scale))
    (top,) = run(layer, *bottoms)
    (top.sum() * 1.5).backward()
    return [top.detach().reshape(-1).numpy(), bottoms[0].grad.numpy(), scale.grad.numpy()]


@pytest.mark.parametrize("shapes", VID, ids=str)
def test_vid_loss_with_its_variances_equals_the_packages_own(
    shapes: tuple[tuple[int, ...], ...],
) -> None:
    own = 'type: "VIDLoss" vid_loss_param { initial_variance: 2 }'
    expected = vid_gradients(own, shapes)
    found = vid_gradients(python(Case("VIDLoss", [], settings="initial_variance: 2")), shapes)
    for theirs, mine in zip(expected, found, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(mine, theirs, rtol=RTOL, atol=RTOL * np.abs(theirs).max())


def test_gradients_of_variational_information_are_those_of_the_value() -> None:
    draw, step = np.random.default_rng(0), 1e-6
    student, teacher, scale = draw.normal(size=(2, 3, 2)), draw.normal(size=(2, 3, 2)), np.ones(3)
    _, to_student, to_scale = variational_information(student, teacher, scale)
    for values, gradient in ((student, to_student), (scale, to_scale)):
        for index in np.ndindex(*values.shape):
            ends = []
            for sign in (1, -1):
                values[index] += sign * step
                ends.append(variational_information(student, teacher, scale)[0])
                values[index] -= sign * step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert gradient[index] == pytest.approx(slope, rel=GRADIENT_RTOL, abs=1e-8)


# ---- logits of several teachers, and of other classes


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        ("", ""),
        ("mean: LOGITS weight: 1 weight: 3", "mean: LOGITS weight: '1 3'"),
        ("weight: 0 weight: 2 temperature: 2", "weight: '0 2' temperature: 2"),
    ],
)
def test_teacher_ensemble_equals_the_packages_own(own: str, settings: str) -> None:
    case = Case("TeacherEnsemble", [PIXELS, PIXELS], settings=settings, students=0, scale=3)
    bottoms = case.bottoms()
    tops = [
        run(make_layer(body, PIXELS, PIXELS), *bottoms)[0].detach().numpy()
        for body in (f'type: "TeacherEnsemble" teacher_ensemble_param {{ {own} }}', python(case))
    ]
    np.testing.assert_allclose(tops[1], tops[0], rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        ("class: 3 class: 1", "group: '3/1'"),
        ("group { class: 0 class: 2 } group { class: 1 } temperature: 2",
         "group: '0 2/1' temperature: 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("axis", [1, 0, -1])
def test_class_map_equals_the_packages_own(own: str, settings: str, axis: int) -> None:
    shape = [2, 2, 2]
    shape[axis] = 4
    case = Case("ClassMap", [tuple(shape)], settings=f"{settings} axis: {axis}", scale=3)
    expected = outcome(f'type: "ClassMap" class_map_param {{ {own} axis: {axis} }}', case)
    for theirs, mine in zip(expected, outcome(python(case), case), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("kind", ["TeacherEnsemble", "ClassMap", "SoftmaxWithTemperature"])
def test_layer_of_logits_takes_blobs_as_pycaffe_gives_them(kind: str) -> None:
    bottoms = Vector([Blob(np.arange(6.0).reshape(2, 3))])
    layer, tops = made(kind, "group: '1/0 2'" if kind == "ClassMap" else "", bottoms)
    layer.forward(bottoms, tops)
    layer.backward(tops, [kind != "TeacherEnsemble"], bottoms)
    assert np.isfinite(tops[0].data).all()


# ---- mistakes


@pytest.mark.parametrize(
    ("kind", "settings", "shapes", "fact"),
    [
        ("HintLoss", "", [ROWS, WIDE], "same number of values per sample"),
        ("HintLoss", "", [(4, 2, 3, 1), (4, 2, 1, 3)], "maps must have the same shape"),
        ("HintLoss", "distance: L1", [ROWS, ROWS], "distance cannot be 'L1'"),
        ("AttentionTransferLoss", "", [ROWS, ROWS], "needs maps of 4 axes"),
        ("AttentionTransferLoss", "p: 2", [MAPS, MAPS], "no setting 'p'. Known: none"),
        ("NSTLoss", "", [MAPS, (3, 3, 6, 6)], "the same number of samples"),
        ("FactorTransferLoss", "p1: 0", [MAPS, FEWER], "same number of channels"),
        ("FactorTransferLoss", "p2: 0", [MAPS, FEWER], "p2 must be at least 1"),
        ("FactorTransferLoss", "p1: -1", [MAPS, FEWER], "p1 cannot be '-1'"),
        ("FSPLoss", "", [MAPS, MAPS], "it takes 4 bottoms"),
        ("ABLoss", "margin: 0", [MAPS, MAPS], "margin must be above 0"),
        ("VIDLoss", "", [MAPS, FEWER], "same number of channels"),
        ("VIDLoss", "initial_variance: 0", [MAPS, MAPS], "must be above 1e-05"),
        ("PKTLoss", "", [ROWS, (5, 5)], "the same number of samples"),
        ("CorrelationCongruenceLoss", "", [ROWS, WIDE], "same number of values"),
        ("SampleGraphLoss", "node_weight: -1", [ROWS, ROWS], "node_weight must be at least 0"),
        ("DecoupledDistillingLoss", "beta: -1", [LOGITS, LOGITS, (6,)], "beta must be at least 0"),
        ("DecoupledDistillingLoss", "", [(6, 1), (6, 1), (6,)], "at least 2 classes"),
        ("DISTLoss", "gamma: -1", [LOGITS, LOGITS], "gamma must be at least 0"),
        ("DistillingLoss", "standardize: true divergence: PSEUDO_LABEL", [LOGITS, LOGITS],
         "standardize has no effect"),
        ("DistillingLoss", "hard_sample_weight: FOCAL", [LOGITS, LOGITS], "needs the label"),
        ("SoftmaxWithLoss", "label_smoothing: 2", [LOGITS, (6,)], "must be in 0..1"),
        ("TeacherEnsemble", "weight: '1 2 3'", [LOGITS, LOGITS], "for each bottom"),
        ("TeacherEnsemble", "", [LOGITS, PIXELS], "logits of the same shape"),
        ("ClassMap", "group: '1/1'", [LOGITS], "each only once"),
        ("ClassMap", "group: '1//2'", [LOGITS], "group cannot be '1//2'"),
        ("ClassMap", "", [LOGITS], "group must name classes"),
    ],
)  # fmt: skip
def test_mistake_is_an_error_that_names_it(
    kind: str, settings: str, shapes: list[tuple[int, ...]], fact: str
) -> None:
    with pytest.raises(NetError) as caught:
        make_layer(python(Case(kind, shapes, settings=settings)), *shapes)
    assert fact in str(caught.value)
