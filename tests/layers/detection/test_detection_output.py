from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caffe_kd.core.errors import ExportError, NetError
from caffe_kd.proto import caffe_pb2 as pb
from tests.helpers import check_onnx, layer_net, make_layer, make_net

CLASSES, PRIORS = 4, 12
SSD = (
    "num_classes: 4 nms_param { nms_threshold: 0.45 top_k: 8 } code_type: CENTER_SIZE "
    "keep_top_k: 9 confidence_threshold: 0.1 "
)

# Coordinates are of the order of 1, and exp of Caffe and of numpy may differ by a bit.
ATOL = 2e-6


def body(param: str) -> str:
    return f'type: "DetectionOutput" detection_output_param {{ {param} }}'


def bottoms(images: int = 2, per_prior: int = 1, seed: int = 0):
    """Return locations, scores and priors as SSD has them: boxes that overlap a good deal."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform(0.3, 0.7, (PRIORS, 2))
    sizes = generator.uniform(0.2, 0.5, (PRIORS, 2))
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), 1)
    variances = np.tile([0.1, 0.1, 0.2, 0.2], (PRIORS, 1))
    locations = generator.standard_normal((images, PRIORS * per_prior * 4))
    logits = generator.standard_normal((images, PRIORS, CLASSES)) * 2
    scores = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    priors = np.stack((boxes.ravel(), variances.ravel()))[None]
    return [np.float32(v) for v in (locations, scores.reshape(images, -1), priors)]


def plain_decode(code, prior, variance, kind):
    code = [c * v for c, v in zip(code, variance, strict=True)]
    if kind == "CORNER":
        return [p + c for p, c in zip(prior, code, strict=True)]
    width, height = prior[2] - prior[0], prior[3] - prior[1]
    if kind == "CORNER_SIZE":
        sizes = (width, height, width, height)
        return [p + c * s for p, c, s in zip(prior, code, sizes, strict=True)]
    x = code[0] * width + (prior[0] + prior[2]) / 2
    y = code[1] * height + (prior[1] + prior[3]) / 2
    width, height = math.exp(code[2]) * width, math.exp(code[3]) * height
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def plain_overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def plain_suppress(candidates, limit, eta):
    """Ask of each candidate, best first, whether all that stayed leave it room."""
    kept = []
    for candidate in candidates:
        if all(plain_overlap(candidate[2], other[2]) <= limit for other in kept):
            kept.append(candidate)
            if eta < 1 and limit > 0.5:
                limit *= eta
    return kept


def plain(values, layer):
    """Return the rows of the top as the fork's loops make them."""
    locations, scores, priors = values
    param, nms = layer.param, layer.param.nms_param
    kind = pb.PriorBoxParameter.CodeType.Name(param.code_type)
    boxes, variances = priors.reshape(2, PRIORS, 4).tolist()
    if param.variance_encoded_in_target:
        variances = [[1] * 4] * PRIORS
    threshold = param.confidence_threshold if param.HasField("confidence_threshold") else -1e30
    rows = []
    for image in range(len(locations)):
        codes = locations[image].reshape(PRIORS, -1, 4).tolist()
        found = []
        for label in range(CLASSES):
            if label == param.background_label_id:
                continue
            one = 0 if param.share_location else label
            candidates = []
            for p in range(PRIORS):
                score = float(scores[image].reshape(PRIORS, CLASSES)[p, label])
                if score > threshold:
                    box = plain_decode(codes[p][one], boxes[p], variances[p], kind)
                    candidates.append((score, label, box))
            candidates.sort(key=lambda c: -c[0])
            if nms.HasField("top_k") and nms.top_k > -1:
                candidates = candidates[: nms.top_k]
            found += plain_suppress(candidates, nms.nms_threshold, nms.eta)
        if param.keep_top_k > -1:
            found = sorted(found, key=lambda c: -c[0])[: param.keep_top_k]
            found.sort(key=lambda c: c[1])
        rows += [[image, label, score, *box] for score, label, box in found]
    return rows or [[image, *[-1] * 6] for image in range(len(locations))]


def detect(param: str, values) -> tuple[torch.Tensor, object]:
    layer = make_layer(body(param), *[v.shape for v in values], phase=pb.TEST)
    return layer(*map(torch.from_numpy, values)), layer


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("param", "per_prior"),
    [
        (SSD, 1),
        ("num_classes: 4", 1),
        ("num_classes: 4 code_type: CORNER_SIZE confidence_threshold: 0.3", 1),
        ("num_classes: 4 share_location: false code_type: CENTER_SIZE", CLASSES),
        ("num_classes: 4 background_label_id: 2 nms_param { nms_threshold: 0.6 }", 1),
        ("num_classes: 4 background_label_id: -1 nms_param { top_k: -1 }", 1),
        ("num_classes: 4 variance_encoded_in_target: true code_type: CENTER_SIZE", 1),
        ("num_classes: 4 nms_param { nms_threshold: 0.9 eta: 0.8 } keep_top_k: 5", 1),
        ("num_classes: 4 nms_param { nms_threshold: 0.3 top_k: 3 }", 1),
    ],
)
def test_boxes_are_the_forks(param, per_prior, seed):
    values = bottoms(3, per_prior, seed)
    y, layer = detect(param, values)
    want = plain(values, layer)
    assert len(want) > 3 and want[0][1] != -1
    assert y.shape == (1, 1, len(want), 7) and y.dtype == torch.float32
    np.testing.assert_allclose(y[0, 0].numpy(), want, rtol=0, atol=ATOL)


