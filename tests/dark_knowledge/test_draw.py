from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from caffe_kd.core.errors import CaffeKDError
from caffe_kd.dark_knowledge.draw import draw
from caffe_kd.dark_knowledge.look import Knowledge
from caffe_kd.figures.samples import OTHER, TRUE, WRONG, Sample, percent, softened_outputs


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    """What matplotlib warns of would stand on the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def knowledge(
    classes: int, disputed: int = 0, student: bool = True, colour: bool = False
) -> Knowledge:
    draw_numbers = torch.Generator().manual_seed(0)
    shape = (9, 9, 3) if colour else (9, 9)

    def sample(label: int) -> Sample:
        teacher = torch.randn(classes, generator=draw_numbers)
        teacher[label] += 4
        own = torch.randn(classes, generator=draw_numbers) if student else None
        return Sample(np.full(shape, 0.5), label, teacher, own)

    found = Knowledge(classes, 4.0, 100, [90, 80], disputed)
    found.samples = [sample(label) for label in range(classes)]
    found.similarity = np.full((classes, classes), 1 / classes)
    found.disputed = [sample(i % classes) for i in range(disputed)]
    return found


def pixels(path: Path) -> np.ndarray:
    image: np.ndarray = matplotlib.image.imread(path)[:, :, :3]
    return image


def count(image: np.ndarray, colour: str) -> int:
    return int((np.abs(image - np.array(to_rgb(colour))) < 0.02).all(axis=2).sum())


def test_title_and_legend_fit_above_one_column() -> None:
    names = [str(c) for c in range(10)]
    figure = softened_outputs(knowledge(10).samples, names, [4.0])
    figure.canvas.draw()
    title = figure.texts[0].get_window_extent()
    (legend,) = figure.legends
    assert max(title.x1, legend.get_window_extent().x1) <= figure.bbox.x1


def test_samples_have_bars_of_both_colours(tmp_path: Path) -> None:
    names = [str(c) for c in range(10)]
    paths = draw(knowledge(10, disputed=7), names, [1, 4, 20], tmp_path / "new" / "folder")
    assert [p.name for p in paths] == ["samples.png", "similarity.png", "disagreements.png"]
    samples = pixels(paths[0])
    assert count(samples, TRUE) > 5000 and count(samples, OTHER) > 5000
    first, last = samples[:, 150:450], samples[:, -330:]
    # The hotter, the more the other classes have beside the true one.
    share = [count(part, OTHER) / count(part, TRUE) for part in (first, last)]
    assert share[1] > 2 * share[0]
    assert count(pixels(paths[2]), WRONG) > 100


def test_without_a_student_there_is_nothing_to_differ(tmp_path: Path) -> None:
    paths = draw(knowledge(3, student=False), list("abc"), [1], tmp_path)
    assert [path.name for path in paths] == ["samples.png", "similarity.png"]


@pytest.mark.parametrize("classes", [2, 12, 60])
@pytest.mark.parametrize("long", [False, True])
def test_any_number_of_classes_and_names_fits(tmp_path: Path, classes: int, long: bool) -> None:
    names = [f"{c}, a $name_of_{c}\\alpha {'x' * 40}" if long else str(c) for c in range(classes)]
    found = knowledge(classes, disputed=24, colour=True)
    found.similarity[1] = np.nan  # a class without a sample
    for path in draw(found, names, [1, 4], tmp_path):
        image = pixels(path)
        edge = np.concatenate([image[:, :2].reshape(-1, 3), image[:, -2:].reshape(-1, 3)])
        assert (edge == 1).all(), f"{path.name} is cut off at its sides"
        bottom = image[-2:].reshape(-1, 3)
        assert (bottom == 1).all(), f"{path.name} is cut off below"


def test_percent_has_two_digits_however_small() -> None:
    values = [1, 0.876, 0.05, 0.0123, 0.00456, 1e-9]
    shown = [percent(value) for value in values]
    assert shown == ["100%", "88%", "5.0%", "1.2%", "0.46%", "<0.001%"]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaffeKDError, match="file"):
        draw(knowledge(3), list("abc"), [1], tmp_path / "file")
