"""The base of layers that work on the channels of their bottom."""

from __future__ import annotations

from ...proto import caffe_pb2 as pb
from ..activation.neurons import Neuron
from ..base import Shape


class ChannelLayer(Neuron):
    """The base of Normalize, PReLU and ShuffleChannel, which keep the shape (N, C, any axes...)."""

    def channels_of(self, bottom: Shape) -> int:
        """Return C, after checking that the bottom has channels."""
        if len(bottom) < 2:
            self.fail("Number of axes of bottom blob must be >=2", bottom=bottom)
        return bottom[1]

    def add_channel_blob(self, bottom: Shape, filler: str, value: float) -> None:
        """Add a blob with a value for each channel, or with ``channel_shared`` one for all.

        Args:
            bottom: the bottom's shape.
            filler: the name of the field with the blob's filler.
            value: the constant that fills the blob if there is no such field.
        """
        channels = self.channels_of(bottom)
        constant = pb.FillerParameter(type="constant", value=value)
        given = getattr(self.param, filler) if self.param.HasField(filler) else constant
        self.add_blob(() if self.param.channel_shared else (channels,), given)