def test_number_of_rows_is_another_in_each_pass_and_batch():
    layer = make_layer(body(SSD), *[v.shape for v in bottoms()], phase=pb.TEST)
    assert layer.top_shapes([v.shape for v in bottoms()]) == [(1, 1, 1, 7)]
    counts = set()
    for images in (1, 2, 5):
        values = bottoms(images, seed=images)
        y = layer(*map(torch.from_numpy, values))
        assert y.shape[2] == len(plain(values, layer))
        assert set(y[0, 0, :, 0].tolist()) == set(range(images))
        counts.add(y.shape[2])
    assert len(counts) == 3


@pytest.mark.parametrize(
    "param", ["confidence_threshold: 2", "keep_top_k: 0", "nms_param { top_k: 0 }"]
)
def test_nothing_found_is_a_row_for_each_image(param):
    y, _ = detect(f"num_classes: 4 {param}", bottoms())
    assert y.tolist() == [[[[0, *[-1] * 6], [1, *[-1] * 6]]]]


def test_image_without_a_box_has_no_row_where_another_has_one():
    values = bottoms()
    values[1][0] = 0
    y, _ = detect(SSD, values)
    assert set(y[0, 0, :, 0].tolist()) == {1}


def test_score_must_be_above_the_threshold():
    values = bottoms()
    values[1][:] = 0.5
    assert detect("num_classes: 4 confidence_threshold: 0.5", values)[0][0, 0, 0, 1] == -1
    assert detect("num_classes: 4 confidence_threshold: 0.49", values)[0][0, 0, 0, 1] == 1


def test_equal_scores_stay_in_order():
    values = bottoms(1)
    values[1][:] = 0.5
    apart = np.arange(PRIORS)[:, None] + np.float32([0, 0, 0.5, 0.5])
    values[2][0, 0] = apart.ravel()
    values[0][:] = 0
    y, _ = detect("num_classes: 4 keep_top_k: 14", values)
    assert y[0, 0, :, 1].tolist() == [1.0] * 12 + [2.0] * 2
    assert y[0, 0, :, 3].tolist() == [*range(12), 0, 1]


def test_blobs_with_places_of_one_and_the_image_are_taken():
    values = bottoms()
    want, _ = detect(SSD, values)
    wide = [values[0][..., None, None], values[1][..., None, None], values[2][..., None]]
    image = np.zeros((2, 3, 4, 4), np.float32)
    assert torch.equal(detect(SSD, [*wide, image])[0], want)


def test_there_is_no_gradient():
    values = [torch.from_numpy(v).double().requires_grad_() for v in bottoms()]
    layer = make_layer(body(SSD), *[tuple(v.shape) for v in values])
    y = layer(*values)
    assert not y.requires_grad and y.dtype == torch.float64


def test_what_is_not_done_is_reported_once():
    param = (
        SSD + "save_output_param { output_directory: 'out' label_map_file: 'l' } visualize: true"
    )
    layer = make_layer(body(param), *[v.shape for v in bottoms()], phase=pb.TEST)
    lines: list[str] = []
    layer.context.notify = lines.append
    for _ in range(2):
        layer(*map(torch.from_numpy, bottoms()))
    assert lines == ["layer 'L': DetectionOutput does not support save_output_param, visualize"]


def test_names_of_files_without_a_folder_ask_for_nothing():
    layer = detect(SSD + "save_output_param { label_map_file: 'labelmap.prototxt' }", bottoms())[1]
    assert layer.unused == []


def test_export_is_refused_with_the_reason():
    net = layer_net(body(SSD), *[v.shape for v in bottoms()], phase=pb.TEST)
    with pytest.raises(ExportError, match=r"layer 'L' \(DetectionOutput\) cannot be exported"):
        check_onnx(net)


def test_prior_without_area_is_refused_where_its_size_matters():
    values = bottoms()
    values[2][0, 0, :4] = (0.5, 0.5, 0.5, 0.6)
    with pytest.raises(NetError, match="prior_width and prior_height must be positive"):
        detect(SSD, values)
    assert detect("num_classes: 4", values)[0].shape[2] > 1


