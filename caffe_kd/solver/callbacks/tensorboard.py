"""Writes what a training displays and tests as points for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import CaffeKDError
from ...figures.samples import Sample, as_stored, is_image, pixels, softened_outputs
from ...layers.base import tops_of
from ...layers.shared.scheduled import current
from ...net import LayerNode, Net
from ..callback import Callback
from ..options import Options
from ..test_outputs import EvaluatedLogits, logits_on_tests
from .gradient_shares import GradientShares, has_loss_weight, weighted_terms

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ..solver import Solver

_MOST_VALUES = 100  # of an output; one with more, such as all samples' scores, is not written
_SAMPLES = 6  # drawn at each test


class TensorBoard(Callback):
    """Writes scalars, and on request histograms, into an event file.

    In the iterations that are displayed: ``loss`` and ``learning_rate`` as logged, the outputs as
    ``train/<output>`` and the objective's terms, with their weights, as ``terms/<term>``. Whenever
    gradient shares are measured: ``gradient_shares/<term>``. After a test: ``test/<output>``, or
    ``test_<i>/<output>`` if there are several test nets. After a test, or in displayed iterations
    if there are none: the histograms ``weights/<layer>/<index>``. After a test, if a DistillingLoss
    compares classifiers of images: ``samples/<teacher>``, the first test images with the softened
    outputs of teacher and student.

    A resumed run hides the points that an earlier one wrote after its snapshot, so that each
    iteration has one; a new run in the same folder hides all earlier points.

    Args:
        net: the train net, whose losses get a hook.
        folder: where to write the event file.
        weights: the parameters to write histograms of, by name.
    """

    def __init__(self, net: Net, folder: Path, weights: Mapping[str, Tensor]) -> None:
        self._folder = folder
        self._weights = weights
        self._shares: GradientShares | None = None
        # A loss, and the teacher and student that it compares.
        self._drawn: tuple[LayerNode, EvaluatedLogits] | None = None
        self._writer: SummaryWriter | None = None
        self._showing = False
        self._terms: dict[str, Tensor] = {}  # of the last pass
        for node in net.nodes:
            if has_loss_weight(node):
                node.layer.register_forward_hook(self._after_layer(node))

    def on_start(self, solver: Solver) -> None:
        """Open the event file, which begins at this iteration."""
        from torch.utils.tensorboard import SummaryWriter

        self._shares = next((c for c in solver.callbacks if isinstance(c, GradientShares)), None)
        self._drawn = _comparison(solver)
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=solver.iter)
        except OSError as error:
            raise CaffeKDError(
                f"-tensorboard: no event file can be written there: {error.strerror}",
                str(self._folder),
            ) from error

    def before_forward(self, solver: Solver) -> None:
        """Collect the terms of iterations that are displayed."""
        self._showing = solver.displays

    def _after_layer(self, node: LayerNode) -> Callable[[Any, tuple[Tensor, ...], Any], None]:
        def hook(layer: Any, bottoms: tuple[Tensor, ...], result: Any) -> None:
            if self._showing and torch.is_grad_enabled():
                with torch.no_grad():
                    self._terms |= weighted_terms(node, bottoms, tops_of(result))

        return hook

    def before_update(self, solver: Solver) -> None:
        """Write what has been displayed and measured."""
        scalars: dict[str, float] = {}
        if self._showing:
            self._showing = False
            scalars = {"loss": solver.smoothed_loss, "learning_rate": solver.net.context.rate}
            blobs = solver.net.blobs
            values = {name: blobs[name].detach().flatten() for name in solver.net.outputs}
            scalars |= _scalars("train", {name: value.tolist() for name, value in values.items()})
            scalars |= {f"terms/{name}": float(term) for name, term in self._terms.items()}
            self._terms.clear()
        if self._shares is not None and self._shares.iteration == solver.iter:
            shares = self._shares.shares
            scalars |= {f"gradient_shares/{name}": share for name, share in shares.items()}
        if scalars:
            self._write(solver, scalars, with_weights=solver.displays and not solver.test_nets)

    def on_test(self, solver: Solver, results: Sequence[dict[str, list[float]]]) -> None:
        """Write the test nets' outputs."""
        scalars: dict[str, float] = {}
        for index, values in enumerate(results):
            scalars |= _scalars("test" if len(results) == 1 else f"test_{index}", values)
        images = {} if self._drawn is None else _draw(*self._drawn)
        self._write(solver, scalars, with_weights=True, images=images)

    def _write(
        self,
        solver: Solver,
        scalars: Mapping[str, float],
        with_weights: bool,
        images: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> None:
        """Write points of this iteration; a run whose disk is full goes on without."""
        writer = self._writer
        if writer is None:
            return
        try:
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, solver.iter)
            for name, blob in self._weights.items() if with_weights else ():
                if bool(blob.isfinite().all()):
                    writer.add_histogram(f"weights/{name}", blob.detach(), solver.iter)
            for tag, image in images.items():
                writer.add_image(tag, image, solver.iter, dataformats="HWC")
            # At once, so that what led to an interruption can be seen, however it came.
            writer.flush()
        except OSError as error:
            self._writer = None
            solver.log.error(
                f"{self._folder}: no more points for TensorBoard from iteration {solver.iter} on: "
                f"{error.strerror}"
            )


def _scalars(group: str, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the values of outputs by tag: the output's name, with a number if it has several."""
    return {
        f"{group}/{name}" + (f"/{index}" if len(several) > 1 else ""): value
        for name, several in values.items()
        if len(several) <= _MOST_VALUES
        for index, value in enumerate(several)
    }


def _comparison(solver: Solver) -> tuple[LayerNode, EvaluatedLogits] | None:
    """Return a loss that compares teacher and student, and what computes both on test images."""
    teachers = [teacher.name for teacher in solver.plan.teachers]
    # debug_info would log these passes as if they were the training's.
    if not teachers or not solver.test_nets or solver.param.debug_info:
        return None
    for node in solver.net.nodes:
        if node.layer.type == "DistillingLoss" and "/" in node.bottoms[1]:
            name = node.bottoms[1].partition("/")[0]
            logits = logits_on_tests(solver, [name]) if name in teachers else None
            if logits is None or logits.samples < logits.batch:
                continue
            if is_image(logits.source.top_shapes[0]):
                return node, logits
    return None


def _draw(loss: LayerNode, compared: EvaluatedLogits) -> dict[str, np.ndarray]:
    """Return the figure of the first test samples by tag, as pixels (H, W, 3)."""
    labels, logits, images = compared.batch_from(0)
    if not 0 <= int(labels.min()) <= int(labels.max()) < compared.classes:
        return {}
    student = logits.pop("student").cpu()
    ((_, teacher),) = logits.items()
    samples = [
        Sample(as_stored(images[i], compared.source.layer), int(labels[i]), t, s)
        for i, (t, s) in enumerate(zip(teacher.cpu()[:_SAMPLES], student, strict=False))
    ]
    names = [str(number) for number in range(compared.classes)]
    figure = softened_outputs(samples, names, [current(loss.layer, "temperature")])
    return {f"samples/{loss.bottoms[1].partition('/')[0]}": pixels(figure)}


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the options name a folder for TensorBoard."""
    if options.tensorboard is None:
        return
    weights = {}
    if options.tensorboard_histograms:
        weights = {f"{p.layer.name}/{p.index}": p.blob for p in solver.params}
    yield TensorBoard(solver.net, options.tensorboard, weights)
