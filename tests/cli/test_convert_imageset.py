"""The command that turns images into an LMDB."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from caffe_kd.cli.convert_imageset import main
from caffe_kd.data.backends.lmdb import LmdbSamples
from caffe_kd.proto import caffe_pb2 as pb

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "data"
COLOUR = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
GREY = COLOUR[:, :, 0]


def save(name: str, pixels: np.ndarray = COLOUR) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Images of two classes, and a list of them in another order."""
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        save(f"pets/cat/{index}.png", np.roll(COLOUR, index))
    save("pets/dog/a b.png", 255 - COLOUR)
    Path("pets/dog/notes.txt").write_text("not an image")
    Path("list.txt").write_text("dog/a b.png 7\n\ncat/1.png\t-1\r\n/cat/2.png 3\n")


def stored(path: str, index: int) -> pb.Datum:
    samples = LmdbSamples(Path(path))
    return pb.Datum.FromString(samples._value(index))


def fails(capsys, *argv, status=1):
    assert main(argv) == status
    captured = capsys.readouterr()
    assert "error: " in captured.err and "Traceback" not in captured.err
    return captured.err


def test_list_gives_caffes_keys_labels_and_bgr_pixels(capsys):
    assert main(["pets/", "list.txt", "db"]) == 0
    samples = LmdbSamples(Path("db"))
    keys = [samples.key(index) for index in range(len(samples))]
    assert keys == [b"00000000_dog/a b.png", b"00000001_cat/1.png", b"00000002_/cat/2.png"]
    image, label = samples.read(0)
    np.testing.assert_array_equal(image, (255 - COLOUR)[:, :, ::-1].transpose(2, 0, 1))
    assert [label, samples.read(1)[1], samples.read(2)[1]] == [7, -1, 3]
    out = capsys.readouterr().out
    assert "A total of 3 images." in out and "Processed 3 files." in out
    assert not Path("labels.txt").exists()


def test_folders_are_classes_and_their_names_are_written(capsys):
    assert main(["pets", "made/db"]) == 0
    samples = LmdbSamples(Path("made/db"))
    names = [samples.key(index).decode()[9:] for index in range(4)]
    assert names == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/a b.png"]
    assert [samples.read(index)[1] for index in range(4)] == [0, 0, 0, 1]
    assert Path("made/labels.txt").read_text() == "cat\ndog\n"
    out = capsys.readouterr().out
    assert "Labels 0 to 1 are the lines of made/labels.txt: cat, dog" in out
    assert "class by class" in out


def test_folders_of_other_classes_are_not_mixed_with_the_first(capsys):
    assert main(["pets", "train"]) == 0
    save("others/bird/0.png")
    save("others/dog/0.png")
    error = fails(capsys, "others", "test")
    assert "labels.txt: lists other classes than the folders of others: bird, dog" in error
    assert Path("labels.txt").read_text() == "cat\ndog\n" and not Path("test").exists()


def test_shuffle_gives_the_same_order_each_time():
    for index in range(40):
        save(f"pets/dog/{index}.png")
    for name in ("one", "two"):
        assert main(["-shuffle", "pets", name]) == 0
    one, two = (LmdbSamples(Path(name)) for name in ("one", "two"))
    labels = [one.read(index)[1] for index in range(44)]
    assert sorted(labels) == [0] * 3 + [1] * 41 and labels != sorted(labels)
    assert [one.key(i) for i in range(44)] == [two.key(i) for i in range(44)]
    assert one.key(0).startswith(b"00000000_")


