"""Layers of detectors: prior boxes, detections, and pooled regions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...net import LayerNode
from ...proto import caffe_pb2 as pb
from .base import Code, call, emits, layer_of, listed, number


class PriorBox(nn.Module):
    """Make boxes around the centre of each position of a map: their corners, then their variances.

    ``sizes`` are the boxes' (width, height); ``image`` and ``step`` are (height, width), by default
    those of the second input and their ratio to the map. All are in pixels.
    """

    def __init__(
        self,
        sizes: list[tuple[float, float]],
        variance: list[float],
        offset: float = 0.5,
        image: tuple[float, float] | None = None,
        step: tuple[float, float] | None = None,
        clip: bool = False,
    ) -> None:
        super().__init__()
        self.sizes, self.variance, self.offset = sizes, variance, offset
        self.image, self.step, self.clip = image, step, clip

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        rows, columns = x.shape[2:]
        height, width = self.image or image.shape[2:]
        down, across = self.step or (height / rows, width / columns)
        centres_y = (torch.arange(rows, device=x.device) + self.offset) * down
        centres_x = (torch.arange(columns, device=x.device) + self.offset) * across
        centres = torch.stack(torch.meshgrid(centres_x, centres_y, indexing="xy"), dim=-1)
        half = x.new_tensor(self.sizes) / 2
        centres = centres[:, :, None]
        boxes = torch.cat([centres - half, centres + half], dim=-1)
        boxes = boxes / x.new_tensor([width, height, width, height])
        boxes = boxes.clamp(0, 1) if self.clip else boxes
        variances = x.new_tensor(self.variance).expand_as(boxes)
        return torch.stack([boxes.flatten(), variances.flatten()])[None]


class DetectionOutput(nn.Module):
    """Turn predictions for prior boxes into rows (image, class, score, xmin, ymin, xmax, ymax).

    In each image and class but the background the ``top_k`` best boxes that score above
    ``threshold`` are visited, best first; one is kept if it overlaps each kept one by at most
    ``nms``, which ``eta`` may lower from box to box. Of all classes' boxes the ``keep`` best
    are returned. ``code`` is how locations are relative to the priors: CORNER, CENTER_SIZE or
    CORNER_SIZE; with ``encoded`` they hold the variances already.
    """

    def __init__(
        self,
        classes: int,
        code: str,
        nms: float,
        threshold: float = torch.finfo(torch.float32).min,
        background: int = 0,
        eta: float = 1.0,
        top_k: int | None = None,
        keep: int | None = None,
        encoded: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.code, self.encoded = classes, code, encoded
        self.nms, self.threshold, self.background = nms, threshold, background
        self.eta, self.top_k, self.keep = eta, top_k, keep

    def forward(self, locations: Tensor, scores: Tensor, priors: Tensor, *image: Tensor) -> Tensor:
        boxes = self.decoded(locations, priors)
        scores = scores.reshape(len(scores), -1, self.classes)
        pairs = enumerate(zip(boxes, scores, strict=True))
        rows = torch.cat([F.pad(self.found(*both), (1, 0), value=index) for index, both in pairs])
        if not len(rows):
            rows = torch.full((len(scores), 7), -1.0, device=scores.device)
            rows[:, 0] = torch.arange(len(scores))
        return rows[None, None]

    def decoded(self, locations: Tensor, priors: Tensor) -> Tensor:
        """Return all boxes, (N, 1 or classes, P, 4)."""
        prior, variance = priors.reshape(2, -1, 4)
        code = locations.reshape(len(locations), len(prior), -1, 4).transpose(1, 2)
        code = code if self.encoded else code * variance
        if self.code == "CORNER":
            return prior + code
        low, high = prior.chunk(2, dim=-1)
        size = high - low
        if self.code == "CORNER_SIZE":
            return prior + code * torch.cat([size, size], dim=-1)
        centre = code[..., :2] * size + (low + high) / 2
        half = code[..., 2:].exp() * size / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def found(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Return the detections in one image: (class, score, box), (K, 6)."""
        rows = []
        for label in range(self.classes):
            if label == self.background:
                continue
            own = boxes[label if len(boxes) > 1 else 0]
            score, order = scores[:, label].sort(descending=True, stable=True)
            order = order[score > self.threshold][: self.top_k]
            order = order[self.staying(own[order])]
            labels = torch.full_like(scores[order, label], label)
            rows.append(torch.column_stack([labels, scores[order, label], own[order]]))
        result = torch.cat(rows) if rows else scores.new_zeros(0, 6)
        if self.keep is not None and len(result) > self.keep:
            best = result[:, 1].argsort(descending=True, stable=True)[: self.keep]
            result = result[best[result[best, 0].argsort(stable=True)]]
        return result

    def staying(self, boxes: Tensor) -> list[int]:
        """Return which boxes are kept, best first."""
        low, high = boxes.chunk(2, dim=-1)
        area = (high - low).prod(dim=1)
        worst, limit, kept = torch.zeros_like(area), self.nms, []
        for index in range(len(boxes)):
            if worst[index] <= limit:
                kept.append(index)
                side = torch.minimum(high[index], high) - torch.maximum(low[index], low)
                shared = side.prod(dim=1)
                overlap = shared / (area[index] + area - shared)
                worst = torch.maximum(worst, torch.where((side > 0).all(dim=1), overlap, 0.0))
                limit = limit * self.eta if limit > 0.5 else limit
        return kept


