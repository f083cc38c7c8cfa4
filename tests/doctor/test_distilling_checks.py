"""Each check of distillation in one net: a file that it speaks of, and one it is silent on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.binary import write_weights
from tests.doctor.examining import (
    FREEZE,
    INPUT,
    IP,
    LOSS,
    NET,
    assert_distinguishes,
    found,
    of,
    to_loss,
    write,
)

DISTILLING = """layer { name: "kd" type: "DistillingLoss" bottom: "ip" bottom: "t" LABEL top: "kd"
  distilling_loss_param { PARAM } REST }
"""
TEACHER = IP.replace('name: "ip"', 'name: "t"').replace('top: "ip"', 'top: "t"')
FROZEN_TEACHER = TEACHER.replace("inner_product_param", f"{FREEZE} inner_product_param")


def distilling(param="", label='bottom: "label"', rest="", teacher=FROZEN_TEACHER, after=""):
    layer = DISTILLING.replace("PARAM", param).replace("LABEL", label).replace("REST", rest)
    return f'name: "n"\n{INPUT}{teacher}{IP}{layer}{after}'


# Check, severity, words of the finding, a file with it and one without.
DECOUPLED = """layer { name: "kd" type: "DecoupledDistillingLoss" bottom: "ip" bottom: "t"
  bottom: "label" top: "kd" }
