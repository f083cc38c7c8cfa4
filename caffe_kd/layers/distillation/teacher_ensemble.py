"""TeacherEnsemble: combines several teachers' outputs into one teacher's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from ...losses.teachers import mean_logits, mean_probabilities
from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register
from ..shared.scheduled import check_temperature, current, has_schedule

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("TeacherEnsemble", param="teacher_ensemble_param", bottoms=(1, None), origin="caffe_kd")
class TeacherEnsemble(Layer):
    """Combine several teachers' logits into one teacher's.

    With weights w_i that sum to 1::

        PROBABILITIES  z = T * log(sum of w_i softmax(z_i / T))
        LOGITS         z = sum of w_i z_i

    A loss that softens the top by the same T sees the mean of the teachers' softened
    probabilities: ``softmax(z / T) = sum of w_i softmax(z_i / T)``. So set ``temperature`` to that
    of the loss. LOGITS is the geometric mean of the probabilities at any T: a class that one
    teacher excludes is excluded.

    Fields of ``teacher_ensemble_param``: mean (PROBABILITIES, the default, or LOGITS), weight (one
    for each bottom, 0 or more; only ratios count; default: all equal), temperature (T, above 0,
    default 4, as DistillingLoss has) or temperature_schedule, axis (default 1).

    Bottoms: logits (N, C, ...) of each teacher, all of one shape. Top: logits of that shape.

    Raises:
        NetError: the bottoms differ in shape, the weights are not as many as the bottoms, one is
            below 0 or all are 0, or the temperature is not above 0.

    Source: Hinton, Vinyals, Dean, https://arxiv.org/abs/1503.02531: the arithmetic or geometric
        mean of an ensemble's outputs as soft targets.

    Sample::

        layer {
          name: "teachers"
          type: "TeacherEnsemble"
          bottom: "teacher1/fc8"  # (4, 10)
          bottom: "teacher2/fc8"  # (4, 10)
          top: "teachers"  # (4, 10)
          teacher_ensemble_param { weight: 2 weight: 1 temperature: 4 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.class_axis = self.axis(self.param.axis, len(bottom_shapes[0]))
        check_temperature(self)
        weights = list(self.param.weight) or [1.0] * len(bottom_shapes)
        if len(weights) != len(bottom_shapes):
            self.fail(
                "weight must be given once for each bottom, or never",
                weight=weights,
                bottoms=len(bottom_shapes),
            )
        total = sum(weights)
        if not (min(weights) >= 0 and 0 < total < math.inf):
            self.fail("weights must be 0 or more, and not all 0", weight=weights)
        self.weights = [weight / total for weight in weights]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for index, shape in enumerate(bottom_shapes):
            if shape != bottom_shapes[0]:
                self.fail(
                    "all teachers must have logits of the same shape. Where their classes differ, "
                    f"put a ClassMap between. bottom[0]: {bottom_shapes[0]}, "
                    f"bottom[{index}]: {shape}"
                )
        return bottom_shapes[:1]

    @property
    def per_sample(self) -> bool:
        return self.class_axis > 0 and not has_schedule(self, "temperature")

    def forward(self, *logits: Tensor) -> Tensor:
        if self.param.mean == pb.TeacherEnsembleParameter.LOGITS:
            return mean_logits(logits, self.weights)
        temperature = current(self, "temperature")
        return mean_probabilities(
            logits, self.weights, temperature=temperature, axis=self.class_axis
        )

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        of_logits = self.param.mean == pb.TeacherEnsembleParameter.LOGITS
        temperature = graph.constant(current(self, "temperature"), "temperature")
        terms = []
        for bottom, weight in zip(bottoms, self.weights, strict=True):
            value = bottom
            if not of_logits:
                soft, value = graph.temporary("soft"), graph.temporary("value")
                graph.node("Div", [bottom, temperature], [soft])
                graph.node("Softmax", [soft], [value], axis=self.class_axis)
            terms.append(graph.temporary("term"))
            graph.node("Mul", [value, graph.constant(weight, "weight")], terms[-1:])
        if of_logits:
            graph.node("Sum", terms, tops)
            return
        mean, logarithm = graph.temporary("mean"), graph.temporary("logarithm")
        graph.node("Sum", terms, [mean])
        graph.node("Log", [mean], [logarithm])
        graph.node("Mul", [logarithm, temperature], tops)
