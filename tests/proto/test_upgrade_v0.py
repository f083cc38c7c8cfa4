"""Layers of 2013, each step on a small net of its own."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from caffe_kd.proto.upgrade import Notes, upgrade_net
from caffe_kd.proto.upgrade_v1 import TYPES


def net_of(prototxt: str):
    return text.parse(prototxt, pb.NetParameter(), "net.prototxt")


def upgraded(prototxt: str):
    return upgrade_net(net_of(prototxt), "net.prototxt")


def layer_of(settings: str):
    """Return the current layer that a V0 layer with these settings becomes."""
    notes = Notes()
    net = f'layers {{ layer {{ name: "l" {settings} }} bottom: "x" top: "y" }}'
    (_, layer) = upgrade_net(
        net_of('input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 ' + net),
        "net.prototxt",
        notes,
    ).layer
    assert notes.problems == []
    assert layer.source_line == "net.prototxt:1"
    layer.ClearField("source_line")
    return layer


def current(settings: str):
    wanted = f'name: "l" bottom: "x" top: "y" {settings}'
    return text.parse(wanted, pb.LayerParameter())


FILLERS = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.5 }'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            f'type: "conv" num_output: 8 biasterm: false {FILLERS} pad: 1 kernelsize: 5 group: 2 '
            "stride: 3",
            'type: "Convolution" convolution_param { num_output: 8 bias_term: false '
            f"{FILLERS} pad: 1 kernel_size: 5 group: 2 stride: 3 }}",
        ),
        (
            f'type: "innerproduct" num_output: 8 biasterm: true {FILLERS}',
            'type: "InnerProduct" inner_product_param { num_output: 8 bias_term: true '
            f"{FILLERS} }}",
        ),
        (
            'type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1',
            'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
        ),
        (
            'type: "pool" pool: STOCHASTIC',
            'type: "Pooling" pooling_param { pool: STOCHASTIC }',
        ),
        (
            'type: "lrn" local_size: 3 alpha: 0.5 beta: 0.25 k: 2',
            'type: "LRN" lrn_param { local_size: 3 alpha: 0.5 beta: 0.25 k: 2 }',
        ),
        (
            'type: "dropout" dropout_ratio: 0.3',
            'type: "Dropout" dropout_param { dropout_ratio: 0.3 }',
        ),
        ('type: "concat" concat_dim: 2', 'type: "Concat" concat_param { concat_dim: 2 }'),
        (
            'type: "data" source: "db" batchsize: 64 rand_skip: 7 scale: 0.5 meanfile: "m" '
            "cropsize: 227 mirror: false",
            'type: "Data" data_param { source: "db" batch_size: 64 rand_skip: 7 } '
            'transform_param { scale: 0.5 mean_file: "m" crop_size: 227 mirror: false }',
        ),
        (
            'type: "images" source: "list" batchsize: 2 rand_skip: 7 shuffle_images: true '
            "new_height: 4 new_width: 5",
            'type: "ImageData" image_data_param { source: "list" batch_size: 2 rand_skip: 7 '
            "shuffle: true new_height: 4 new_width: 5 }",
        ),
        (
            'type: "hdf5_data" source: "list" batchsize: 2',
            'type: "HDF5Data" hdf5_data_param { source: "list" batch_size: 2 }',
        ),
        (
            'type: "window_data" source: "w" batchsize: 2 det_fg_threshold: 0.1 '
            'det_bg_threshold: 0.2 det_fg_fraction: 0.3 det_context_pad: 4 det_crop_mode: "square"',
            'type: "WindowData" window_data_param { source: "w" batch_size: 2 fg_threshold: 0.1 '
            'bg_threshold: 0.2 fg_fraction: 0.3 context_pad: 4 crop_mode: "square" }',
        ),
        (
            'type: "infogain_loss" source: "h"',
            'type: "InfogainLoss" infogain_loss_param { source: "h" }',
        ),
        (
            'type: "hdf5_output" hdf5_output_param { file_name: "o" }',
            'type: "HDF5Output" hdf5_output_param { file_name: "o" }',
        ),
        ('type: "softmax_loss"', 'type: "SoftmaxWithLoss"'),
        (
            'type: "innerproduct" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 '
            "blobs { num: 1 data: 3 }",
            'type: "InnerProduct" param { lr_mult: 1 decay_mult: 1 } '
            "param { lr_mult: 2 decay_mult: 0 } blobs { num: 1 data: 3 }",
        ),
    ],
)
def test_settings_find_their_successors(old, new):
    assert layer_of(old) == current(new)


def test_every_type_of_2013_has_a_successor():
    words = (
        "accuracy bnll concat conv data dropout euclidean_loss flatten hdf5_data hdf5_output "
        "im2col images infogain_loss innerproduct lrn multinomial_logistic_loss pool relu sigmoid "
        "softmax softmax_loss split tanh window_data"
    ).split()
    found = {word: layer_of(f'type: "{word}"').type for word in words}
    assert len(set(found.values())) == len(words)
    assert set(found.values()) <= set(TYPES.values())
    assert (found["conv"], found["pool"], found["images"]) == (
        "Convolution",
        "Pooling",
        "ImageData",
    )


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("relu", "num_output: 1"),
        ("pool", "biasterm: true"),
        ("data", 'bias_filler { type: "constant" }'),
        ("innerproduct", "stride: 2"),
        ("pool", "group: 2"),
        ("conv", "pool: MAX"),
        ("hdf5_data", "rand_skip: 2"),
        ("relu", "new_channels: 2"),
    ],
)
def test_field_of_another_type_is_reported_and_left_out(word, field):
    notes = Notes()
    net = net_of(f'layers {{ layer {{ name: "l" type: "{word}" {field} }} }}')
    (layer,) = upgrade_net(net, "net.prototxt", notes).layer
    assert {f.name for f, _ in layer.ListFields()} == {"name", "type", "source_line"}
    name = field.split()[0].strip(":")
    assert notes.problems == [
        f"net.prototxt:1: layer 'l': Unknown parameter {name} for layer type {word}; it is left out"
    ]


def test_unknown_type_is_an_error_with_its_place():
    with pytest.raises(NetError) as caught:
        upgraded('\nlayers { layer { name: "l" type: "pooling" } }')
    assert str(caught.value) == (
        "net.prototxt:2: layer 'l' (pooling): Unknown layer name: 'pooling' is not a V0 layer "
        "type. Did you mean 'pool'?"
    )


def test_layers_of_2014_among_them_stay():
    net = upgraded(
        'layers { layer { name: "d" type: "data" } top: "d" } '
        'layers { name: "ip" type: INNER_PRODUCT bottom: "d" top: "ip" '
        "inner_product_param { num_output: 3 } }"
    )
    assert [layer.type for layer in net.layer] == ["Data", "InnerProduct"]
    assert net.layer[1].inner_product_param.num_output == 3


def test_net_fields_stay():
    net = upgraded('name: "n" force_backward: true layers { layer { name: "r" type: "relu" } }')
    assert (net.name, net.force_backward) == ("n", True)


# Padding layers

DATA = 'layers { layer { name: "d" type: "data" } top: "d" } '
PADDING = 'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "d" top: "p" } '


@pytest.mark.parametrize("word", ["conv", "pool"])
def test_padding_folds_into_what_it_feeds(word):
    net = upgraded(
        f"{DATA}{PADDING}"
        f'layers {{ layer {{ name: "c" type: "{word}" }} bottom: "p" top: "c" }} '
        'layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }'
    )
    assert [layer.name for layer in net.layer] == ["d", "c", "r"]
    padded = net.layer[1]
    pads = padded.convolution_param.pad if word == "conv" else [padded.pooling_param.pad]
    assert (list(padded.bottom), list(pads)) == (["d"], [2])


def test_padding_overrides_the_pad_of_what_it_feeds():
    net = upgraded(
        f"{DATA}{PADDING}"
        'layers { layer { name: "c" type: "conv" pad: 9 } bottom: "p" top: "c" }'
    )
    assert list(net.layer[1].convolution_param.pad) == [2]


def test_the_last_maker_of_a_blob_counts():
    """A blob written twice is what its last writer made: here no padding."""
    net = upgraded(
        f"{DATA}{PADDING}"
        'layers { layer { name: "c0" type: "conv" } bottom: "p" top: "p" } '
        'layers { layer { name: "c1" type: "conv" } bottom: "p" top: "c1" }'
    )
    assert [list(layer.bottom) for layer in net.layer] == [[], ["d"], ["p"]]
    assert not net.layer[2].convolution_param.pad


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            r"layer 'r' \(relu\): Padding layer input to non-convolutional / non-pooling",
        ),
        (
            'layers { layer { name: "q" type: "padding" } bottom: "p" top: "q" }',
            r"layer 'q' \(padding\): Padding layer input to non-convolutional / non-pooling",
        ),
        (
            'layers { layer { name: "c" type: "conv" } bottom: "p" bottom: "d" top: "c" }',
            r"layer 'c' \(conv\): .* takes a single blob as input. Received: p, d",
        ),
        (
            'layers { layer { name: "q" type: "padding" } bottom: "d" top: "q" top: "s" } '
            'layers { layer { name: "c" type: "conv" } bottom: "q" top: "c" }',
            r"layer 'q' \(padding\): .* produces a single blob as output. Received: q, s",
        ),
        (
            'layers { layer { name: "q" type: "padding" } top: "q" } '
            'layers { layer { name: "c" type: "conv" } bottom: "q" top: "c" }',
            r"layer 'q' \(padding\): .* takes a single blob as input. Received: none",
        ),
        (
            'layers { layer { name: "c" type: "conv" } bottom: "pp" top: "c" }',
            r"layer 'c' \(conv\): Unknown blob input 'pp'",
        ),
    ],
)
def test_padding_where_it_cannot_be_is_an_error(layers, message):
    with pytest.raises(NetError, match=f"^net.prototxt:2: {message}"):
        upgraded(f"{DATA}{PADDING}\n{layers}")


def test_negative_size_is_an_error_with_its_line():
    with pytest.raises(NetError, match=r"net.prototxt:1: .*new_height must not be negative.*-1"):
        layer_of('type: "images" source: "list" new_height: -1 new_width: 4')