"""
MAPS = "".join(
    f"""layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" {mult}
  convolution_param {{ num_output: 2 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
"""
    for name, mult in (("s1", ""), ("s2", ""), ("t1", FREEZE), ("t2", FREEZE))
)
FSP = f"""name: "n"
{INPUT}{MAPS}layer {{ name: "kd" type: "FSPLoss" bottom: ["s1", "s2", "t1", "t2"] top: "kd" }}
"""
CASES = [
    (
        "decoupled_of_two_classes",
        "warning",
        "2 classes, so that the term with beta 8 is 0",
        f'name: "n"\n{INPUT}{FROZEN_TEACHER}{IP}{DECOUPLED}'.replace(": 5", ": 2"),
        f'name: "n"\n{INPUT}{FROZEN_TEACHER}{IP}{DECOUPLED}',
    ),
    (
        "student_as_teacher",
        "error",
        "both bottoms are 'ip'",
        distilling().replace('bottom: "t"', 'bottom: "ip"'),
        distilling(),
    ),
    (
        "student_as_teacher",
        "error",
        "layers that lead to 'ip' are trained, none that leads to 't' is",
        distilling().replace('bottom: "ip" bottom: "t"', 'bottom: "t" bottom: "ip"'),
        distilling(),
    ),
    (  # the student has the first two bottoms
        "student_as_teacher",
        "error",
        "layers that lead to 's1' are trained, none that leads to 't1' is",
        FSP.replace('["s1", "s2", "t1", "t2"]', '["t1", "t2", "s1", "s2"]'),
        FSP,
    ),
    (
        "unfrozen_teacher",
        "warning",
        "layers that lead to its teacher 't' are trained: 't'",
        distilling(teacher=TEACHER),
        distilling(),
    ),
    (
        "alpha_at_the_end",
        "warning",
        "the teacher has no effect",
        distilling("alpha: 0"),
        distilling(),
    ),
    ("alpha_at_the_end", "note", "the labels have no effect", distilling("alpha: 1"), distilling()),
    (
        "temperature_squared",
        "warning",
        "scale_by_temperature is false and loss_weight 1",
        distilling("scale_by_temperature: false"),
        distilling("scale_by_temperature: false", rest="loss_weight: 16"),
    ),
    (
        "temperature_squared",
        "warning",
        "which the layer applies itself",
        distilling(rest="loss_weight: 16"),
        distilling(),
    ),
    (
        "temperature_squared",
        "warning",
        "takes outputs softened at 4",
        to_loss(
            of(
                "SoftmaxWithTemperature",
                "softmax_with_temperature_param { temperature: 4 }",
                bottom="ip",
            ),
            "y",
        ),
        NET,
    ),
    ("temperature", "note", "the temperature is 1", distilling("temperature: 1"), distilling()),
    (
        "temperature",
        "note",
        "the temperature is 50",
        distilling("temperature: 50"),
        distilling("temperature: 20"),
    ),
    (
        "temperature",
        "note",
        "MSE uses no temperature",
        distilling("divergence: MSE temperature: 2"),
        distilling("divergence: MSE"),
    ),
    (
        "labels_twice",
        "warning",
        "both use the labels",
        distilling(after=LOSS),
        distilling(label="", after=LOSS),
    ),
    (
        "labels_twice",
        "warning",
        "both use the labels",
        distilling(after=LOSS),
        distilling("alpha: 1", after=LOSS),
    ),
]


def test_feature_losses_have_a_teacher_too(tmp_path: Path) -> None:
    hint = """layer { name: "h" type: "HintLoss" bottom: "ip" bottom: "t" top: "h" }"""
    for teacher, wanted in ((TEACHER, 1), (FROZEN_TEACHER, 0)):
        path = write(tmp_path, n=f'name: "n"\n{INPUT}{teacher}{IP}{hint}')
        assert len(found(path, "unfrozen_teacher")) == wanted
        meant = path.read_text().replace('top: "h"', 'top: "h" propagate_down: [true, true]')
        path = write(tmp_path, n=meant)
        assert found(path, "unfrozen_teacher") == []  # it is meant to learn


TEACHERS_LOSS = LOSS.replace('"loss"', '"t_loss"').replace('"ip"', '"t"')
BACK = """layer { name: "back" type: "DistillingLoss" bottom: "t" bottom: "ip" top: "back" }
"""
# The early exit "ip" learns from a deeper one, "t", of the same net.
EXITS = """layer { name: "c" type: "InnerProduct" bottom: "data" top: "c"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
""" + (TEACHER + IP).replace('bottom: "data"', 'bottom: "c"')


def unfrozen(folder: Path, net: str, *known: str) -> list[tuple[str, str]]:
    """Return what the check finds in a net that starts from weights for some of its layers."""
    path = write(folder, n=f'name: "n"\n{INPUT}{net}')
    if not known:
        return found(path, "unfrozen_teacher")
    weights = {name: [np.ones((5, 243)), np.ones(5)] for name in known}
    param = text.read(path, pb.NetParameter())
    write_weights(folder / "start.caffemodel", param, weights)
    return found(path, "unfrozen_teacher", weights=str(folder / "start.caffemodel"))


@pytest.mark.parametrize("others", [TEACHERS_LOSS, BACK, TEACHERS_LOSS + BACK + LOSS])
def test_nets_that_learn_from_each_other_are_no_unfrozen_teachers(
    tmp_path: Path, others: str
) -> None:
    kd = DISTILLING.replace("PARAM", "").replace("LABEL", "").replace("REST", "")
    assert unfrozen(tmp_path, TEACHER + IP + kd + others) == []
    assert unfrozen(tmp_path, TEACHER + IP + kd + others, "t", "ip") == []
    assert unfrozen(tmp_path, EXITS + kd + TEACHERS_LOSS) == []


def test_teacher_that_learns_without_being_asked_is_reported(tmp_path: Path) -> None:
    """By its name, by its weights, or since nothing but weight decay would change it."""
    kd = DISTILLING.replace("PARAM", "").replace("LABEL", "").replace("REST", "")
    assert len(unfrozen(tmp_path, TEACHER + IP + kd + LOSS)) == 1
    assert len(unfrozen(tmp_path, TEACHER + IP + kd + TEACHERS_LOSS, "t")) == 1
    assert len(unfrozen(tmp_path, EXITS + kd + LOSS)) == 1
    frozen = FROZEN_TEACHER + IP + kd + TEACHERS_LOSS
    assert unfrozen(tmp_path, frozen, "t") == []
    asked = kd.replace('top: "kd"', 'top: "kd" propagate_down: [true, true]')
    assert unfrozen(tmp_path, TEACHER + IP + asked + TEACHERS_LOSS, "t") == []


EXAMPLES = Path(__file__).parents[2] / "prototxt" / "distillation"


@pytest.mark.parametrize("solver", sorted(EXAMPLES.glob("*_solver.prototxt")), ids=lambda p: p.stem)
def test_no_teacher_of_the_examples_learns_without_being_asked(solver: Path) -> None:
    assert found(solver, "unfrozen_teacher", shapes={"": (1, 28, 28)}) == []


@pytest.mark.parametrize(("check", "severity", "words", "bad", "good"), CASES)
def test_check_speaks_of_one_net_and_is_silent_on_another(
    tmp_path: Path, check: str, severity: str, words: str, bad: str, good: str
) -> None:
    assert_distinguishes(tmp_path, check, severity, words, bad, good)