def head(name: str, bottom: str) -> str:
    """The layers SSD hangs on a plane with 4 boxes at each place, in its own words."""
    layers = ""
    for kind, outputs in (("loc", 4 * 4), ("conf", 4 * CLASSES)):
        conv = f"{name}_mbox_{kind}"
        layers += f"""
        layer {{ name: "{conv}" type: "Convolution" bottom: "{bottom}" top: "{conv}"
          convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1
            weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "{conv}_perm" type: "Permute" bottom: "{conv}" top: "{conv}_perm"
          permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
        layer {{ name: "{conv}_flat" type: "Flatten" bottom: "{conv}_perm" top: "{conv}_flat"
          flatten_param {{ axis: 1 }} }}"""
    return f"""{layers}
        layer {{ name: "{name}_prior" type: "PriorBox" bottom: "{bottom}" bottom: "data"
          top: "{name}_prior"
          prior_box_param {{ min_size: 12 max_size: 20 aspect_ratio: 2 flip: true clip: false
            variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 step: 8 offset: 0.5 }} }}"""


def joined(kind: str, axis: int) -> str:
    names = [f"{n}_{kind}" for n in ("norm", "pool")]
    below = " ".join(f'bottom: "{name}"' for name in names)
    return f"""
        layer {{ name: "{kind}" type: "Concat" {below} top: "{kind}"
          concat_param {{ axis: {axis} }} }}"""


NET = f"""
name: "SSD"
layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape {{ dim: 2 dim: 3 dim: 32 dim: 40 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 6 kernel_size: 8 stride: 8
    weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "norm" type: "Normalize" bottom: "conv" top: "norm"
  norm_param {{ across_spatial: false scale_filler {{ type: "constant" value: 20 }}
    channel_shared: false }} }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param {{ kernel_size: 2 stride: 2 }} }}
{head("norm", "norm")} {head("pool", "pool")}
{joined("mbox_loc_flat", 1)} {joined("mbox_conf_flat", 1)} {joined("prior", 2)}
layer {{ name: "scores" type: "Reshape" bottom: "mbox_conf_flat" top: "scores"
  reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES} }} }} }}
layer {{ name: "softmax" type: "Softmax" bottom: "scores" top: "softmax"
  softmax_param {{ axis: 2 }} }}
layer {{ name: "softmax_flat" type: "Flatten" bottom: "softmax" top: "softmax_flat" }}
"""
OUTPUT = """
layer { name: "detection_out" type: "DetectionOutput" bottom: "mbox_loc_flat"
  bottom: "softmax_flat" bottom: "prior" top: "detection_out" include { phase: TEST }
  detection_output_param { num_classes: 4 share_location: true background_label_id: 0
    nms_param { nms_threshold: 0.45 top_k: 400 } keep_top_k: 20 code_type: CENTER_SIZE
    save_output_param { label_map_file: "labelmap.prototxt" } confidence_threshold: 0.01 } }
"""


def test_a_net_of_ssd_finds_boxes_and_its_predictions_are_exported():
    net = make_net(NET + OUTPUT)
    assert net.shapes["prior"] == (1, 2, (4 * 5 + 2 * 3) * 4 * 4)
    for images in (1, 3):
        net({"data": torch.randn(images, 3, 32, 40)})
        rows = net.blobs["detection_out"][0, 0]
        assert len(rows) == 20 * images and torch.isfinite(rows).all()
        assert set(rows[:, 0].tolist()) == set(range(images))
        assert set(rows[:, 1].tolist()) <= {1, 2, 3}
    check_onnx(make_net(NET))


L, S, P = [v.shape for v in bottoms()]


@pytest.mark.parametrize(
    ("param", "shapes", "words"),
    [
        ("", (L, S, P), "Must specify num_classes"),
        ("num_classes: 0", (L, S, P), "Must specify num_classes"),
        ("num_classes: 4 nms_param { nms_threshold: -1 }", (L, S, P), "must be non negative"),
        ("num_classes: 4 nms_param { nms_threshold: nan }", (L, S, P), "must be non negative"),
        ("num_classes: 4 nms_param { eta: 0 }", (L, S, P), "eta must be above 0 and at most 1"),
        ("num_classes: 4 nms_param { eta: 1.5 }", (L, S, P), "eta must be above 0"),
        ("num_classes: 5", (L, S, P), "must match number of confidence predictions"),
        ("num_classes: 4000000000", (L, S, P), "must match number of confidence predictions"),
        ("num_classes: 4 share_location: false", (L, S, P), "number of location predictions"),
        ("num_classes: 4", (L, S, (1, 2, 40)), "Number of priors must match number of location"),
        ("num_classes: 4", (L, S, (2, 2, 48)), "third bottom must be PriorBox's"),
        ("num_classes: 4", (L, S, (96,)), "third bottom must be PriorBox's"),
        ("num_classes: 4", (L, (3, 48), P), "must be of the same number of images"),
        ("num_classes: 4", (L, S), r"takes 3 to 4 bottom blob\(s\)"),
    ],
)
def test_mistake_is_reported(param, shapes, words):
    with pytest.raises(NetError, match=words):
        make_layer(body(param), *shapes)
