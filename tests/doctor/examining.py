"""What the tests of the doctor share: files of a few lines, and what is found in them."""

from __future__ import annotations

from pathlib import Path

from caffe_kd.analysis.reading import ReadOptions
from caffe_kd.doctor.examine import Report, examine
from caffe_kd.python_layers import user_code

INPUT = """layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 9 dim: 9 } shape { dim: 4 } } }
"""
IP = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
NET = f'name: "n"\n{INPUT}{IP}{LOSS}'
FREEZE = "param { lr_mult: 0 } param { lr_mult: 0 }"
SOLVER = """net: "net.prototxt"
type: "SGD" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 100
snapshot: 50 snapshot_prefix: "s" random_seed: 1
"""


def write(folder: Path, **files: str) -> Path:
    """Write prototxts by the stem of their names; return the first one's path."""
    for name, content in files.items():
        (folder / f"{name}.prototxt").write_text(content)
    return folder / f"{next(iter(files))}.prototxt"


def report_of(path: Path, **options: object) -> Report:
    """Examine a file."""
    return examine(path, ReadOptions(**options))  # type: ignore[arg-type]


def found(path: Path, check: str, **options: object) -> list[tuple[str, str]]:
    """Return severity and words of what one check found in a file."""
    findings = report_of(path, **options).findings
    return [(f.occurrence.severity, f.occurrence.what) for f in findings if f.check.name == check]


def with_layer(layer: str) -> str:
    """Return NET with one more layer before the loss."""
    return f'name: "n"\n{INPUT}{IP}{layer}{LOSS}'


def to_loss(layers: str, bottom: str) -> str:
    """Return NET with more layers before the loss, which takes ``bottom``."""
    loss = LOSS.replace('bottom: "ip"', f'bottom: "{bottom}"')
    return f'name: "n"\n{INPUT}{IP}{layers}{loss}'


def of(kind: str, rest: str, top: str = "y", bottom: str = "data") -> str:
    """Return a layer "l"."""
    return f'layer {{ name: "l" type: "{kind}" bottom: "{bottom}" top: "{top}" {rest} }}\n'


def assert_distinguishes(
    folder: Path, check: str, severity: str, words: str, bad: str, good: str
) -> None:
    """Assert that a check has a finding in one file, with some words, and none in another."""
    with user_code.forbidden():  # as in the command
        occurrences = found(write(folder, bad=bad), check)
        assert any(s == severity and words in what for s, what in occurrences), occurrences
        assert found(write(folder, good=good), check) == []
