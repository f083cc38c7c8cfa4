"""Fields that Caffe's forks write into a prototxt and Caffe does not know.

A field that Caffe does not know is read, never an error. What happens to one of a known fork is
listed here, one of three:

* it changes no result, by itself or with the value it has: it is reported and dropped;
* it means the same as a field of ours: it moves there (``foreign.py``), which is reported;
* it changes results: it stays in the message, is written back, and the layer cannot be built.

Any other unknown field stays in the message likewise. ``foreign.py`` acts on these tables; numbers
that forks gave to fields in binary files are in ``renumber.py``.

Source: the public schemas of the forks and of pull requests that never became part of Caffe.
"""

from __future__ import annotations

from typing import NamedTuple

NVIDIA = "NVIDIA's fork"
INTEL = "Intel's fork"
SSD = "the SSD fork"
YJXIONG = "yjxiong's fork"
DEEPLAB = "the DeepLab fork"
SEGNET = "the SegNet fork"
FASTER_RCNN = "the Faster R-CNN fork"
FLOWNET = "the FlowNet fork"


class Rule(NamedTuple):
    """What is known about a fork's field.

    Attributes:
        fork: where it comes from.
        why: why it can be dropped; or, if it cannot, what it does there or what to do instead.
        harmless: the values that change nothing; None: any does.
    """

    fork: str
    why: str
    harmless: tuple[str, ...] | None = ()


_FLOAT = "numbers are float32 here"
_SPEED = "it changes speed, not results"
_MACHINES = "it spreads the work over devices"
_SHOWS = "it changes what is shown, not what is computed"
_WEIGHTS_CLASSES = (
    "it weights classes. InfogainLoss instead of SoftmaxWithLoss does the same, with the weights "
    'on the diagonal of H: type: "InfogainLoss" infogain_loss_param { source: "H.binaryproto" }, '
    "which is written by "
    "blob = caffe_kd.io.array_to_blobproto(numpy.diag([1.0, 2.0, 3.0])[None, None]); "
    'open("H.binaryproto", "wb").write(blob.SerializeToString())'
)
_NONE = ("0", "false")  # "off", as numbers and flags have it

AnyValue = None


def _rules(
    fork: str, names: str, why: str, harmless: tuple[str, ...] | None = ()
) -> dict[str, Rule]:
    return {name: Rule(fork, why, harmless) for name in names.split()}


_TYPES = "forward_type backward_type forward_math backward_math"

NO_SUCH_LAYER = "there is no layer of this type here"

# Names of a layer type's own block of settings. Where the type is not there, neither are they; a
# block that caffe.proto has is not looked up here.
_LAYER_BLOCKS = {
    SSD: "annotated_data_param multibox_loss_param detection_evaluate_param video_data_param",
    INTEL: "box_annotator_ohem_param spatial_dropout_param mn_activation_param "
    "continuation_indicator_param region_loss_param eval_detection_param",
    NVIDIA: "detectnet_groundtruth_param detectnet_augmentation_param",
    FASTER_RCNN: "proposal_param roi_align_param",
    YJXIONG: "batch_reduction_param",
    SEGNET: "dense_image_data_param",
    DEEPLAB: "mat_read_param mat_write_param seg_accuracy_param dense_crf_param densecrf_param "
    "domain_transform_param unique_label_param bias_channel_param dominant_channel_param "
    "padding_param softmaxloss_param",
    FLOWNET: "augmentation_param coeff_schedule_param correlation_param downsample_param "
    "resample_param l1_loss_param custom_data_param reader_param writer_param flow_warp_param",
    "the CRF-as-RNN fork": "multi_stage_meanfield_param",
    "the convolutional pose machines fork": "cpmdata_param cpm_transform_param",
    "the YOLO fork": "region_param",
    "the CTC fork": "ctc_loss_param",
    "ssai's fork": "patch_transformer_param",
    "the visual-concepts fork": "mil_data_param",
    "a fork": "normalize_bbox_param focal_loss_param triplet_loss_param margin_inner_product_param",
    "pull request 560": "spatial_pyramid_pooling_param",
    "pull request 601": "spatial_pyramid_pooling_data_param",
    "pull request 1137": "topk_param",
    "pull request 1271": "local_param",
    "pull request 2364": "sparse_data_param",
    "pull request 2539": "doc_data_param image_transform_param reflect_param",
    "pull request 3568": "rbm_inner_product_param",
    "pull request 3817": "wasserstein_param",
}
_AUGMENTS = "it changes the samples"
_LEARNS_ALSO = "there the layer has a factor and an offset too: write a Scale layer after it"
_OTHER_RATE = "it changes the learning rate"
_EPOCHS = "it counts in epochs: write the same in iterations"
_WITHOUT_POLICY = "only a policy of that fork uses it"

