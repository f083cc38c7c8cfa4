from __future__ import annotations

from pathlib import Path

import pytest

from caffe_kd.analysis.cost import Cost
from tests.doctor.examining import report_of, write
from tests.helpers import inputs_text


def cost_of(folder: Path, layers: str, *shapes: tuple[int, ...]) -> Cost:
    return report_of(write(folder, net=inputs_text(*shapes) + layers)).costs["TEST"]


def layer(kind: str, param: str = "", bottoms: int = 1) -> str:
    names = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
    return f'layer {{ name: "L" type: "{kind}" {names} top: "y" {param} }}'


IMAGE = (2, 6, 8, 10)


def conv(rest: str = "", kind: str = "Convolution") -> str:
    return layer(kind, f"convolution_param {{ num_output: 4 kernel_size: 3 {rest} }}")


def ip(rest: str = "") -> str:
    return layer("InnerProduct", f"inner_product_param {{ num_output: 3 {rest} }}")


def pool(rest: str) -> str:
    return layer("Pooling", f"pooling_param {{ {rest} }}")


LSTM = layer("LSTM", "recurrent_param { num_output: 3 }", 2)


@pytest.mark.parametrize(
    ("text", "shapes", "parameters", "multiply_adds"),
    [
        (conv(), [IMAGE], 4 * 6 * 9 + 4, 4 * 6 * 8 * 6 * 9),
        (conv("group: 2 stride: 2"), [IMAGE], 4 * 3 * 9 + 4, 4 * 3 * 4 * 3 * 9),
        (conv("bias_term: false"), [IMAGE], 4 * 6 * 9, 4 * 6 * 8 * 6 * 9),
        (conv("stride: 2", "Deconvolution"), [IMAGE], 6 * 4 * 9 + 4, 6 * 8 * 10 * 4 * 9),
        (ip(), [IMAGE], 3 * 480 + 3, 3 * 480),
        (ip("axis: 2"), [(2, 5, 4)], 15, 5 * 3 * 4),
        # A record, being an item of axis 0, is a step of both streams here.
        (LSTM, [(7, 2, 5), (7, 2)], 4 * 3 * (5 + 3 + 1), 2 * 4 * 3 * (5 + 3)),
        (pool("kernel_size: 2 stride: 2"), [IMAGE], 0, 6 * 4 * 5 * 4),
        (pool("pool: AVE global_pooling: true"), [IMAGE], 0, 6 * 80),
        (layer("LRN", "lrn_param { local_size: 5 }"), [IMAGE], 0, 480 * 5),
        (layer("BatchNorm"), [IMAGE], 13, 480),
        (layer("Scale", "scale_param { bias_term: true }"), [IMAGE], 12, 480),
        (layer("PReLU"), [IMAGE], 6, 480),
        (layer("Eltwise", "", 3), [IMAGE] * 3, 0, 2 * 480),
        (layer("ReLU"), [IMAGE], 0, 0),
    ],
)
def test_layer_costs_what_its_formula_says(tmp_path, text, shapes, parameters, multiply_adds):
    row = cost_of(tmp_path, text, *shapes).rows[-1]
    assert (row.parameters, row.multiply_adds) == (parameters, multiply_adds)


def test_shared_parameters_count_once(tmp_path: Path) -> None:
    twins = "".join(
        f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "x0" top: "{name}"
          param {{ name: "w" }} param {{ name: "b" }} inner_product_param {{ num_output: 3 }} }}"""
        for name in ("a", "b")
    )
    cost = cost_of(tmp_path, twins, (2, 4))
    assert [row.parameters for row in cost.rows] == [0, 15, 0]
    assert cost.parameters == 15
    assert cost.multiply_adds == 24


def test_memory_is_that_of_all_blobs_of_a_batch(tmp_path: Path) -> None:
    relu = 'layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" }'  # in place: no blob more
    assert cost_of(tmp_path, relu, (2, 4)).blob_bytes == 32
    assert cost_of(tmp_path, relu.replace('top: "x0"', 'top: "y"'), (2, 4)).blob_bytes == 64


def test_receptive_field_follows_windows(tmp_path: Path) -> None:
    layers = "".join(
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {param} }}\n'
        for name, kind, bottom, param in (
            ("c1", "Convolution", "x0", "convolution_param { num_output: 2 kernel_size: 5 }"),
            ("p1", "Pooling", "c1", "pooling_param { kernel_size: 2 stride: 2 }"),
            (
                "c2",
                "Convolution",
                "p1",
                "convolution_param { num_output: 2 kernel_size: 3 dilation: 2 }",
            ),
            ("r2", "ReLU", "c2", ""),
            ("ip", "InnerProduct", "r2", "inner_product_param { num_output: 2 }"),
        )
    )
    # 5, then 5 + 1, then 6 + 4 * 2
    assert cost_of(tmp_path, layers, (1, 1, 28, 28)).receptive == ("c2", 14, 14)


def test_net_that_is_built_in_part_says_so(tmp_path: Path) -> None:
    cost = cost_of(tmp_path, layer("ReLU") + layer("Nothing").replace('"y"', '"z"'), (1, 1))
    assert (len(cost.rows), cost.layers) == (2, 3)


def test_batch_is_that_of_the_data_and_not_of_a_learned_blob_before_it(tmp_path: Path) -> None:
    blob = "parameter_param { shape { dim: 7 dim: 4 } }"
    learned = f'layer {{ name: "p" type: "Parameter" top: "p" {blob} }}\n'
    net = (
        learned
        + inputs_text((2, 4))
        + layer("InnerProduct", "inner_product_param { num_output: 3 }")
    )
    cost = report_of(write(tmp_path, net=net)).costs["TEST"]
    assert cost.multiply_adds == 12  # of one of the two samples
