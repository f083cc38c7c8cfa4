"""A trained classifier as a differentiable function of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import NetError, UsageError, WeightsError, did_you_mean
from ..core.files import find
from ..export.deploy import deploy, images_of
from ..export.preprocess import Preprocess, preprocess_of
from ..layers.normalization.batch_norm import BatchNorm
from ..net import Net, read_net
from ..proto import caffe_pb2 as pb
from ..proto.sources import DATA, source_of_layer

Shape = tuple[int, int, int]


class PixelTeacher:
    """A classifier with pixels of 0 to 255 as input, as a database holds them.

        logits = net((pixels - mean) * scale)

    Args:
        model: the net's prototxt, of training or deployment.
        weights: its weights.
        blob: the blob of the logits; None: the bottom of its losses, or of its Softmax.
        shape: channels, rows and columns of its input where the prototxt's data is missing.
        preprocess: mean and scale; None: those of the data layer.
        device: where it runs.

    Attributes:
        shape: (C, H, W) of the pixels.
        classes: how many.
        has_statistics: whether there are BatchNorm layers.

    Raises:
        CaffeKDError: the net or the weights are wrong, or it is not an image classifier.
    """

    def __init__(
        self,
        model: Path,
        weights: Path,
        blob: str | None = None,
        shape: Shape | None = None,
        preprocess: Preprocess | None = None,
        device: torch.device | None = None,
    ) -> None:
        param = read_net(model)
        images = images_of(param)
        if shape is not None:
            param = _with_input(param, images, shape)
        self._net = net = Net(deploy(param, model), pb.TEST, model)
        net.load_weights(weights)
        lacking = net.without_weights()
        if lacking:  # noise would remain noise
            raise WeightsError(f"no weights for layer '{lacking[0]}'", str(weights))
        net.to_device(device or torch.device("cpu"), channels_last=False)
        net.requires_grad_(False)
        self._input = self._only_input(model)
        self.shape: Shape = net.shapes[self._input][1:]  # type: ignore[assignment]
        if preprocess is None:
            known = {self._input: images[self._input]} if self._input in images else {}
            preprocess = Preprocess(None, 1.0)
            if known:
                found = preprocess_of(known, net.shapes, lambda path: find(path, model))
                preprocess = found[self._input]
        self._scale = preprocess.scale
        self._mean: Tensor | None = None
        if preprocess.mean is not None:
            if len(preprocess.mean) not in (1, self.shape[0]):
                raise UsageError(
                    "the mean has one value or one per channel. "
                    f"Received: {len(preprocess.mean)} values, {self.shape[0]} channels"
                )
            self._mean = torch.from_numpy(np.array(preprocess.mean)).to(net.context.device)
        self.device = net.context.device
        self._logits = self._find_logits(blob)
        self.classes = int(np.prod(net.shapes[self._logits][1:]))
        if self.classes < 2:
            raise NetError(f"blob '{self._logits}' has one value: no classes", str(model))
        self._features = self._find_features()
        self._distances: list[Tensor] = []
        norms = [node.layer for node in net.nodes if isinstance(node.layer, BatchNorm)]
        for norm in norms:
            norm.register_forward_pre_hook(self._compare)
        self.has_statistics = bool(norms)

    def _only_input(self, model: Path) -> str:
        inputs = [name for name in self._net.inputs if len(self._net.shapes[name]) == 4]
        if len(self._net.inputs) != 1 or not inputs:
            known = ", ".join(f"{n} {self._net.shapes[n]}" for n in self._net.inputs) or "none"
            raise NetError(
                "takes a net with one input of images (N, C, H, W). Its inputs: " + known,
                str(model),
            )
        return inputs[0]

    def _find_logits(self, blob: str | None) -> str:
        net = self._net
        if blob is not None:
            if blob not in net.shapes:
                raise UsageError(
                    f"-blob: the net has no blob '{blob}'.{did_you_mean(blob, net.shapes)}"
                )
            return blob
        last = next(node for node in reversed(net.nodes) if set(node.tops) & set(net.outputs))
        return last.bottoms[0] if last.layer.type == "Softmax" else last.tops[0]

    def _find_features(self) -> str:
        maker = next(node for node in self._net.nodes if self._logits in node.tops)
        return maker.bottoms[0]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return logits [N, K] of pixels [N, C, H, W], 0 to 255."""
        self._distances = []
        x = pixels if self._mean is None else pixels - self._mean
        self._net({self._input: x * self._scale})
        return self._net.blobs[self._logits].flatten(1)

    def features(self) -> Tensor:
        """Return the features of the last call's logits, [N, F]."""
        return self._net.blobs[self._features].flatten(1)

    def statistics_distance(self) -> Tensor:
        """Return how far the last batch's statistics are from the running statistics, a scalar.

        The sum over the BatchNorm layers of ``|mean - running mean| + |var - running var|``, each
        the L2 norm over the channels.
        """
        return torch.stack(self._distances).sum()

    def _compare(self, layer: Any, bottoms: tuple[Tensor, ...]) -> None:
        (x,) = bottoms
        mean, var, count = layer.blobs
        factor = torch.where(count == 0, 0.0, count.reciprocal())
        axes = [axis for axis in range(x.dim()) if axis != 1]
        here = x.mean(axes), x.var(axes, correction=0)
        self._distances.append((here[0] - mean * factor).norm() + (here[1] - var * factor).norm())


def _with_input(param: Any, images: dict[str, Any], shape: Sequence[int]) -> Any:
    """Return the net with an Input layer of a shape in place of each layer of images."""
    copy = pb.NetParameter()
    copy.CopyFrom(param)
    del copy.layer[:]
    for layer in param.layer:
        if any(top in images for top in layer.top) and source_of_layer(layer) in DATA:
            if layer is not images.get(layer.top[0]) and layer != images[layer.top[0]]:
                continue  # of another phase
            source = copy.layer.add(name=layer.name, type="Input", top=layer.top)
            source.input_param.shape.add(dim=[1, *shape])
            for _ in layer.top[1:]:
                source.input_param.shape.add(dim=[1])
        else:
            copy.layer.append(layer)
    return copy
