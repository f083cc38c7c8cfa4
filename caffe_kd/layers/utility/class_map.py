"""ClassMap: logits of a student's classes out of a teacher's, or the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...losses.teachers import join_classes
from ..base import Layer, Shape, register
from ..shared.scheduled import check_temperature, current, has_schedule

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("ClassMap", param="class_map_param", origin="caffe_kd")
class ClassMap(Layer):
    """Make logits of other classes: some of the bottom's, in another order, or groups of them.

    Class g of the top stands for the classes c of its group::

        z_g = T * log(sum over c of e^(z_c / T)),  which is z_c for a group of one

    A loss that softens the top by the same T finds the groups' probabilities,
    ``sum over c of softmax(z / T)[c]``, divided by those of all groups: classes in no group are
    left out, as if the net did not have them. For a teacher with more classes than its student, or
    for a student with more, as when new classes are learned and old ones kept.

    Fields of ``class_map_param``: class (the bottom's class for each of the top's), or group
    { class class ... } for each of the top's; temperature (T, above 0, default 4, as DistillingLoss
    has; only groups of several use it) or temperature_schedule; axis (default 1).

    Bottom: logits (N, C, ...). Top: logits with as many classes as ``class`` or ``group`` is given.

    Raises:
        NetError: neither or both of class and group are given, a group is empty, a class is named
            twice or is not the bottom's, or the temperature is not above 0.

    Sample::

        layer {
          name: "map"
          type: "ClassMap"
          bottom: "teacher/fc8"  # (4, 10)
          top: "teacher/mapped"  # (4, 2)
          class_map_param { group { class: 0 class: 1 class: 2 } group { class: 7 } }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        (shape,) = bottom_shapes
        self.class_axis = self.axis(self.param.axis, len(shape))
        check_temperature(self)
        picked = [[c] for c in getattr(self.param, "class")]
        joined = [list(getattr(group, "class")) for group in self.param.group]
        if bool(picked) == bool(joined):
            self.fail(
                "needs either class or group, once for each class of the top",
                **{"class": len(picked), "group": len(joined)},
            )
        groups = picked or joined
        named = [c for group in groups for c in group]
        if not all(groups):
            self.fail("every group must have a class", group=groups)
        if len(set(named)) < len(named):
            self.fail("a class can be named only once", classes=named)
        if max(named) >= shape[self.class_axis]:
            self.fail(
                f"class must be in 0..{shape[self.class_axis] - 1}, the bottom's classes",
                **{"class": max(named)},
                bottom=shape,
            )
        most = max(map(len, groups))
        self.members = torch.tensor([g + g[:1] * (most - len(g)) for g in groups])
        self.padding = torch.tensor([[False] * len(g) + [True] * (most - len(g)) for g in groups])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        (shape,), at = bottom_shapes, self.class_axis
        return [(*shape[:at], len(self.members), *shape[at + 1 :])]

    @property
    def per_sample(self) -> bool:
        return self.class_axis > 0 and not has_schedule(self, "temperature")

    def forward(self, logits: Tensor) -> Tensor:
        if self.members.device != logits.device:
            self.members = self.members.to(logits.device)
            self.padding = self.padding.to(logits.device)
        return join_classes(
            logits,
            self.members,
            self.padding,
            temperature=current(self, "temperature"),
            axis=self.class_axis,
        )

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        at, (groups, most) = self.class_axis, self.members.shape
        if most == 1:
            members = graph.constant(self.members.flatten().tolist(), "classes")
            graph.node("Gather", [*bottoms, members], tops, axis=at)
            return
        temperature = graph.constant(current(self, "temperature"), "temperature")
        soft, parts, kept, joined = (
            graph.temporary(name) for name in ("soft", "parts", "kept", "joined")
        )
        graph.node("Div", [*bottoms, temperature], [soft])
        members = graph.constant(self.members.numpy(), "classes")
        graph.node("Gather", [soft, members], [parts], axis=at)
        after = [1] * (len(graph.shape(bottoms[0])) - at - 1)
        missing = np.where(self.padding.numpy(), np.float32(-np.inf), np.float32(0))
        missing = missing.reshape(groups, most, *after)
        graph.node("Add", [parts, graph.constant(missing, "missing")], [kept])
        graph.node("ReduceLogSumExp", [kept], [joined], axes=[at + 1], keepdims=0)
        graph.node("Mul", [joined, temperature], tops)
