from __future__ import annotations

import gc
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caffe_kd.core.errors import CaffeKDError, DataError, UsageError
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.layers.data.memory_data import MemoryData
from caffe_kd.logs.log import Log
from caffe_kd.solver.callbacks.teacher_outputs import TeacherOutputs
from caffe_kd.solver.frozen import Frozen, find_frozen
from caffe_kd.solver.options import Options
from caffe_kd.solver.plan import read_plan
from caffe_kd.solver.solver import Solver
from caffe_kd.solver.teacher_cache import TeacherCache
from tests.test_disk_full import full_disk

SAMPLES, BATCH = 22, 4  # the last chunk is not full, and batches run over the end

TRUNK = """
layer { name: "t1" type: "Convolution" bottom: "data" top: "t1"
  param { lr_mult: 0 } param { lr_mult: 0 }
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "t1" top: "t1" phase: TEST }
layer { name: "relu" type: "ReLU" bottom: "t1" top: "t1" }
layer { name: "pool" type: "Pooling" bottom: "t1" top: "t2"
  pooling_param { kernel_size: 2 stride: 2 } }
"""
HEAD = """
layer { name: "ip" type: "InnerProduct" bottom: "t2" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def write_digits(folder: Path, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    write_idx(folder / "images-idx3-ubyte", draw.integers(0, 256, (SAMPLES, 8, 8), np.uint8))
    write_idx(folder / "labels-idx1-ubyte", draw.integers(0, 5, SAMPLES).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_digits(tmp_path)
    return tmp_path


def solver(
    folder: Path,
    mode: str,
    transform: str = "",
    layers: str = TRUNK + HEAD,
    seed: int = 5,
    data: str = "",
) -> tuple[Solver, io.StringIO]:
    source = (folder / "images-idx3-ubyte").as_posix()
    data = data or (
        f'type: "Data" data_param {{ source: "{source}" backend: IDX batch_size: {BATCH} }}'
    )
    (folder / "net.prototxt").write_text(
        'layer { name: "d" top: "data" top: "label" '
        f"transform_param {{ scale: 0.00390625 {transform} }} {data} }}" + layers
    )
    (folder / "solver.prototxt").write_text(
        f'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 20 '
        f'random_seed: {seed} snapshot_prefix: "{(folder / "run").as_posix()}"'
    )
    lines = io.StringIO()
    return Solver(
        read_plan(folder / "solver.prototxt"), Log(stream=lines), options=Options(mode)
    ), lines


def cache_of(run: Solver) -> TeacherCache | None:
    return next((c.cache for c in run.callbacks if isinstance(c, TeacherOutputs)), None)


def trained(run: Solver, iterations: int = 15) -> list[torch.Tensor]:
    run.step(iterations)
    return [p.blob.detach().clone() for p in run.net.params]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_frozen_trunk_is_found_up_to_what_learns(folder: Path) -> None:
    run, _ = solver(folder, "auto")
    frozen = find_frozen(run.net)
    assert isinstance(frozen, Frozen)
    assert [node.layer.name for node in frozen.nodes] == ["t1", "bn", "relu", "pool"]
    assert frozen.blobs == ["t2"]


@pytest.mark.parametrize("mode", ["auto", "memory", "disk"])
def test_training_with_the_cache_gives_the_same_weights(folder: Path, mode: str) -> None:
    live = trained(solver(folder, "off")[0])
    run, lines = solver(folder, mode)
    cached = trained(run)
    for a, b in zip(live, cached, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the batches of a chunk differ
    assert "Caching the outputs of 4 frozen layers: t2 for 22 samples" in lines.getvalue()


def test_each_chunk_is_computed_once(folder: Path) -> None:
    run, _ = solver(folder, "memory")
    trained(run, 15)
    assert cache_of(run) is not None
    assert (cache_of(run).computed, cache_of(run).served) == (6, 15 * BATCH)
    assert "6 of 6 chunks computed" in cache_of(run).report()


def test_outputs_are_bitwise_the_same_in_any_order(folder: Path) -> None:
    first, second = (solver(folder, "memory")[0] for _ in range(2))
    trained(first, 1)
    trained(second, 1)
    assert cache_of(first) is not None and cache_of(second) is not None
    forward = [cache_of(first).outputs(np.array([i]))[0] for i in range(SAMPLES)]
    backward = [cache_of(second).outputs(np.array([i]))[0] for i in reversed(range(SAMPLES))]
    assert same(forward, backward[::-1])


def test_disk_cache_serves_the_next_run(folder: Path) -> None:
    first = trained(solver(folder, "disk")[0])
    run, lines = solver(folder, "disk")
    assert same(first, trained(run))
    assert cache_of(run) is not None and cache_of(run).computed == 0
    assert "computed again" not in lines.getvalue()


@pytest.mark.parametrize("change", ["weights", "data", "transform", "file"])
def test_disk_cache_of_other_inputs_is_computed_again(folder: Path, change: str) -> None:
    trained(solver(folder, "disk")[0])
    gc.collect()  # the run is over, and its cache not in use
    if change == "data":
        write_digits(folder, seed=1)
    if change == "file":
        (values,) = (folder / "run.teacher_cache").glob("*/0.f32")
        values.write_bytes(b"short")
    transform = "mean_value: 3" if change == "transform" else ""
    seed = 6 if change == "weights" else 5
    run, lines = solver(folder, "disk", transform, seed=seed)
    after = trained(run)
    assert cache_of(run) is not None and cache_of(run).computed == 6
    assert ("is damaged" if change == "file" else "computed again") in lines.getvalue()
    assert len(list((folder / "run.teacher_cache").iterdir())) == 1
    live = trained(solver(folder, "off", transform, seed=seed)[0])
    for a, b in zip(live, after, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_chunk_that_a_power_cut_has_zeroed_is_computed_again(folder: Path) -> None:
    first = trained(solver(folder, "disk")[0])
    (path,) = (folder / "run.teacher_cache").glob("*/0.f32")
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = bytes(len(content) // 2)
    path.write_bytes(content)
    run, lines = solver(folder, "disk")
    assert same(first, trained(run))
    assert cache_of(run).computed == 3  # of 6 chunks
    assert lines.getvalue().count("is damaged: bad chunks are computed again") == 1


def test_runs_with_other_teachers_do_not_mix_and_neither_removes_the_other_s(folder: Path) -> None:
    expected = [trained(solver(folder, "memory", seed=seed)[0]) for seed in (5, 6)]
    runs = [solver(folder, "disk", seed=seed)[0] for seed in (5, 6)]
    for _ in range(5):  # in turns, from the first iteration on
        found = [trained(run, 3) for run in runs]
    assert same(found[0], expected[0]) and same(found[1], expected[1])
    assert len(list((folder / "run.teacher_cache").iterdir())) == 2


def test_cache_file_that_is_cut_short_in_use_is_an_error(folder: Path) -> None:
    """By a map it would end the process with a bus error."""
    run, _ = solver(folder, "disk")
    trained(run, 8)
    (path,) = (folder / "run.teacher_cache").glob("*/0.f32")
    os.truncate(path, 0)
    with pytest.raises(CaffeKDError, match=r"0\.f32: was truncated while in use"):
        trained(run, 8)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="limits are set the POSIX way")
def test_cache_that_the_disk_has_no_space_for_is_one_clear_error(folder: Path) -> None:
    run, _ = solver(folder, "disk")
    with full_disk(1000), pytest.raises(CaffeKDError) as error:
        trained(run, 1)
    assert "the teacher cache cannot be written: File too large. It needs 0.0 MB" in str(
        error.value
    )


@pytest.mark.parametrize("transform", ["mirror: true", "jitter: 1"])
def test_randomly_augmented_samples_are_not_cached(folder: Path, transform: str) -> None:
    run, lines = solver(folder, "auto", transform)
    trained(run, 1)
    assert cache_of(run) is None
    assert "No teacher cache: layer 'd' augments its samples at random" in lines.getvalue()
    with pytest.raises(UsageError, match="-teacher_cache memory: layer 'd'"):
        trained(solver(folder, "memory", transform)[0], 1)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_selected_samples_are_cached_by_their_own_numbers(folder: Path, mode: str) -> None:
    source = (folder / "images-idx3-ubyte").as_posix()
    data = (
        f'type: "Data" data_param {{ source: "{source}" backend: IDX batch_size: {BATCH} '
        "first: 3 count: 15 leave_out: 1 }"
    )
    live = trained(solver(folder, "off", data=data)[0])
    run, _ = solver(folder, mode, data=data)
    cached = trained(run)
    assert cache_of(run) is not None and cache_of(run).sample_count < 15
    for a, b in zip(live, cached, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_net_without_frozen_layers_has_no_cache(folder: Path) -> None:
    learning = TRUNK.replace("param { lr_mult: 0 } param { lr_mult: 0 }", "") + HEAD
    run, lines = solver(folder, "auto", layers=learning)
    trained(run, 1)
    assert cache_of(run) is None
    assert "teacher cache" not in lines.getvalue()


def test_batch_norm_in_train_ends_the_frozen_part(folder: Path) -> None:
    run, _ = solver(folder, "auto", layers=TRUNK.replace("phase: TEST", "") + HEAD)
    frozen = find_frozen(run.net)
    assert isinstance(frozen, Frozen)
    assert frozen.blobs == ["t1"]
    assert [node.layer.name for node in frozen.nodes] == ["t1"]
    live = trained(solver(folder, "off", layers=TRUNK.replace("phase: TEST", "") + HEAD)[0])
    for a, b in zip(live, trained(run), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_blob_that_is_used_before_and_after_a_change_in_place_is_not_cached(
    folder: Path,
) -> None:
    early = """layer { name: "early" type: "InnerProduct" bottom: "data" top: "early"
      inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
    layer { name: "early_loss" type: "SoftmaxWithLoss" bottom: "early" bottom: "label" top: "el" }
    layer { name: "half" type: "Convolution" bottom: "data" top: "data" param { lr_mult: 0 }
      convolution_param { num_output: 1 kernel_size: 1 bias_term: false } }"""
    run, lines = solver(folder, "auto", layers=early + TRUNK + HEAD)
    assert isinstance(find_frozen(run.net), Frozen)
    run, lines = solver(
        folder,
        "auto",
        layers=early + 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" '
        'inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }',
    )
    assert find_frozen(run.net) == "blob 'data' is changed in place between layers that use it"
    trained(run, 1)
    assert cache_of(run) is None


def test_short_training_has_no_cache(folder: Path) -> None:
    run, lines = solver(folder, "auto")
    run.param.max_iter = 5
    trained(run, 5)
    assert cache_of(run) is None
    assert "uses each sample once" in lines.getvalue()


def test_new_weights_do_not_use_the_old_cache(folder: Path) -> None:
    run, _ = solver(folder, "memory")
    trained(run, 8)
    weights, _ = run.snapshot()
    other, _ = solver(folder, "memory", seed=9)
    trained(other, 8)
    other.load_weights(weights)
    live, _ = solver(folder, "off", seed=9)
    live.load_weights(weights)
    live.net.nodes[0].layer.position = other.net.nodes[0].layer.position
    other.net()
    other.step(0)  # takes the new weights' outputs into the cache
    live.net.nodes[0].layer.position = other.net.nodes[0].layer.position
    torch.testing.assert_close(other.net(), live.net(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_replaced_samples_do_not_use_the_cache_of_the_old_ones(folder: Path, mode: str) -> None:
    def losses(mode: str) -> list[float]:
        (folder / "solver.prototxt").write_text(
            'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 99 random_seed: 1 '
            f'snapshot_prefix: "{(folder / "run").as_posix()}"'
        )
        (folder / "net.prototxt").write_text(
            'layer { name: "m" type: "MemoryData" top: "data" top: "label" memory_data_param { '
            f"batch_size: {BATCH} channels: 1 height: 8 width: 8 }} }}" + TRUNK + HEAD
        )
        run = Solver(read_plan(folder / "solver.prototxt"), Log(stream=None), options=Options(mode))
        layer = run.net.nodes[0].layer
        assert isinstance(layer, MemoryData)
        draw = np.random.default_rng(0)
        losses = []
        for batches in (2, 2, 3):  # as many samples as before, then more
            count = batches * BATCH
            layer.set(draw.random((count, 1, 8, 8)), draw.integers(0, 5, count))
            for _ in range(2 * batches):
                run.step(1)
                losses.append(float(run.net.blobs["loss"].detach()))
        assert (cache_of(run) is not None) == (mode != "off")
        return losses

    np.testing.assert_allclose(losses(mode), losses("off"), rtol=1e-5)  # float32, other batches


def image_solver(folder: Path, mode: str, param: str = "", layers: str = TRUNK + HEAD) -> Solver:
    """A solver on 22 images that a thread prefetches, in another order each pass."""
    draw = np.random.default_rng(0)
    lines = ""
    for index in range(SAMPLES):
        path = folder / f"{index}.png"
        if not path.exists():
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(path)
        lines += f"{path.as_posix()} {index % 5}\n"
    (folder / "list.txt").write_text(lines)
    source = f'source: "{(folder / "list.txt").as_posix()}" is_color: false'
    data = f'type: "ImageData" image_data_param {{ {source} {param} }}'
    return solver(folder, mode, layers=layers, data=data)[0]


@pytest.mark.parametrize("mode", ["auto", "disk"])
def test_samples_prefetched_in_any_order_are_cached(folder: Path, mode: str) -> None:
    param = f"batch_size: {BATCH} shuffle: true"
    live = trained(image_solver(folder, "off", param))
    run = image_solver(folder, mode, param)
    cached = trained(run)
    assert run.net.nodes[0].layer.depth > 0
    assert cache_of(run) is not None and cache_of(run).computed == 6
    for a, b in zip(live, cached, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_images_of_several_sizes_are_refused(folder: Path) -> None:
    pooled = TRUNK.replace("kernel_size: 2 stride: 2", "global_pooling: true") + HEAD
    image_solver(folder, "off")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "3.png")
    trained(image_solver(folder, "off", "batch_size: 1", pooled), 6)
    # What is cached here is the blob before the pooling, whose size is that of the image.
    learning = pooled.replace(
        'layer { name: "pool"',
        'layer { name: "scale" type: "Scale" bottom: "t1" top: "t1" } layer { name: "pool"',
    )
    with pytest.raises(DataError, match=r"'t1' is \(1, 3, 7, 6\) for samples 3 to 3.*cache off"):
        trained(image_solver(folder, "memory", "batch_size: 1", learning), 6)
