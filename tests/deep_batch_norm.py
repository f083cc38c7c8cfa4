"""A deep net with BatchNorm that learns ten patterns, and tests badly by the averages it keeps.

Weight decay shrinks its weights during all of the training, so that averages over it are those of
other weights; what the net computes by its batches does not change by that.
"""

from __future__ import annotations

from pathlib import Path

from tests.cli.small import write_digits

ITERATIONS = 100
_BLOCK = """layer {{ name: "ip{i}" type: "InnerProduct" bottom: "{bottom}" top: "ip{i}"
  inner_product_param {{ num_output: 32 bias_term: false weight_filler {{ type: "msra" }} }} }}
layer {{ name: "bn{i}" type: "BatchNorm" bottom: "ip{i}" top: "ip{i}" {more} }}
layer {{ name: "scale{i}" type: "Scale" bottom: "ip{i}" top: "ip{i}"
  scale_param {{ bias_term: true }} }}
layer {{ name: "relu{i}" type: "ReLU" bottom: "ip{i}" top: "ip{i}" }}
"""
_DATA = """layer {{ name: "d" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
  transform_param {{ scale: 0.004 {transform} }}
  data_param {{ source: "{name}-images-idx3-ubyte" backend: IDX batch_size: {batch} }} }}
"""
_HEAD = """layer { name: "last" type: "InnerProduct" bottom: "ip5" top: "last"
  inner_product_param { num_output: 10 weight_filler { type: "msra" } } }
layer { name: "acc" type: "Accuracy" bottom: "last" bottom: "label" top: "acc"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "last" bottom: "label" top: "loss" }
"""


def write_net(folder: Path, more: str = "", transform: str = "") -> None:
    """Write digits and net.prototxt; ``more`` goes into each BatchNorm."""
    write_digits(folder)
    layers = [
        _DATA.format(phase="TRAIN", name="train", batch=32, transform=transform),
        _DATA.format(phase="TEST", name="t10k", batch=40, transform=""),
    ]
    for i in range(6):
        layers.append(_BLOCK.format(i=i, bottom=f"ip{i - 1}" if i else "data", more=more))
    (folder / "net.prototxt").write_text(f'name: "deep"\n{"".join(layers)}{_HEAD}')


def write_solver(folder: Path, more: str = "", iterations: int = ITERATIONS) -> None:
    """Write solver.prototxt, whose snapshots are s_iter_N."""
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 momentum: 0.9 weight_decay: 0.02 lr_policy: "poly" '
        f'power: 1 max_iter: {iterations} test_iter: 1 display: 10 snapshot_prefix: "s" '
        f"random_seed: 1 {'' if 'test_interval' in more else f'test_interval: {iterations}'} {more}"
    )