def test_resized_images_are_caffes_to_the_bit():
    """The recording is of Caffe's reader, from which its converter gets its pixels."""
    names = [line.rpartition(" ") for line in (GOLDEN / "list.txt").read_text().splitlines()]
    size = ["-resize_height=14", "--resize_width", "17"]
    assert main([str(GOLDEN), str(GOLDEN / "list.txt"), "db", *size]) == 0
    images, labels = LmdbSamples(Path("db")).batch(slice(None))
    recorded = np.load(GOLDEN / "image_resize.npz")
    batches = len([key for key in recorded.files if key.endswith("/data")])
    order = np.arange(4 * batches) % len(names)
    for kind, values in (
        ("data", images[order].astype(np.float32) - 100),
        ("label", labels[order]),
    ):
        wanted = np.concatenate([recorded[f"batch{i}/{kind}"] for i in range(batches)])
        np.testing.assert_array_equal(values, wanted)


def test_gray_gives_one_channel():
    save("grey/a/0.png", GREY)
    assert main(["grey", "db", "--gray=true"]) == 0
    np.testing.assert_array_equal(LmdbSamples(Path("db")).read(0)[0], GREY[None])


def test_switch_turned_off_is_off():
    assert main(["pets", "db", "--gray=false", "--shuffle=0"]) == 0
    assert LmdbSamples(Path("db")).read(0)[0].shape == (3, 9, 7)


def test_encoded_keeps_the_files_bytes():
    assert main(["pets", "list.txt", "db", "-encoded"]) == 0
    datum = stored("db", 0)
    assert datum.encoded and datum.data == Path("pets/dog/a b.png").read_bytes()
    assert datum.label == 7 and not datum.channels


@pytest.mark.parametrize(
    ("flags", "kind", "mode", "size"),
    [
        (["-encode_type", "jpg"], "JPEG", "RGB", (7, 9)),
        (["-resize_height", "5", "-resize_width", "4"], "PNG", "RGB", (4, 5)),
        (["-gray", "-encode_type", "jpg"], "JPEG", "L", (7, 9)),
        (["-encode_type", "bmp"], "BMP", "RGB", (7, 9)),
    ],
)
def test_encoded_encodes_what_changes(flags, kind, mode, size):
    assert main(["pets", "list.txt", "db", "-encoded", *flags]) == 0
    image = Image.open(io.BytesIO(stored("db", 0).data))
    assert (image.format, image.mode, image.size) == (kind, mode, size)


@pytest.mark.parametrize("suffix", ["bmp", "png", "JPEG", "tif", "webp"])
def test_encoded_keeps_files_of_any_format_which_the_data_layer_reads(suffix):
    save(f"one/a/0.{suffix}")
    assert main(["one", "db", "-encoded"]) == 0
    assert stored("db", 0).data == Path(f"one/a/0.{suffix}").read_bytes()
    assert LmdbSamples(Path("db")).read(0)[0].shape == (3, 9, 7)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG"])
def test_encoded_grey_keeps_the_file_where_the_suffix_fits(capsys, suffix):
    """As ReadImageToDatum does, whose files stay in colour."""
    save(f"one/a/0.{suffix}")
    assert main(["one", "db", "-encode_type=jpg", "-gray"]) == 0
    assert stored("db", 0).data == Path(f"one/a/0.{suffix}").read_bytes()
    out = capsys.readouterr().out
    assert "encode_type specified, assuming encoded=true." in out
    assert "note: 1 files are stored as they are, in colour" in out and "force_gray" in out


def test_encoded_grey_of_grey_files_says_nothing(capsys):
    save("one/a/0.jpg", GREY)
    assert main(["one", "db", "-encoded", "-gray"]) == 0
    assert stored("db", 0).data == Path("one/a/0.jpg").read_bytes()
    assert "in colour" not in capsys.readouterr().out


def test_encoded_grey_of_a_png_with_a_damaged_remark_goes_on():
    save("one/a/0.png")
    content = Path("one/a/0.png").read_bytes()
    remark = b"\0\0\0\3tEXta\0bWRNG"
    Path("one/a/0.png").write_bytes(content[:33] + remark + content[33:])
    assert main(["one", "db", "-encoded", "-gray"]) == 0
    assert remark in stored("db", 0).data


