r"""Two layer types of your own, each with a block of settings; for the flag -layers.

From this folder:

    caffe_kd layers SoftClip -layers own_layers.py
    caffe_kd train -solver solver.prototxt -layers own_layers.py
    caffe_kd explain_kd -solver solver.prototxt -layers own_layers.py
    caffe_kd export_onnx -model net.prototxt -weights out/own_iter_40.caffemodel \
        -output out/own.onnx -layers own_layers.py

An installed package registers its types without the flag, by an entry point of the group
``caffe_kd.layers`` that names their module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from caffe_kd.layers import Layer, Shape, register

if TYPE_CHECKING:
    from caffe_kd.export.graph import Graph


@register(
    "SoftClip",
    message="""
    message SoftClipParameter {
      // The bound that the values approach.
      optional float limit = 1 [default = 6];
    }
    """,
    origin="own_layers.py",
)
class SoftClip(Layer):
    """Keep values within a limit: ``y = limit * tanh(x / limit)``.

    Bottom: any shape. Top: the same, in (-limit, limit).

    Raises:
        NetError: limit is not above 0.

    Sample::

        layer {
          name: "clip"
          type: "SoftClip"
          bottom: "x"
          top: "y"
          soft_clip_param { limit: 2 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.param.limit <= 0:
            self.fail("limit must be above 0", limit=self.param.limit)

    def forward(self, x: Tensor) -> Tensor:
        return self.param.limit * (x / self.param.limit).tanh()

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        limit = graph.constant(self.param.limit, "limit")
        small, clipped = graph.temporary("small"), graph.temporary("clipped")
        graph.node("Div", [bottoms[0], limit], [small])
        graph.node("Tanh", [small], [clipped])
        graph.node("Mul", [clipped, limit], tops)


@register(
    "LogitHuberLoss",
    bottoms=2,
    message="""
    message LogitHuberLossParameter {
      // Beyond this distance the loss is linear instead of squared.
      optional float delta = 1 [default = 1];
    }
    """,
    origin="own_layers.py",
)
class LogitHuberLoss(Layer):
    """Penalise the distance of the student's logits to the teacher's by the Huber loss.

    ``loss = mean of (d^2 / 2 where |d| < delta, else delta * (|d| - delta / 2))``, d = student -
    teacher.

    Bottoms: the student's logits and the teacher's, of the same shape. Top: the loss, a scalar.
    """

    is_loss = True
    constant_bottoms = (1,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [()]

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.huber_loss(student, teacher, delta=self.param.delta)
