"""A generator that makes images from random numbers, trained against a teacher alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .noise import Report
from .teacher import PixelTeacher

NOISE = 100  # random numbers for an image
_SMALLEST = 8  # the first plane's sides are at most this


@dataclass(frozen=True)
class GeneratorSettings:
    """How the generator is trained.

    Attributes:
        iterations: Adam's.
        rate: its learning rate.
        batch: images in an iteration.
        channels: of the generator's hidden layers.
        activation: weight of the mean activation of the teacher's features.
        balance: weight of the balance of the classes.
        one_hot: weight of the cross entropy to the teacher's own class.
    """

    iterations: int = 1000
    rate: float = 1e-3
    batch: int = 128
    channels: int = 32
    activation: float = 0.1
    balance: float = 5.0
    one_hot: float = 1.0


class Generator(nn.Module):
    """Maps normal random numbers [N, 100] to images [N, C, H, W], 0 to 1.

    A linear layer to a small plane, then nearest-neighbour upsampling by 2 and 3 x 3 convolutions
    with BatchNorm and leaky ReLU until the image's size is reached, and a sigmoid.

    Source: the generator of Chen et al., DAFL, arXiv 1904.01186, which ends in tanh and BatchNorm;
        here in pixels.
    """

    def __init__(self, shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        planes, height, width = shape
        doublings = 0
        while max(height, width) > _SMALLEST << doublings:
            doublings += 1
        self._size = height, width
        self._start = channels, -(-height >> doublings) or 1, -(-width >> doublings) or 1
        first = self._start[0] * self._start[1] * self._start[2]
        self.linear = nn.Linear(NOISE, first)
        blocks: list[nn.Module] = [nn.BatchNorm2d(channels)]
        for _ in range(doublings):
            blocks += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.2),
            ]
        blocks += [nn.Conv2d(channels, planes, 3, padding=1), nn.Sigmoid()]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.blocks(self.linear(z).view(len(z), *self._start))
        height, width = self._size
        return images[:, :, :height, :width]


def objective(logits: Tensor, features: Tensor, settings: GeneratorSettings) -> Tensor:
    """Return DAFL's loss of a generator: scalar.

        CE(z, argmax z) + balance * sum pbar * log10(pbar) - activation * mean |f|

    with pbar the mean of softmax(z) over the batch.

    Args:
        logits: the teacher's z [N, K].
        features: the teacher's f [N, F], from which it computes its logits.
        settings: the weights.

    Source: Chen et al., arXiv 1904.01186, equations 3 to 6; the base of the logarithm is that of
        the authors' code.
    """
    one_hot = F.cross_entropy(logits, logits.argmax(1))
    share = logits.softmax(1).mean(0)
    balance = torch.special.xlogy(share, share).sum() / torch.log(share.new_tensor(10.0))
    activation = -features.abs().mean()
    return (
        settings.one_hot * one_hot + settings.balance * balance + settings.activation * activation
    )


def synthesize(
    teacher: PixelTeacher,
    count: int,
    settings: GeneratorSettings,
    generator: torch.Generator,
    report: Report,
) -> Iterator[Tensor]:
    """Yield batches of pixels [N, C, H, W], 0 to 255, while the generator is trained.

    They are taken from the second half of its training, at equal intervals: it shows each class
    differently as it goes on.

    Args:
        teacher: the classifier.
        count: how many images in all.
        settings: how the generator is trained.
        generator: the random numbers.
        report: is called after each iteration.
    """
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        maker = Generator(teacher.shape, settings.channels)
    maker.to(teacher.device)
    adam = torch.optim.Adam(maker.parameters(), settings.rate)
    first = settings.iterations // 2
    made = 0
    for iteration in range(settings.iterations):
        x = maker(_noise(settings.batch, generator, teacher.device))
        logits = teacher(255 * x)
        loss = objective(logits, teacher.features(), settings)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        report(iteration + 1, settings.iterations, float(loss.detach()), settings.rate)
        due = (iteration + 1 - first) * count // (settings.iterations - first)
        while made < due:
            number = min(settings.batch, due - made)
            with torch.no_grad():  # in training mode, with the statistics of the batch
                images = maker(_noise(settings.batch, generator, teacher.device))[:number]
            made += number
            yield 255 * images


def _noise(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.randn((count, NOISE), generator=generator).to(device)
