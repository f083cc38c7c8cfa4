from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from caffe_kd import plugin
from caffe_kd.core.errors import NetError
from caffe_kd.plugin import base, formulas
from tests.helpers import make_layer, run
from tests.layers.python_nets import without_caffe

pytestmark = without_caffe

FOLDER = Path(plugin.__file__).parent
# The plugin computes in double precision, the layers in float32, sums of some 100 terms.
RTOL = 1e-5
# Rounding of float64 and the third derivative, at steps of 1e-5.
GRADIENT_ATOL = 1e-8

SHAPE, SPATIAL = (6, 5), (3, 4, 2, 2)


def python(layer: str, param_str: str) -> str:
    return (
        f'type: "Python" loss_weight: 1 python_param {{ module: "caffe_kd.plugin" '
        f'layer: "{layer}" param_str: "{param_str}" }}'
    )


def drawn(shape, bottoms, axis=1, ignore=None):
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(shape, generator=generator) * 3 for _ in range(min(bottoms, 2))]
    positions = [length for i, length in enumerate(shape) if i != axis % len(shape)]
    label = torch.randint(shape[axis], positions, generator=generator).float()
    if ignore is not None:
        label.reshape(-1)[::3] = ignore
    return [*logits, label][:bottoms]


def outcome(body, bottoms):
    """Return the top and the gradient to the first bottom, as seen by a loss on the top."""
    bottoms = [b.clone() for b in bottoms]
    bottoms[0].requires_grad_()
    (top,) = run(make_layer(body, *(tuple(b.shape) for b in bottoms)), *bottoms)
    weights = torch.arange(1.0, 1 + top.numel()).reshape(top.shape) * 1.5
    (top * weights).sum().backward()
    return top.detach().reshape(-1).numpy(), bottoms[0].grad.numpy()


