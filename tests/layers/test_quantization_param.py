"""quantization_param: the fields of forks are read in both forms."""

from __future__ import annotations

import pytest

from caffe_kd.core.errors import NetError
from caffe_kd.proto import caffe_pb2 as pb
from caffe_kd.proto import text
from tests.helpers import make_net

INTEL = """quantization_param { bw_layer_in: 8 bw_layer_out: 8 bw_params: 8
    scale_in: 31.5 scale_out: 12 scale_params: 101 scale_params: 77.25 }"""
RISTRETTO = """quantization_param { precision: DYNAMIC_FIXED_POINT bw_layer_in: 8 bw_params: 4
    fl_layer_in: -2 fl_params: 5 rounding_scheme: STOCHASTIC }"""


@pytest.mark.parametrize("block", [INTEL, RISTRETTO])
def test_fields_of_forks_survive_text_and_binary(block):
    layer = pb.LayerParameter()
    text.parse(f'name: "c" type: "Convolution" {block}', layer, "net.prototxt")
    assert not layer.foreign
    again = pb.LayerParameter.FromString(layer.SerializeToString())
    assert again == layer
    assert again.quantization_param.bw_layer_in == 8


def test_layer_with_widths_does_not_silently_compute_in_float32():
    with pytest.raises(NetError, match="layer 'ip'.*precision and rounding_scheme are Ristretto's"):
        make_net(
            'layer { name: "data" type: "Input" top: "data"'
            "  input_param { shape { dim: 1 dim: 4 } } }"
            'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"'
            f"  inner_product_param {{ num_output: 2 }} {RISTRETTO} }}"
        )
