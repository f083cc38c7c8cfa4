"""The formulas that layers print: their numbers are those that the layer computes with."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F

from caffe_kd.layers import Layer, layer_types
from caffe_kd.layers.formula import of_docstring, reduction
from tests.helpers import make_layer

LOSSES = sorted(name for name, kind in layer_types().items() if kind.is_loss)
LOGITS = [(4, 5), (4, 5), (4,)]


def explained(body: str, *shapes: tuple[int, ...]) -> list[str]:
    return make_layer(body, *shapes).explain([*shapes])


@pytest.mark.parametrize("name", LOSSES)
def test_docstring_of_every_loss_has_an_equation(name: str) -> None:
    lines = of_docstring(layer_types()[name].__doc__)
    assert any(re.search(r"\bloss\s+=", line) for line in lines), lines
    assert not any("``" in line for line in lines)


def test_docstring_without_a_formula_gives_its_first_sentence() -> None:
    assert of_docstring("Do it.\n\n    Raises:\n        X: ``loss = 1``.") == ["Do it."]
    assert of_docstring(None) == []


def test_layer_without_words_of_its_own_tells_its_fields() -> None:
    lines = explained('type: "ABLoss" ab_loss_param { margin: 2.5 }', (4, 3), (4, 3))
    assert lines[-1] == "with margin = 2.5"


def test_numbers_of_distilling_loss_make_its_value() -> None:
    """The formula gives the loss, with alpha, temperature and divisor as printed."""
    body = 'type: "DistillingLoss" distilling_loss_param { temperature: 3 alpha: 0.7 }'
    layer = make_layer(body, *LOGITS)
    loss, soft, names, hard = layer.explain(LOGITS)
    alpha, rest = map(float, re.findall(r"([\d.]+) \*", loss))
    match = re.match(r"soft = (\d+)\^2 \* sum of p_t \* .* / (\d+), p = softmax\(z / (\d+)\)", soft)
    assert match is not None
    square, divisor, t = map(float, match.groups())
    assert names == "z_s = x0, z_t = x1" and hard.endswith("[x2] / 4")
    z_s, z_t = torch.randn(4, 5), torch.randn(4, 5)
    label = torch.tensor([0.0, 1, 2, 3])
    p_s, p_t = F.softmax(z_s / t, 1), F.softmax(z_t / t, 1)
    value = alpha * square**2 * (p_t * (p_t.log() - p_s.log())).sum() / divisor
    value += rest * F.cross_entropy(z_s, label.long(), reduction="sum") / 4
    assert float(layer(z_s, z_t, label)) == pytest.approx(float(value), rel=1e-5)  # float32


@pytest.mark.parametrize(
    ("param", "words"),
    [
        ("divergence: MSE", "soft = sum of (z_s - z_t)^2 / (5 * 4)"),
        ("divergence: PSEUDO_LABEL", "soft = sum of -log softmax(z_s)[argmax z_t] / 4"),
        ("divergence: CROSS_ENTROPY", "soft = 4^2 * sum of -p_t * log p_s / 4, p = softmax(z / 4)"),
        ("scale_by_temperature: false", "soft = sum of p_t * (log p_t - log p_s) / 4, p ="),
        ("standardize: true", "each at mean 0 and deviation 1 over the classes"),
        ("hard_sample_weight: FOCAL", "w: the position's weight, FOCAL"),
        ("alpha_schedule { point { value: 1 } }", "loss = alpha * soft + (1 - alpha) * hard"),
        (
            "temperature_schedule { point { value: 2 } }",
            "soft = temperature^2 * sum of p_t * (log p_t - log p_s) / 4",
        ),
    ],
)
def test_settings_of_distilling_loss_are_in_its_words(param: str, words: str) -> None:
    lines = explained(f'type: "DistillingLoss" distilling_loss_param {{ {param} }}', *LOGITS)
    assert any(words in line for line in lines), lines


def test_forks_losses_tell_gradients_that_are_not_their_values() -> None:
    lines = explained(
        'type: "KnowledgeDistillation" knowledge_distillation_param { temperature: 3 }', *LOGITS[:2]
    )
    assert "gradient to z_s = 3 * (p_s - p_t) / 4, that of 3^2 * loss" in lines
    lines = explained(
        'type: "TempSoftmaxCrossEntropyLoss" tempsoftmax_param { temperature: 3 }', *LOGITS[:2]
    )
    assert "gradient to z_s = (z_s - z_t) / (5 * 3^2) / 4" in lines


def test_softmax_with_loss_tells_smoothing_and_a_forks_temperature() -> None:
    lines = explained(
        'type: "SoftmaxWithLoss" softmax_param { temperature: 2 } '
        "loss_param { label_smoothing: 0.1 normalization: NONE }",
        (4, 5),
        (4,),
    )
    assert lines[0] == "loss = sum of -log softmax(x0 / 2)[x1] / 1"
    assert "that of 2 * loss" in lines[1] and "label_smoothing 0.1" in lines[2]


def reduced(body: str, *shapes: tuple[int, ...]) -> str:
    return reduction(make_layer(body, *shapes), shapes)


def test_reduction_names_what_is_summed_and_the_divisor() -> None:
    pixels = [(2, 5, 3, 3), (2, 3, 3)]
    body = 'type: "SoftmaxWithLoss" loss_param { %s }'
    assert reduced(body % "", *pixels).startswith(
        "sum over 5 classes and 18 positions (2 samples of 9), divided by 18 (VALID"
    )
    assert "divided by 2 (BATCH_SIZE" in reduced(body % "normalization: BATCH_SIZE", *pixels)
    assert "divided by 1 (NONE" in reduced(body % "normalization: NONE", *pixels)
    assert "label is not 7: 18 at most" in reduced(body % "ignore_label: 7", *pixels)
    sigmoid = reduced('type: "SigmoidCrossEntropyLoss"', (2, 5), (2, 5))
    assert sigmoid.startswith("sum over 10 positions (2 samples of 5), divided by 2")
    assert "N = 2 samples" in reduced('type: "EuclideanLoss"', (2, 5), (2, 5))


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ('type: "DistillingLoss" distilling_loss_param { alpha: 0.3 }', ["soft", "hard"]),
        ('type: "DecoupledDistillingLoss"', ["target", "others"]),
        ('type: "DISTLoss" dist_loss_param { gamma: 2 }', ["classes", "samples"]),
    ],
)
def test_terms_of_a_loss_add_up_to_it(body: str, parts: list[str]) -> None:
    shapes = LOGITS[:2] if "DISTLoss" in body else LOGITS
    layer: Layer = make_layer(body, *shapes)
    bottoms = [torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0.0, 1, 2, 3])][: len(shapes)]
    terms = layer.terms(*bottoms)
    assert list(terms) == parts
    first, second = terms.values()
    assert torch.equal(first + second, layer(*bottoms))
    assert float(first) > 0 and float(second) > 0