def assert_same(own, layer, param_str, bottoms):
    expected, found = outcome(own, bottoms), outcome(python(layer, param_str), bottoms)
    for theirs, mine in zip(expected, found, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(mine, theirs, rtol=RTOL, atol=RTOL * np.abs(theirs).max())


@pytest.mark.parametrize("shape", [SHAPE, SPATIAL])
@pytest.mark.parametrize("bottoms", [2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        "",
        "temperature: 1.5",
        "divergence: CROSS_ENTROPY",
        "divergence: MSE",
        "divergence: PSEUDO_LABEL",
        "temperature: 3 scale_by_temperature: false",
    ],
)
def test_distilling_loss_equals_the_packages_own(shape, bottoms, settings):
    own = f'type: "DistillingLoss" distilling_loss_param {{ {settings} }}'
    assert_same(own, "DistillingLoss", settings, drawn(shape, bottoms))


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
@pytest.mark.parametrize("mode", ["VALID", "FULL", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize("divergence", ["KL", "MSE"])
def test_distilling_loss_with_ignored_labels_equals_the_packages_own(alpha, mode, divergence):
    settings = f"alpha: {alpha} divergence: {divergence}"
    losses = f"ignore_label: 255 normalization: {mode}"
    own = f'type: "DistillingLoss" distilling_loss_param {{ {settings} }} loss_param {{ {losses} }}'
    bottoms = drawn(SPATIAL, 3, ignore=255)
    assert_same(own, "DistillingLoss", f"{settings} {losses}", bottoms)


def test_distilling_loss_with_all_labels_ignored_is_zero():
    bottoms = drawn(SHAPE, 3, ignore=9)
    bottoms[2][:] = 9
    top, gradient = outcome(python("DistillingLoss", "ignore_label: 9"), bottoms)
    assert top == [0] and not gradient.any()


def test_distilling_loss_with_label_smoothing_and_axis_equals_the_packages_own():
    own = (
        'type: "DistillingLoss" distilling_loss_param { axis: -1 alpha: 0.4 } '
        "loss_param { label_smoothing: 0.2 ignore_label: 1 }"
    )
    settings = "axis: -1, alpha: 0.4, label_smoothing: 0.2, ignore_label: 1"
    assert_same(own, "DistillingLoss", settings, drawn((3, 2, 4), 3, axis=-1))


@pytest.mark.parametrize("divergence", ["KL", "MSE"])
def test_loss_of_hopeless_positions_equals_the_packages_own(divergence):
    bottoms = drawn(SHAPE, 3)
    bottoms[0] *= 100  # beyond what the logarithm of FLT_MIN lets the labels' term be
    settings = f"divergence: {divergence} alpha: 0.5"
    own = f'type: "DistillingLoss" distilling_loss_param {{ {settings} }}'
    assert_same(own, "DistillingLoss", settings, bottoms)


@pytest.mark.parametrize("scale", [1, 100])
def test_knowledge_distillation_equals_the_packages_own(scale):
    own = 'type: "KnowledgeDistillation" knowledge_distillation_param { temperature: 2 }'
    bottoms = drawn(SPATIAL, 2)
    bottoms[0] *= scale
    assert_same(own, "KnowledgeDistillation", "temperature: 2", bottoms)
    own += " loss_param { ignore_label: 2 normalization: BATCH_SIZE }"
    settings = "temperature: 2 ignore_label: 2 normalization: BATCH_SIZE"
    assert_same(own, "KnowledgeDistillation", settings, drawn(SPATIAL, 3))


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_with_temperature_equals_the_packages_own(axis):
    settings = f"temperature: 2.5 axis: {axis}"
    own = f'type: "SoftmaxWithTemperature" softmax_with_temperature_param {{ {settings} }}'
    assert_same(own, "SoftmaxWithTemperature", settings, drawn(SPATIAL, 1))


def test_teacher_and_labels_get_no_gradient():
    bottoms = [b.requires_grad_() for b in drawn(SHAPE, 3)]
    (top,) = run(make_layer(python("DistillingLoss", ""), SHAPE, SHAPE, (6,)), *bottoms)
    top.sum().backward()
    assert bottoms[0].grad.any()
    assert not bottoms[1].grad.any() and not bottoms[2].grad.any()


# ---- the formulas alone

STUDENT, TEACHER = (np.random.default_rng(i).normal(size=(3, 4, 2)) for i in (0, 1))
LABEL = np.random.default_rng(2).integers(0, 4, (3, 2))
KEPT = np.array([[True, False], [True, True], [False, True]])


def soft(divergence, scale=True):
    return lambda z: formulas.soft_target_loss(z, TEACHER, KEPT, 2.5, divergence, scale)


@pytest.mark.parametrize(
    "loss",
    [
        soft("KL"),
        soft("KL", False),
        soft("CROSS_ENTROPY"),
        soft("MSE"),
        soft("PSEUDO_LABEL"),
        lambda z: formulas.label_loss(z, LABEL, KEPT),
        lambda z: formulas.label_loss(z, LABEL, KEPT, 0.3),
    ],
)
def test_gradient_is_that_of_the_value(loss):
    np.testing.assert_allclose(loss(STUDENT)[1], differences(loss), atol=GRADIENT_ATOL)


def test_gradient_of_knowledge_distillation_is_that_of_the_value_times_t_squared():
    def loss(z):
        return formulas.knowledge_distillation(z, TEACHER, KEPT, 3.0)

    np.testing.assert_allclose(loss(STUDENT)[1], 9 * differences(loss), atol=9 * GRADIENT_ATOL)


def test_gradient_of_softmax_is_that_of_the_probabilities():
    def weighted(z):
        return (np.exp(formulas.log_softmax(z / 2)) * TEACHER).sum(), None

    p = np.exp(formulas.log_softmax(STUDENT / 2))
    found = formulas.softmax_gradient(p, TEACHER, 2.0)
    np.testing.assert_allclose(found, differences(weighted), atol=GRADIENT_ATOL)


def differences(loss):
    step, found = 1e-5, np.zeros_like(STUDENT)
    for index in np.ndindex(*STUDENT.shape):
        moved = np.zeros_like(STUDENT)
        moved[index] = step
        found[index] = (loss(STUDENT + moved)[0] - loss(STUDENT - moved)[0]) / (2 * step)
    return found


# ---- settings and mistakes


def test_param_str_takes_commas_lines_and_quotes():
    text = 'temperature: 2,\n alpha:0.5; divergence: "MSE"  scale_by_temperature: false'
    settings = base.read_settings(text, plugin.DistillingLoss.known)
    chosen = ("temperature", "alpha", "divergence", "scale_by_temperature", "axis")
    assert [settings[name] for name in chosen] == [2.0, 0.5, "MSE", False, 1]


@pytest.mark.parametrize(
    "text",
    [
        "{'temperature': 2, 'divergence': 'MSE', 'scale_by_temperature': False}",
        json.dumps(
            {"temperature": 2.0, "divergence": "MSE", "scale_by_temperature": False}, indent=1
        ),
        "'temperature': 2\n'divergence': \"MSE\"\nscale_by_temperature: false",
        "{}",
    ],
    ids=["of Python", "JSON", "YAML", "empty"],
)
def test_param_str_may_be_a_dict(text):
    settings = base.read_settings(text, plugin.DistillingLoss.known)
    chosen = [settings[n] for n in ("temperature", "divergence", "scale_by_temperature")]
    assert chosen == ([4.0, "KL", True] if text == "{}" else [2.0, "MSE", False])


@pytest.mark.parametrize(
    ("param_str", "fact"),
    [
        ("{'temperature': 2", "must be 'name: value ...'"),
        ("{'temperature': {'value': 2}}", "temperature cannot be '{'"),
        ("'temperature: 2", "must be 'name: value ...'"),
        ("temprature: 2", "no setting 'temprature'"),
        ("temperature 2", "must be 'name: value ...'"),
        ("temperature: 2 temperature: 3", "given twice"),
        ("temperature: warm", "temperature cannot be 'warm'"),
        ("temperature: 0", "temperature must be above 0"),
        ("temperature: nan", "temperature must be above 0"),
        ("divergence: L1", "divergence cannot be 'L1'"),
        ("axis: 1.5", "axis cannot be '1.5'"),
        ("alpha: 1.5", "alpha must be in 0..1"),
        ("axis: 2", "axis 2 is out of range"),
        ("scale_by_temperature: __import__('os')", "scale_by_temperature cannot be"),
    ],
)
def test_wrong_param_str_is_an_error_that_names_it(param_str, fact):
    with pytest.raises(NetError) as caught:
        make_layer(python("DistillingLoss", param_str), SHAPE, SHAPE, (6,))
    assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "param_str", "shapes", "fact"),
    [
        ("DistillingLoss", "alpha: 0.5", [SHAPE, SHAPE], "alpha needs the label"),
        ("DistillingLoss", "ignore_label: 0", [SHAPE, SHAPE], "ignore_label needs the label"),
        ("DistillingLoss", "", [SHAPE, (6, 4)], "logits of the same shape"),
        ("DistillingLoss", "", [SHAPE, SHAPE, (5,)], "Number of labels must match"),
        ("DistillingLoss", "", [SHAPE], "it takes 2 or 3 bottoms"),
        ("KnowledgeDistillation", "", [SHAPE, SHAPE, (6,)], "go together"),
    ],
)
def test_bottoms_that_do_not_fit_are_an_error(layer, param_str, shapes, fact):
    with pytest.raises(NetError) as caught:
        make_layer(python(layer, param_str), *shapes)
    assert fact in str(caught.value)


def test_label_that_is_no_class_is_an_error():
    bottoms = drawn(SHAPE, 3)
    bottoms[2][2] = 5
    with pytest.raises(NetError, match=r"0\.\.4\. Received: 5"):
        run(make_layer(python("DistillingLoss", ""), SHAPE, SHAPE, (6,)), *bottoms)


# ---- beside Caffe

BESIDE = """
import importlib.abc, json, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "google") or name.startswith("caffe_kd.proto"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
import caffe_kd.plugin as plugin
import caffe

class Blob:
    def __init__(self, values):
        self.data = np.array(values, np.float32)
        self.diff = np.zeros_like(self.data)
    shape = property(lambda self: self.data.shape)
    def reshape(self, *dims):
        self.data, self.diff = np.zeros(dims, np.float32), np.zeros(dims, np.float32)

bottoms, top = [Blob(values) for values in json.load(sys.stdin)], [Blob([])]
layer = plugin.DistillingLoss()
assert isinstance(layer, caffe.Layer)
layer.param_str = "temperature: 2 alpha: 0.7"
layer.setup(bottoms, top)
layer.reshape(bottoms, top)
layer.forward(bottoms, top)
top[0].diff[...] = 1.5
layer.backward(top, [True, False, False], bottoms)
others = [name for name in sys.modules if name.startswith("caffe_kd.layers")]
print(json.dumps([top[0].data.tolist(), bottoms[0].diff.tolist(), plugin.__file__, others]))
"""


def searching(*folders: str) -> str:
    """Return code that looks into the folders first, and for caffe_kd nowhere else."""
    return (
        "import os, sys\n"
        "def holds(p): return os.path.isfile(os.path.join(p, 'caffe_kd', '__init__.py'))\n"
        f"sys.path[:] = [*{folders!r}, *(p for p in sys.path if not holds(p))]\n"
    )


@pytest.mark.parametrize("copied", [False, True], ids=["installed", "the folder alone"])
def test_plugin_runs_with_numpy_and_caffes_base_class_alone(tmp_path, copied):
    (tmp_path / "caffe.py").write_text("class Layer:\n    pass\n")
    folder = FOLDER.parents[1]
    if copied:
        folder = tmp_path
        shutil.copytree(FOLDER, tmp_path / "caffe_kd" / "plugin")
    bottoms = drawn(SHAPE, 3)
    path = searching(str(tmp_path), str(folder))
    done = subprocess.run(
        [sys.executable, "-c", path + BESIDE],
        input=json.dumps([b.tolist() for b in bottoms]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    top, gradient, file, others = json.loads(done.stdout)
    assert Path(file).is_relative_to(folder) and others == []
    own = 'type: "DistillingLoss" distilling_loss_param { temperature: 2 alpha: 0.7 }'
    expected, expected_gradient = outcome(own, bottoms)
    np.testing.assert_allclose(top, expected, rtol=RTOL)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=RTOL, atol=RTOL)


# Forward and backward with blobs of one's own. The words are what the classes are made with: in a
# net the LayerParameter.
ALONE = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "google", "caffe"):
            raise ModuleNotFoundError("No module named " + name)
sys.meta_path.insert(0, Blocked())
import numpy as np
import caffe_kd.plugin as plugin

class Blob:
    def __init__(self, *shape):
        self.reshape(*shape)
        self.data = np.arange(self.data.size, dtype=np.float32).reshape(shape)
    shape = property(lambda self: self.data.shape)
    def reshape(self, *dims):
        self.data, self.diff = np.zeros(dims, np.float32), np.ones(dims, np.float32)

for name in ("DistillingLoss", "SoftmaxWithTemperature", "KnowledgeDistillation"):
    layer = getattr(plugin, name)(*sys.argv[1:])
    layer.param_str = "temperature: 2"
    bottoms, top = [Blob(2, 3) for _ in range(1 if name.startswith("Soft") else 2)], [Blob(1)]
    layer.setup(bottoms, top)
    layer.reshape(bottoms, top)
    layer.forward(bottoms, top)
    layer.backward(top, [True, False], bottoms)
    print(top[0].data.shape, abs(bottoms[0].diff).max() < 1)
"""


@pytest.mark.parametrize("copied", [False, True], ids=["the package", "the folder alone"])
def test_plugin_is_imported_where_there_is_numpy_alone(tmp_path, copied):
    folder = FOLDER.parents[1]
    if copied:
        folder = tmp_path
        shutil.copytree(FOLDER, tmp_path / "caffe_kd" / "plugin")
    path = searching(str(folder))

    def made_with(*words):
        command = [sys.executable, "-c", path + ALONE, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    in_a_net = made_with("a LayerParameter")
    done = made_with() if copied else in_a_net
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1,) True", "(2, 3) True", "(1,) True"]
    if copied:
        message = "ImportError: caffe_kd.plugin needs pycaffe on PYTHONPATH: No module named caffe"
        assert in_a_net.stderr.splitlines()[-1] == message


def test_plugin_is_written_for_python_3_6():
    modules = set()
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 6))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module)
            elif isinstance(node, ast.Import):
                modules.add(node.names[0].name)
            # list[int] and int | None are syntax that 3.6 takes and fails to run
            assert not (
                isinstance(node, ast.BinOp)
                and isinstance(node.right, ast.Constant)
                and node.right.value is None
            ), file
            assert not (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("list", "tuple", "dict", "set", "type")
            ), file
    assert modules == {"math", "re", "typing", "numpy", "caffe", "caffe_kd"}
