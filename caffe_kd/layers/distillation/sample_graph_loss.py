"""SampleGraphLoss: a student's similarity graph over the samples is its teacher's."""

from __future__ import annotations

import math

from torch import Tensor

from ...losses.relations import sample_graph
from ..base import Shape, register
from .pair_loss import PairLoss


@register("SampleGraphLoss", param="sample_graph_loss_param", bottoms=2, origin="caffe_kd")
class SampleGraphLoss(PairLoss):
    """Penalise a similarity graph over a batch's samples that differs from the teacher's.

    A node is a sample's embedding, scaled to length 1, ``x_i``; an edge's value is the cosine
    similarity of its ends, ``a_ij = x_i . x_j``. Edges go from each sample to its ``neighbours``
    most similar ones, in both graphs::

        loss = node_weight * mean over i of |x_i of the student - x_i of the teacher|^2
             + edge_weight * mean over edges of (a_ij of the student - a_ij of the teacher)^2

    Bottoms: the student's embeddings (N, ...), the teacher's (N, ...), of as many values unless
    node_weight is 0; a batch of one has no edges. Top: the loss, a scalar in
    0..4 * (node_weight + edge_weight). No gradient goes to the teacher unless ``propagate_down``
    asks for it.

    Raises:
        NetError: the bottoms differ in samples, or with a node_weight in values per sample, or a
            weight is negative.

    Source: Liu et al. 2019, Knowledge Distillation via Instance Relationship Graph (CVPR), whose
        edges are squared distances between all samples; cosines and nearest neighbours are this
        project's.

    Sample::

        layer {
          name: "graph"
          type: "SampleGraphLoss"
          bottom: "student/embedding"  # (4, 16)
          bottom: "teacher/embedding"  # (4, 16)
          top: "graph"  # scalar
          sample_graph_loss_param { neighbours: 2 }
        }
    """

    def check(self, student: Shape, teacher: Shape) -> None:
        weights = {n: getattr(self.param, n) for n in ("node_weight", "edge_weight")}
        if not all(0 <= weight < math.inf for weight in weights.values()):
            self.fail("node_weight and edge_weight must be 0 or more", **weights)
        if self.param.node_weight and math.prod(student) != math.prod(teacher):
            self.fail(
                "nodes of student and teacher must have the same number of values. Put an "
                "InnerProduct on the student's, or compare edges alone with node_weight: 0",
                student=student,
                teacher=teacher,
            )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return sample_graph(
            student,
            teacher,
            neighbours=self.param.neighbours,
            node_weight=self.param.node_weight,
            edge_weight=self.param.edge_weight,
        )
