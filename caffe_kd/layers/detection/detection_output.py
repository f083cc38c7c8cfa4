"""DetectionOutput: SSD's predictions as boxes, with non-maximum suppression in each class."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...proto import caffe_pb2 as pb
from ..base import Layer, Shape, register
from ..shared.boxes import Array, decode, suppress


@register("DetectionOutput", param="detection_output_param", bottoms=(3, 4), origin="SSD")
class DetectionOutput(Layer):
    """Turn predictions for prior boxes into boxes of objects.

    In each image, for each class but the background: of the priors whose score is above
    confidence_threshold the nms_param.top_k best are decoded by code_type and visited in the
    order of their scores; one is kept if its intersection over union with each kept one is at most
    nms_threshold. Of all classes' boxes the keep_top_k best remain. There is no gradient.

    Bottoms: locations (N, P 4), or (N, P num_classes 4) with ``share_location: false``;
    scores (N, P num_classes); PriorBox's boxes and variances (1, 2, P 4). A fourth, the image, is
    ignored.
    Top: (1, 1, K, 7), for each of the K boxes found (image 0..N-1, class, score, xmin, ymin, xmax,
    ymax), in the order of images, then of classes, then of descending scores. If no image has any,
    K is N and a row (image, -1, -1, ...). Before the first pass K counts as 1.

    Raises:
        NetError: num_classes is missing, nms_threshold is negative, eta is not in (0, 1], the
            bottoms don't fit each other, or a prior has no area where its size matters.

    Source: Liu et al. 2016; DetectionOutputLayer of Liu's fork for SSD. Writing the boxes to files
    (save_output_param) and showing them (visualize) are not supported; a warning says so. Equal
    scores stay in the order of classes and priors; there keep_top_k leaves their order open.

    Sample::

        layer {
          name: "detections" type: "DetectionOutput"
          bottom: "locations"  # (1, 24)
          bottom: "scores"  # (1, 18)
          bottom: "priors"  # (1, 2, 24)
          top: "detections"  # (1, 1, K, 7)
          detection_output_param { num_classes: 3 confidence_threshold: 0.5 keep_top_k: 4 }
        }
    """

    no_onnx = (
        "ONNX has no such operator. Leave it out of the net: "
        "the model then outputs locations, scores and prior boxes"
    )

    def setup(self, bottom_shapes: list[Shape]) -> None:
        nms = self.param.nms_param
        if not self.param.num_classes:
            self.fail("Must specify num_classes")
        if not nms.nms_threshold >= 0:
            self.fail("nms_threshold must be non negative", nms_threshold=nms.nms_threshold)
        if not 0 < nms.eta <= 1:
            self.fail("eta must be above 0 and at most 1", eta=nms.eta)
        self.top_k = nms.top_k if nms.HasField("top_k") and nms.top_k >= 0 else None
        has_threshold = self.param.HasField("confidence_threshold")
        lowest = float(np.finfo(np.float32).min)
        self.threshold = self.param.confidence_threshold if has_threshold else lowest
        folder, shown = self.param.save_output_param.output_directory, self.param.visualize
        self.unused = ["save_output_param"] * bool(folder) + ["visualize"] * bool(shown)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        locations, scores, priors = bottom_shapes[:3]
        if len(priors) < 3 or priors[:2] != (1, 2) or math.prod(priors[2:]) % 4:
            self.fail("the third bottom must be PriorBox's, (1, 2, 4 priors)", bottom=priors)
        count, classes = math.prod(priors[2:]) // 4, self.param.num_classes
        per_prior = 1 if self.param.share_location else classes
        if math.prod(locations[1:]) != count * per_prior * 4:
            self.fail(
                "Number of priors must match number of location predictions",
                priors=count,
                locations=locations,
                classes=per_prior,
            )
        if math.prod(scores[1:]) != count * classes:
            self.fail(
                "Number of priors must match number of confidence predictions",
                priors=count,
                confidences=scores,
                num_classes=classes,
            )
        if not locations or locations[:1] != scores[:1]:
            self.fail(
                "locations and confidences must be of the same number of images",
                locations=locations,
                confidences=scores,
            )
        return [(1, 1, 1, 7)]

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> Tensor:
        if self.unused:
            names = ", ".join(self.unused)
            self.context.notify(f"layer '{self.name}': DetectionOutput does not support {names}")
            self.unused = []
        # On the host: each step depends on the one before, and there are few values.
        locations, scores, priors = (b.detach().float().cpu().numpy() for b in bottoms[:3])
        boxes = self._decoded(locations, priors)
        scores = scores.reshape(len(scores), -1, self.param.num_classes)
        found = [self._detections(*image) for image in zip(boxes, scores, strict=True)]
        rows = np.concatenate([np.insert(f, 0, i, axis=1) for i, f in enumerate(found)])
        if not len(rows):
            rows = np.full((len(found), 7), -1, np.float32)
            rows[:, 0] = range(len(found))
        return torch.from_numpy(rows)[None, None].to(bottoms[0].device, bottoms[0].dtype)

    def _decoded(self, locations: Array, bottom: Array) -> Array:
        """Return all boxes, (N, 1 or num_classes, P, 4)."""
        param = self.param
        priors, variances = bottom.reshape(2, -1, 4)
        if param.code_type != pb.PriorBoxParameter.CORNER:
            smallest = (priors[:, 2:] - priors[:, :2]).min()
            if not smallest > 0:
                self.fail("prior_width and prior_height must be positive", smallest=smallest)
        codes = locations.reshape(len(locations), len(priors), -1, 4).swapaxes(1, 2)
        encoded = param.variance_encoded_in_target
        return decode(codes, priors, 1.0 if encoded else variances, param.code_type)

    def _detections(self, boxes: Array, scores: Array) -> Array:
        """Return the boxes found in one image: (class, score, box), (K, 6)."""
        param = self.param
        found = [np.empty((0, 6), np.float32)]
        for label in range(param.num_classes):
            if label == param.background_label_id:
                continue
            above = np.flatnonzero(scores[:, label] > self.threshold)
            order = above[np.argsort(-scores[above, label], kind="stable")][: self.top_k]
            candidates = boxes[0 if param.share_location else label][order]
            kept = suppress(candidates, param.nms_param.nms_threshold, param.nms_param.eta)
            labels = np.full(len(kept), label, np.float32)
            rest = scores[order[kept], label]
            found.append(np.column_stack((labels, rest, candidates[kept])))
        rows = np.concatenate(found)
        if -1 < param.keep_top_k < len(rows):
            best = np.argsort(-rows[:, 1], kind="stable")[: param.keep_top_k]
            rows = rows[best[np.argsort(rows[best, 0], kind="stable")]]
        return rows