FIELDS: dict[str, dict[str, Rule]] = {
    "NetParameter": {
        **_rules(NVIDIA, " ".join(f"default_{t}" for t in _TYPES.split()), _FLOAT, AnyValue),
        **_rules(
            NVIDIA,
            "global_grad_scale global_grad_scale_adaptive",
            "float32 needs no scaled gradients",
            AnyValue,
        ),
        **_rules(
            NVIDIA, "default_conv_algos_override default_cudnn_math_override", _SPEED, AnyValue
        ),
        **_rules(NVIDIA, "reduce_buckets", _MACHINES, AnyValue),
        **_rules(INTEL, "engine compile_net_state", _SPEED, AnyValue),
        **_rules(INTEL, "multinode", _MACHINES, AnyValue),
        **_rules(INTEL, "bn_stats_batch_size", "it splits BatchNorm's batch", _NONE),
        **_rules(YJXIONG, "mem_param", "it saves memory", AnyValue),
    },
    "LayerParameter": {
        **_rules(NVIDIA, _TYPES, _FLOAT, AnyValue),
        **_rules(NVIDIA, "debug", _SHOWS, AnyValue),
        **_rules(NVIDIA, "cudnn_math_override", _SPEED, AnyValue),
        **_rules(INTEL, "multinode mn_grad_compress_param", _MACHINES, AnyValue),
        **_rules(INTEL, "engine split_param", _SPEED, AnyValue),
        **_rules(YJXIONG, "no_mem_opt", "it saves memory", AnyValue),
        **_rules("pull request 2219", "device", _MACHINES, AnyValue),
        **_rules("pull request 2219", "param_bottoms", "its last bottoms are its parameters"),
    },
    "V1LayerParameter": _rules(DEEPLAB, "strict_dim", "it accepts other shapes", ("true", "1")),
    "V0LayerParameter": {
        **_rules("pull request 196", "datum_dims", "write a MemoryData layer"),
        **_rules("pull request 244", "data_blob", "write a Data layer"),
    },
    "TransformationParameter": {
        **_rules(
            SSD,
            "resize_param noise_param distort_param expand_param emit_constraint crop_h crop_w",
            _AUGMENTS,
        ),
        **_rules(NVIDIA, "use_gpu_transform", _SPEED, AnyValue),
        **_rules(NVIDIA, "random_seed", "the solver's random_seed decides", AnyValue),
        **_rules(NVIDIA, "display", _SHOWS, AnyValue),
        **_rules(
            NVIDIA,
            "img_rand_resize_lower img_rand_resize_upper var_sz_img_enabled num_labels",
            _AUGMENTS,
            _NONE,
        ),
        **_rules(INTEL, "random_resize_param random_aspect_ratio_param flow", _AUGMENTS, _NONE),
        **_rules(
            YJXIONG,
            "fix_crop more_fix_crop multi_scale is_flow original_image scale_ratios",
            _AUGMENTS,
            _NONE,
        ),
        **_rules(YJXIONG, "max_distort", _AUGMENTS, ("1",)),
        **_rules(
            "the convolutional pose machines fork",
            "stride max_rotate_degree visualize crop_size_x crop_size_y scale_prob scale_min "
            "scale_max target_dist center_perterb_max sigma clahe_tile_size clahe_clip_limit "
            "do_clahe num_parts np_in_lmdb transform_body_joint put_gaussian",
            "its own data layer reads it",
        ),
    },
    "LossParameter": {
        **_rules(INTEL, "pre_fixed_normalizer", "normalization PRE_FIXED takes it", ("1",)),
        **_rules(SEGNET, "weight_by_label_freqs class_weighting", _WEIGHTS_CLASSES, _NONE),
        **_rules("several forks", "class_weight class_weights", _WEIGHTS_CLASSES, _NONE),
    },
    "BatchNormParameter": {
        **_rules(NVIDIA, "scale_bias", _LEARNS_ALSO, _NONE),
        **_rules(NVIDIA, "scale_filler bias_filler", _LEARNS_ALSO),
        **_rules(INTEL, "use_weight_bias filler bias_term", _LEARNS_ALSO, _NONE),
        **_rules(INTEL, "relu", "write a ReLU layer after it", _NONE),
        **_rules(INTEL, "stats_batch_size", "it splits the batch", _NONE),
    },
    "ConvolutionParameter": {
        **_rules(NVIDIA, "cudnn_convolution_algo_seeker conv_algos_override", _SPEED, AnyValue),
        **_rules(INTEL, "conv_algorithm", _SPEED, AnyValue),
        **_rules(INTEL, "relu", "write a ReLU layer after it", _NONE),
        **_rules(INTEL, "negative_slope", "write a ReLU layer after it", _NONE),
        **_rules(DEEPLAB, "hole hole_h hole_w", "it is dilation"),
        **_rules("pull request 887", "mem_group_size", "it saves memory", AnyValue),
        **_rules("pull request 5745", "fuse_type", "write the layers that it joins"),
    },
    "CropParameter": _rules("pull request 2539", "blob_name", "it names what to crop to"),
    "DataParameter": {
        **_rules("pull request 741", "transform_param", "it is the layer's transform_param"),
        **_rules(NVIDIA, "threads parser_threads cache", _SPEED, AnyValue),
        **_rules(NVIDIA, "shuffle", "samples come in the database's order here", _NONE),
        **_rules("pull request 1965", "shuffle_buffer_size", "it shuffles the samples", _NONE),
    },
    "ImageDataParameter": {
        **_rules("pull request 741", "transform_param", "it is the layer's transform_param"),
        **_rules(INTEL, "min_height min_width", "it enlarges images", _NONE),
        **_rules(DEEPLAB, "has_label", "it leaves the label out", ("true", "1")),
        **_rules(DEEPLAB, "max_labels", "it reads several labels", ("1",)),
        **_rules(DEEPLAB, "label_type", "it reads labels from images"),
    },
    "WindowDataParameter": _rules(
        "pull request 741", "transform_param", "it is the layer's transform_param"
    ),
    "DropoutParameter": {
        **_rules(NVIDIA, "random_seed", "the solver's random_seed decides", AnyValue),
        **_rules(SEGNET, "sample_weights_test", "it drops values in TEST", _NONE),
        **_rules(FASTER_RCNN, "scale_train", "it scales in TEST instead", ("true", "1")),
    },
    "ELUParameter": _rules(NVIDIA, "lambda", "it multiplies the result", ("1",)),
    "FillerParameter": _rules(INTEL, "scale", "it multiplies what msra fills in", ("1",)),
    "LRNParameter": _rules("pull request 5745", "fuse_type pooling_param", "write a Pooling layer"),
    "PoolingParameter": {
        **_rules(INTEL, "avg_include_pad", "it excludes padding from the mean", ("true", "1")),
        **_rules(INTEL, "axis", "it pools over other axes", ("1",)),
        **_rules("several forks", "ceil_mode", "it is round_mode"),
        **_rules("a fork", "round_below", "for true write round_mode: FLOOR", _NONE),
        **_rules("pull request 251", "norm_region", "it pools channels", ("WITHIN_CHANNEL",)),
    },
    "ReLUParameter": _rules(INTEL, "fuse", _SPEED, AnyValue),
    "SolverParameter": {
        **_rules(SSD, "eval_type", "it scores detections", ("classification",)),
        **_rules(SSD, "ap_version show_per_class_result", "it scores detections only", AnyValue),
        **_rules(SSD, "plateau_winsize", _WITHOUT_POLICY, AnyValue),
        **_rules(NVIDIA, "solver_data_type store_blobs_in_old_format", _FLOAT, AnyValue),
        **_rules(NVIDIA, "per_parameter_reduce reduce_buckets", _MACHINES, AnyValue),
        **_rules(NVIDIA, "rampup_interval min_lr", _OTHER_RATE, _NONE),
        **_rules(NVIDIA, "rampup_lr", "only rampup_interval uses it", AnyValue),
        **_rules(NVIDIA, "momentum_policy", "it changes the momentum", ("fixed",)),
        **_rules(NVIDIA, "max_momentum momentum_power", _WITHOUT_POLICY, AnyValue),
        **_rules(NVIDIA, "local_lr_auto larc", _OTHER_RATE, _NONE),
        **_rules(
            NVIDIA, "local_gw_ratio larc_policy larc_turbo larc_eta", "only LARC uses it", AnyValue
        ),
        **_rules(NVIDIA, "max_epoch epoch_size test_epoch_size test_interval_epoch", _EPOCHS),
        **_rules(INTEL, "disabled_update", "it keeps the weights as they are", _NONE),
        **_rules(INTEL, "engine", _SPEED, AnyValue),
        **_rules(INTEL, "test_offset", "it moves the tests, not what is trained", AnyValue),
        **_rules(INTEL, "warmup_iter", _OTHER_RATE, _NONE),
        **_rules(INTEL, "warmup_start_lr", "only warmup_iter uses it", AnyValue),
        **_rules(YJXIONG, "richness", _SPEED, AnyValue),
        **_rules("the convolutional pose machines fork", "stagelr stageiter", _OTHER_RATE),
    },
}
_ENGINE = Rule("a fork", "an engine computes the same formula in another way", AnyValue)

