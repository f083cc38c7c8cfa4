"""``compute_image_mean``, run as users run it, against Caffe's mean."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe_kd.cli.compute_image_mean import main
from caffe_kd.data.backends.idx import write_idx
from caffe_kd.data.backends.lmdb import write_lmdb
from caffe_kd.data.transformer import Transformer
from caffe_kd.proto import caffe_pb2 as pb

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "data"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def mean_of(path: str) -> np.ndarray:
    blob = pb.BlobProto.FromString(Path(path).read_bytes())
    return np.array(blob.data, np.float32).reshape(blob.channels, blob.height, blob.width)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("database", "flags"),
    [
        ("raw_lmdb", []),
        ("raw_lmdb", ["-backend=lmdb"]),
        ("raw_leveldb", []),
        ("raw_leveldb", ["--backend", "leveldb"]),
    ],
)
def test_mean_is_caffes_to_the_byte(
    database: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, str(GOLDEN / database), "mean.binaryproto"]) == 0
    recorded = (GOLDEN / "mean.binaryproto").read_bytes()
    assert Path("mean.binaryproto").read_bytes() == recorded
    out = capsys.readouterr().out.splitlines()
    means = mean_of("mean.binaryproto").mean((1, 2), dtype=np.float64)
    assert "Processed 10 files." in out and "Write to mean.binaryproto" in out
    assert out[-4:] == [
        "Number of channels: 3",
        *(f"mean_value channel [{i}]: {value:g}" for i, value in enumerate(means)),
    ]


def test_without_output_file_it_only_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(GOLDEN / "gray_lmdb")]) == 0
    out = capsys.readouterr().out
    assert "Number of channels: 1" in out and "Write to" not in out
    assert not list(Path().iterdir())


def test_encoded_images_are_decoded() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)
    datums = [pb.Datum(encoded=True, data=png(image)).SerializeToString() for image in pixels]
    write_lmdb(Path("db"), ((b"%d" % i, datum) for i, datum in enumerate(datums)))
    assert main(["db", "mean"]) == 0
    wanted = pixels[..., ::-1].transpose(0, 3, 1, 2).mean(0, dtype=np.float64)
    np.testing.assert_array_equal(mean_of("mean"), wanted.astype(np.float32))


def test_idx_files_have_a_mean_that_the_transformer_takes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 3), np.uint8)
    write_idx(Path("t-images-idx3-ubyte"), images)
    write_idx(Path("t-labels-idx1-ubyte"), np.zeros(7, np.uint8))
    assert main(["-backend", "idx", "t-images-idx3-ubyte", "out/mean"]) == 0
    transformer = Transformer(pb.TransformationParameter(mean_file="out/mean"), True, Path)
    assert transformer.output_shape((1, 4, 3)) == (1, 4, 3)
    wanted = images.mean(0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(mean_of("out/mean")[0], wanted)


def test_images_of_several_sizes_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [(4, 4), (4, 5)]
    datums = [
        pb.Datum(channels=1, height=h, width=w, data=bytes(h * w)).SerializeToString()
        for h, w in sizes
    ]
    write_lmdb(Path("db"), ((b"%d" % i, datum) for i, datum in enumerate(datums)))
    error = fails(capsys, "db", "mean")
    assert "db: Incorrect data field size: sample 1 is (1, 4, 5)" in error
    assert "the first is (1, 4, 4)" in error and not Path("mean").exists()


def test_missing_database_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no LMDB at gone" in fails(capsys, "gone")


@pytest.mark.parametrize("argv", [[], ["a", "b", "c"], ["-backend", "sql", "a"]])
def test_wrong_arguments_are_reported_with_the_usage(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert "INPUT_DB [OUTPUT_FILE]" in capsys.readouterr().err


def test_tool_needs_no_torch() -> None:
    words = [str(ROOT / "tools" / "compute_image_mean.py"), str(GOLDEN / "raw_lmdb"), "mean"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True
    )
    assert "Processed 10 files." in done.stdout and " torch" not in done.stderr