def rounded(x: Tensor) -> Tensor:
    """Round to whole numbers, halves away from zero."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


class ROIPooling(nn.Module):
    """Divide each region (image, x1, y1, x2, y2) into bins and take the largest value in each.

    A bin is clipped to the map, and an empty one is 0.
    """

    def __init__(self, rows: int, columns: int, scale: float) -> None:
        super().__init__()
        self.rows, self.columns, self.scale = rows, columns, scale

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.reshape(-1, 5)
        lines = self.bins(regions[:, 2], regions[:, 4], self.rows, x.shape[2])
        bounds = self.bins(regions[:, 1], regions[:, 3], self.columns, x.shape[3])
        y = x.new_zeros(len(regions), x.shape[1], self.rows, self.columns)
        for index, image in enumerate(regions[:, 0].long()):
            wide = [self.largest(x[image, :, begin:end], 1) for begin, end in lines[index]]
            plane = torch.stack(wide, dim=1)
            cells = [self.largest(plane[:, :, begin:end], 2) for begin, end in bounds[index]]
            y[index] = torch.stack(cells, dim=2)
        return y

    def bins(self, start: Tensor, end: Tensor, count: int, length: int) -> list[list[list[int]]]:
        """Return where the regions' bins begin and end along an axis, (R, count, 2)."""
        first = rounded(start * self.scale)[:, None]
        last = rounded(end * self.scale)[:, None]
        size = (last - first + 1).clamp(min=1) / count
        index = torch.arange(count, device=start.device)
        low, high = (index * size).floor() + first, ((index + 1) * size).ceil() + first
        bins: list[list[list[int]]]
        bins = torch.stack([low, high], dim=-1).long().clamp(0, length).tolist()
        return bins

    @staticmethod
    def largest(x: Tensor, dim: int) -> Tensor:
        return x.amax(dim) if x.shape[dim] else x.sum(dim)


class PSROIPooling(nn.Module):
    """Divide each region (image, x1, y1, x2, y2) into bins x bins and take the mean in each.

    Bin (i, j) of channel d is of channel (d bins + i) bins + j. It is clipped to the map, and
    an empty one is 0.
    """

    def __init__(self, channels: int, bins: int, scale: float) -> None:
        super().__init__()
        self.channels, self.bins, self.scale = channels, bins, scale

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.reshape(-1, 5)
        image = regions[:, 0].long()[:, None, None, None]
        top, bottom = self.bounds(regions[:, 2], regions[:, 4], x.shape[2])
        left, right = self.bounds(regions[:, 1], regions[:, 3], x.shape[3])
        top, bottom = top[:, None, :, None], bottom[:, None, :, None]
        left, right = left[:, None, None, :], right[:, None, None, :]
        channel = torch.arange(x.shape[1], device=x.device)
        channel = channel.reshape(self.channels, self.bins, self.bins)
        # sums[..., h, w] is the sum of all values above and left of (h, w).
        sums = F.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))
        below = sums[image, channel, bottom, right] - sums[image, channel, bottom, left]
        above = sums[image, channel, top, right] - sums[image, channel, top, left]
        count = (bottom - top).clamp(min=0) * (right - left).clamp(min=0)
        return torch.where(count > 0, (below - above) / count.clamp(min=1), 0).to(x.dtype)

    def bounds(self, start: Tensor, end: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Return where the regions' bins begin and end along an axis, (R, bins) each."""
        first = (rounded(start) * self.scale)[:, None]
        last = ((rounded(end) + 1) * self.scale)[:, None]
        size = (last - first).clamp(min=0.1) / self.bins
        index = torch.arange(self.bins, device=start.device, dtype=start.dtype)
        low, high = (index * size + first).floor(), ((index + 1) * size + first).ceil()
        return low.long().clamp(0, length), high.long().clamp(0, length)


@emits("PriorBox")
def _prior_box(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    sizes = listed([f"({number(width)}, {number(height)})" for width, height in layer.sizes])
    module = call(
        "PriorBox",
        f"[{sizes}]",
        f"[{listed([number(v) for v in layer.variance])}]",
        offset=(number(layer.param.offset), "0.5"),
        image=(_pair(layer.image), None),
        step=(_pair(layer.step), None),
        clip=(bool(layer.param.clip), False),
    )
    return Code(f"{{self}}({listed(bottoms)})", module, helpers=(PriorBox,))


def _pair(values: tuple[float, float] | None) -> str | None:
    return None if values is None else f"({number(values[0])}, {number(values[1])})"


@emits("DetectionOutput")
def _detection_output(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    param, nms = layer.param, layer.param.nms_param
    module = call(
        "DetectionOutput",
        param.num_classes,
        f'"{pb.PriorBoxParameter.CodeType.Name(param.code_type)}"',
        nms=(number(nms.nms_threshold), None),
        threshold=(number(layer.threshold), number(float(np.finfo(np.float32).min))),
        background=(param.background_label_id, 0),
        eta=(number(nms.eta), "1.0"),
        top_k=(layer.top_k, None),
        keep=(param.keep_top_k if param.keep_top_k > -1 else None, None),
        encoded=(bool(param.variance_encoded_in_target), False),
    )
    return Code(f"{{self}}({listed(bottoms)})", module, helpers=(DetectionOutput,))


@emits("ROIPooling")
def _roi_pooling(node: LayerNode, bottoms: list[str]) -> Code:
    layer = layer_of(node)
    module = f"ROIPooling({listed(layer.pooled)}, scale={number(layer.param.spatial_scale)})"
    return Code(f"{{self}}({listed(bottoms)})", module, helpers=(rounded, ROIPooling))


@emits("PSROIPooling")
def _psroi_pooling(node: LayerNode, bottoms: list[str]) -> Code:
    param = layer_of(node).param
    scale = number(param.spatial_scale)
    module = f"PSROIPooling({param.output_dim}, bins={param.group_size}, scale={scale})"
    return Code(f"{{self}}({listed(bottoms)})", module, helpers=(rounded, PSROIPooling))