# Words of a known field, by message and field.
WORDS: dict[tuple[str, str], dict[str, Rule]] = {
    ("LossParameter", "normalization"): _rules(INTEL, "PRE_FIXED", "it divides by a given number"),
    # The value of a field that takes one may be a list, or there may be none.
    ("SolverParameter", "device_id"): {"[": Rule(YJXIONG, "training runs on one device")},
    ("SolverParameter", "test_iter"): {"": Rule("a fork", "it has no value", AnyValue)},
}
_ENGINES = frozenset("MKL2017 MKLDNN NAIVE LOOP FFT SPATIAL LIBDNN".split())

# Types that forks added to V1LayerParameter.LayerType, and what they are called since.
V1_TYPES = {
    "ACCURACY_REGRESSION": "AccuracyRegression",
    "BIAS_CHANNEL": "BiasChannel",
    "BN": "BN",
    "CROP": "Crop",
    "DENSE_CRF": "DenseCRF",
    "DOMINANT_CHANNEL": "DominantChannel",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "LOCAL": "Local",
    "MAT_READ": "MatRead",
    "MAT_WRITE": "MatWrite",
    "PADDING": "Padding",
    "PRELU": "PReLU",
    "SEG_ACCURACY": "SegAccuracy",
    "SPATIAL_PYRAMID_POOLING": "SpatialPyramidPooling",
    "SPATIAL_PYRAMID_POOLING_DATA": "SpatialPyramidPoolingData",
    "TOPK": "TopK",
    "UPSAMPLE": "Upsample",
}
_V1_TYPE = Rule("a fork", "there is no layer of this type", ())


