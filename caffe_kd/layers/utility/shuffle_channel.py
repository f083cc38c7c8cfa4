"""ShuffleChannel: distributes each group's channels over all groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..base import Shape, register
from ..shared.channels import ChannelLayer

if TYPE_CHECKING:
    from ...export.graph import Graph


@register("ShuffleChannel", param="shuffle_channel_param", origin="ShuffleNet")
class ShuffleChannel(ChannelLayer):
    """Interleave the channels of the groups: rows of ``group`` x ``C / group``, read by columns.

    Channel ``i group + g`` of the top is channel ``g C / group + i`` of the bottom.

    Bottom, top: (N, C, any axes...).

    Raises:
        NetError: the bottom has fewer than 2 axes, or group is 0 or does not divide C.

    Source: Zhang et al. 2018; ShuffleChannelLayer of farmingyard's ShuffleNet and other forks.

    Sample::

        layer {
          name: "shuffle1"
          type: "ShuffleChannel"
          bottom: "conv1"  # (2, 6, 8, 8)
          top: "shuffle1"  # (2, 6, 8, 8)
          shuffle_channel_param { group: 3 }
        }
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        channels, self.group = self.channels_of(bottom_shapes[0]), self.param.group
        if self.group < 1:
            self.fail("group must be greater than 0", group=self.group)
        if channels % self.group:
            self.fail(
                "Wrong group size: it must divide the channels",
                group=self.group,
                channels=channels,
            )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(x.shape[0], self.group, -1, *x.shape[2:])
        return rows.transpose(1, 2).reshape(x.shape)

    def onnx(self, graph: Graph, bottoms: list[str], tops: list[str]) -> None:
        shape = graph.shape(bottoms[0])
        rows, columns = graph.temporary("rows"), graph.temporary("columns")
        split = [0, self.group, shape[1] // self.group, *shape[2:]]
        graph.node("Reshape", [bottoms[0], graph.constant(split, "rows_shape")], [rows])
        perm = [0, 2, 1, *range(3, len(split))]
        graph.node("Transpose", [rows], [columns], perm=perm)
        graph.node("Reshape", [columns, graph.constant([0, *shape[1:]], "shape")], tops)
