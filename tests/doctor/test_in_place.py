"""Layers in place over what BVLC Caffe computes a gradient from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.examining import IP, found, to_loss, write

CHECK = "overwritten_in_place"
LEAKY = "relu_param { negative_slope: 0.1 }"
PLANE = """layer { name: "r" type: "Reshape" bottom: "ip" top: "plane"
  reshape_param { shape { dim: 0 dim: 5 dim: 1 dim: 1 } } }
"""


def layer(kind: str, bottom: str = "ip", top: str = "y", more: str = "") -> str:
    name = f'name: "{kind}_{bottom}" type: "{kind}"'
    return f'layer {{ {name} bottom: "{bottom}" top: "{top}" {more} }}\n'


@pytest.mark.parametrize(
    "kind", ["TanH", "Sigmoid", "ELU", "Swish", "Exp", "Softmax", "LRN", "MVN"]
)
def test_top_that_the_next_layer_overwrites(tmp_path: Path, kind: str) -> None:
    bottom = "plane" if kind in ("LRN", "MVN") else "ip"
    first = PLANE + layer(kind, bottom)
    for after in (layer("Scale", "y"), layer("ReLU", "y", more=LEAKY), layer("Dropout", "y")):
        ((severity, what),) = found(write(tmp_path, net=to_loss(first + after, "y")), CHECK)
        assert severity == "warning"
        assert f"works in place on the top of layer '{kind}_{bottom}' ({kind})" in what
    plain = found(write(tmp_path, net=to_loss(first + layer("ReLU", "y"), "y")), CHECK)
    assert bool(plain) == (kind == "MVN")
    own = first + layer("Scale", "y", "z")
    assert found(write(tmp_path, net=to_loss(own, "z")), CHECK) == []


@pytest.mark.parametrize("kind", ["BNLL", "Clip", "Log", "Power"])
def test_bottom_that_the_layer_itself_overwrites(tmp_path: Path, kind: str) -> None:
    settings = {"Power": "power_param { power: 2 }", "Clip": "clip_param { min: -1 max: 1 }"}
    more = settings.get(kind, "")
    there = to_loss(layer(kind, "ip", "ip", more), "ip")
    assert found(write(tmp_path, net=there), CHECK) == [
        ("warning", f"layer '{kind}_ip' ({kind}) works in place")
    ]
    assert found(write(tmp_path, net=to_loss(layer(kind, "ip", "y", more), "y")), CHECK) == []


def test_what_gets_no_gradient_or_is_linear_is_not_named(tmp_path: Path) -> None:
    scaled = layer("Power", "ip", "ip", "power_param { scale: 0.5 }")
    assert found(write(tmp_path, net=to_loss(scaled, "ip")), CHECK) == []
    product = IP.replace('"ip"', '"q"')
    of_data = layer("TanH", "data", "data") + layer("Log", "data", "data") + product
    assert found(write(tmp_path, net=to_loss(of_data, "q")), CHECK) == []
