"""Images that begin as noise and are optimised until a teacher sees a class in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .teacher import PixelTeacher

Report = Callable[[int, int, float, float], None]  # iteration, of how many, loss, learning rate


@dataclass(frozen=True)
class NoiseSettings:
    """How noise becomes images.

    Attributes:
        iterations: Adam's, for each batch.
        rate: its learning rate, relative to the range of a pixel.
        batch: how many images are made together; their statistics are compared.
        total_variation: weight of the mean difference between neighbouring pixels.
        l2: weight of the mean square of the pixels, black being 0 and white 1.
        statistics: weight of the distance to the statistics of the BatchNorm layers.
    """

    iterations: int = 100
    rate: float = 0.05
    batch: int = 256
    total_variation: float = 2.0
    l2: float = 1.0
    statistics: float = 0.1


def total_variation(x: Tensor) -> Tensor:
    """Return the mean of ``|x[i+1] - x[i]|`` across plus that down, of images [N, C, H, W]."""
    down = (x[:, :, 1:] - x[:, :, :-1]).abs()
    across = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs()
    return sum((d.mean() for d in (down, across) if d.numel()), x.new_zeros(()))


def objective(teacher: PixelTeacher, x: Tensor, targets: Tensor, settings: NoiseSettings) -> Tensor:
    """Return the loss to minimise: scalar.

        CE(teacher(x), target) + tv * TV(x) + l2 * mean x^2 + statistics * BatchNorm distance

    Args:
        teacher: the classifier.
        x: images [N, C, H, W], 0 to 1.
        targets: classes [N].
        settings: the weights.

    Source: Yin et al., Dreaming to Distill, arXiv 1912.08795, equations 2 to 4, with means in place
        of sums for TV and l2.
    """
    loss = F.cross_entropy(teacher(255 * x), targets)
    loss = loss + settings.total_variation * total_variation(x)
    loss = loss + settings.l2 * x.square().mean()
    if teacher.has_statistics and settings.statistics:
        loss = loss + settings.statistics * teacher.statistics_distance()
    return loss


def synthesize(
    teacher: PixelTeacher,
    count: int,
    settings: NoiseSettings,
    generator: torch.Generator,
    report: Report,
) -> Iterator[Tensor]:
    """Yield batches of pixels [N, C, H, W], 0 to 255, with equally many images of each class.

    Args:
        teacher: the classifier.
        count: how many images in all.
        settings: how they are made.
        generator: the random numbers.
        report: is called after each iteration.
    """
    targets = torch.randperm(count, generator=generator) % teacher.classes
    total = -(-count // settings.batch) * settings.iterations
    for first in range(0, count, settings.batch):
        wanted = targets[first : first + settings.batch].to(teacher.device)
        x = torch.rand((len(wanted), *teacher.shape), generator=generator).to(teacher.device)
        x.requires_grad_(True)
        adam = torch.optim.Adam([x], settings.rate)
        for iteration in range(settings.iterations):
            adam.zero_grad()
            loss = objective(teacher, x, wanted, settings)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                x.clamp_(0, 1)
            done = first // settings.batch * settings.iterations + iteration + 1
            report(done, total, float(loss.detach()), settings.rate)
        yield 255 * x.detach()