def test_encoded_jpg_as_jpeg_is_encoded_by_opencv():
    save("one/a/0.jpg")
    assert main(["one", "db", "-encoded", "-encode_type=jpeg"]) == 0
    pixels = cv2.imread("one/a/0.jpg")
    assert stored("db", 0).data == cv2.imencode(".jpeg", pixels)[1].tobytes()


def test_unreadable_images_are_reported_and_left_out(capsys):
    Path("pets/cat/0.png").write_bytes(b"nonsense")
    Path("pets/cat/1.png").write_bytes(Path("pets/cat/1.png").read_bytes()[:150])
    assert main(["pets", "db"]) == 0
    captured = capsys.readouterr()
    assert "error: pets/cat/0.png: Could not open or find file" in captured.err
    assert "error: pets/cat/1.png: Could not open or find file" in captured.err
    assert "Processed 2 files. Left out: 2." in captured.out
    assert LmdbSamples(Path("db")).key(0) == b"00000002_cat/2.png"


def test_check_size_refuses_images_of_another_size(capsys):
    save("pets/dog/a b.png", COLOUR[:8])
    error = fails(capsys, "pets", "db", "-check_size")
    assert "pets/dog/a b.png: Incorrect data field size" in error
    assert "(3, 8, 7)" in error and "(3, 9, 7)" in error
    assert not Path("db").exists()


@pytest.mark.parametrize("line", ["cat/1.png", "cat/1.png one", "7", "cat/1.png 99999999999"])
def test_list_line_without_label_names_its_place(capsys, line):
    Path("list.txt").write_text(f"cat/0.png 1\n{line}\n")
    assert 'list.txt:2: a line is "path label"' in fails(capsys, "pets", "list.txt", "db")


def test_missing_and_empty_input_is_named(capsys):
    assert "gone: no such folder" in fails(capsys, "gone", "db")
    assert "gone.txt: no such file" in fails(capsys, "pets", "gone.txt", "db")
    assert "pets/cat: without LISTFILE it needs a folder per class" in fails(
        capsys, "pets/cat", "db"
    )
    Path("pets/eel").mkdir()
    assert "pets/eel: no images" in fails(capsys, "pets", "db")
    Path("none.txt").write_text("\n")
    assert "none.txt: the list has no lines" in fails(capsys, "pets", "none.txt", "db")
    Path("all_gone.txt").write_text("x.png 1\n")
    assert "db: no samples to write" in fails(capsys, "pets", "all_gone.txt", "db")


def test_existing_database_is_kept(capsys):
    assert main(["pets", "db"]) == 0
    assert "db: exists already" in fails(capsys, "pets", "list.txt", "db")
    assert len(LmdbSamples(Path("db"))) == 4


@pytest.mark.parametrize(
    "flags",
    [["-resize_width=5"], ["-resize_width=-1", "-resize_height=-1"],
     ["-resize_width=100000", "-resize_height=100000"]],
)  # fmt: skip
def test_resizing_to_no_or_absurd_sizes_is_wrong_usage(capsys, flags):
    assert "-resize_width and -resize_height go together" in fails(
        capsys, "pets", "db", *flags, status=2
    )


def test_leveldb_is_refused_with_the_reason(capsys):
    error = fails(capsys, "pets", "db", "-backend", "leveldb", status=2)
    assert "a LevelDB can be read, not written" in error and not Path("db").exists()


@pytest.mark.parametrize("argv", [[], ["pets"], ["a", "b", "c", "d"], ["-grey", "pets", "db"]])
def test_wrong_arguments_are_reported_with_the_usage(argv, capsys):
    assert main(argv) == 2
    assert "ROOTFOLDER [LISTFILE] DB_NAME" in capsys.readouterr().err


def test_tool_needs_no_torch():
    words = [ROOT / "tools" / "convert_imageset.py", "pets", "list.txt", "db"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True
    )
    assert "Processed 3 files." in done.stdout and " torch" not in done.stderr
