"""What is shown of trials whose values lie far apart."""

from __future__ import annotations

import pytest

from caffe_kd.recipes.search.report import _span

VALUES = [0.1, 0.95, 0.96, 0.97, 0.98]


@pytest.mark.parametrize("sign", [1, -1])
def test_span_leaves_out_what_went_wrong_and_never_the_best(sign: int) -> None:
    span = _span([sign * value for value in VALUES], higher=sign > 0)
    assert span is not None
    shown = [value for value in VALUES if span[0] <= sign * value <= span[1]]
    assert shown == VALUES[1:]
    lucky = [sign * value for value in (0.1, 0.1, 0.11, 0.12, 0.98)]
    span = _span(lucky, higher=sign > 0)
    assert span is not None
    assert span[0] <= sign * 0.98 <= span[1]


def test_span_of_few_or_equal_values_is_left_to_the_axis() -> None:
    assert _span(VALUES[:3], higher=True) is None
    assert _span([0.5] * 6, higher=True) is None