# Types of forks that have no block of their own to be recognised by, and what to do.
LAYER_TYPES = {
    "LRNRistretto": "it belongs to Ristretto and rounds each step of its sums to few bits. Write "
    "LRN, without quantization_param, for float32",
}
LAYER_BLOCKS: dict[str, Rule] = {
    name: Rule(fork, NO_SUCH_LAYER)
    for fork, names in _LAYER_BLOCKS.items()
    for name in names.split()
}
LAYER_BLOCKS["resize_param"] = Rule("a fork", "here Interp resizes, bilinearly")
LAYER_BLOCKS["transpose_param"] = Rule("a fork", "here Permute puts axes in another order")
FIELDS["LayerParameter"].update(LAYER_BLOCKS)


def rule_for(message: str, field: str) -> Rule | None:
    """Return what is known of a field that ``message`` of caffe.proto does not have."""
    if message == "V1LayerParameter":  # a fork's V1 layer has the blocks of its successor
        message = message if field in FIELDS[message] else "LayerParameter"
    known = FIELDS.get(message, {}).get(field)
    return _ENGINE if known is None and field == "engine" else known


def rule_for_word(message: str, field: str, word: str) -> Rule | None:
    """Return what is known of a word that an enum field of ``message`` does not have."""
    if field == "engine" and word in _ENGINES:
        return _ENGINE
    if (message, field) == ("V1LayerParameter", "type") and word in V1_TYPES:
        return _V1_TYPE
    return WORDS.get((message, field), {}).get(word)
