"""Weights of small magnitude that are set to zero while the student learns, and stay zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import SolverError, did_you_mean
from ...net import Param
from ...proto import caffe_pb2 as pb
from ..callback import Callback
from ..models import as_array
from ..options import Options

if TYPE_CHECKING:
    from ..solver import Solver

# The types whose first blob is pruned: it holds what inputs are multiplied by.
_TYPES = (
    "Convolution",
    "ConvolutionDepthwise",
    "Deconvolution",
    "DepthwiseConvolution",
    "Embed",
    "InnerProduct",
)
_NO_GAIN = (
    "Runtimes such as ONNX Runtime and ncnn gain nothing from scattered zeros: they store and "
    "multiply them as other numbers, so that neither size nor latency changes; only compressed "
    "files (gzip) become smaller. caffe_kd prune removes whole channels instead, which makes a net "
    "smaller and faster everywhere"
)


class Pruning(Callback):
    """Set the weights of the smallest magnitude to zero, more and more of them, and keep them so.

    After t updates the share of zeros is::

        s_t = sparsity * (1 - (1 - (t - begin_iter) / (end_iter - begin_iter))^3)

    which is taken each ``frequency`` updates from begin_iter on, and at end_iter; with ONE_SHOT it
    is ``sparsity`` from begin_iter on. A weight that has become zero stays zero: the masks are
    applied after each update, and of a gradient that is clipped only the part of the other weights
    counts. Histories of updates stay as they are: what they hold of a pruned weight has no effect.

    Args:
        setting: the PruningParameter, which ``check`` has found right.
        groups: the weights among which magnitudes are compared, by what they belong to.
        end_iter: where the schedule ends.

    Source: Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878.
    """

    name = "pruning"

    def __init__(self, setting: Any, groups: Sequence[Sequence[Param]], end_iter: int) -> None:
        self.setting = setting
        self.end_iter = end_iter
        self._groups = groups
        self._params = [param for group in groups for param in group]
        self._masks: dict[int, Tensor] = {}  # where a parameter's weights are pruned, by its index
        self._zeros = [0] * len(self._params)
        self._done = 0.0  # the share that has been pruned
        self._are_known = False  # whether the masks are those of the weights

    # ---- the loop

    def on_load(self, solver: Solver) -> None:
        """Forget which weights were zero: they are others now."""
        self._masks.clear()
        self._zeros = [0] * len(self._params)
        self._done = 0.0
        self._are_known = False

    def on_start(self, solver: Solver) -> None:
        """Prune as much as is due, all that were pruned before among them; zeros are the smallest.

        That masks are not known after a snapshot was restored happens if its ``.resume`` is absent,
        or was written before the solver had ``pruning``.
        """
        if self.setting.keep_zeros and not self._are_known:
            self._take_zeros(solver)
        self._are_known = True
        self._advance(solver, solver.iter)

    def before_update(self, solver: Solver) -> None:
        """Leave pruned weights out of the norm by which gradients are clipped."""
        if solver.param.clip_gradients >= 0:
            for index, mask in self._masks.items():
                gradient = self._params[index].blob.grad
                if gradient is not None:
                    gradient.masked_fill_(mask, 0)

    @torch.no_grad()
    def after_update(self, solver: Solver) -> None:
        """Put back the zeros, and prune more if it is time."""
        for index, mask in self._masks.items():
            self._params[index].blob.masked_fill_(mask, 0)
        self._advance(solver, solver.iter + 1)

    def on_end(self, solver: Solver) -> None:
        """Log how many weights of each layer are zero, and what that is good for."""
        solver.log.info(f"Pruning: {self._share()}")
        for index, param in enumerate(self._params):
            zeros, count = self._zeros[index], param.blob.numel()
            share = f"{zeros} of {count} weights are 0 ({zeros / count:.2%})"
            solver.log.info(f"    {param.layer.name}: {share}")
        if self._masks:
            solver.log.info(_NO_GAIN)

    # ---- the masks

    def _sparsity_at(self, updates: int) -> float:
        """Return the share of zeros after so many updates: that of the last step until then."""
        setting = self.setting
        done = min(updates, self.end_iter) - setting.begin_iter
        if done < 0:
            return 0.0
        if setting.policy == pb.PruningParameter.ONE_SHOT or updates >= self.end_iter:
            return float(setting.sparsity)
        progress = done // setting.frequency * setting.frequency
        progress /= self.end_iter - setting.begin_iter
        return float(setting.sparsity) * (1 - (1 - progress) ** 3)

    @torch.no_grad()
    def _advance(self, solver: Solver, updates: int) -> None:
        """Prune until as many weights of each group are zero as the schedule asks for."""
        share, first, is_changed = self._sparsity_at(updates), 0, False
        if share <= self._done:
            return
        self._done = share
        for group in self._groups:
            indices = range(first, first + len(group))
            first += len(group)
            total = sum(param.blob.numel() for param in group)
            count = min(round(share * total), total - 1)
            if count > sum(self._zeros[i] for i in indices):
                self._prune(indices, count)
                is_changed = True
        if is_changed:
            solver.log.info(f"Pruning, iteration {updates}: {self._share()}")
            self._warn_of_empty(solver)

    def _prune(self, indices: range, count: int) -> None:
        """Zero the ``count`` smallest weights of a group; of equal ones the first."""
        blobs = [self._params[index].blob for index in indices]
        sizes = [blob.abs() for blob in blobs]
        for index, size in zip(indices, sizes, strict=True):
            if index in self._masks:  # comes before a weight that happens to be zero
                size.masked_fill_(self._masks[index], -1)
        magnitudes = torch.cat([size.flatten() for size in sizes])
        limit = torch.kthvalue(magnitudes, count).values
        pruned = magnitudes < limit
        equal = torch.nonzero(magnitudes == limit).flatten()
        pruned[equal[: count - int(pruned.sum())]] = True
        masks = torch.split(pruned, [blob.numel() for blob in blobs])
        for index, blob, mask in zip(indices, blobs, masks, strict=True):
            self._set(index, mask.view(blob.shape))

    def _take_zeros(self, solver: Solver) -> None:
        """Keep the zeros that the weights have."""
        for index, param in enumerate(self._params):
            zeros = param.blob.detach() == 0
            if zeros.all():
                solver.log.warning(
                    f"pruning: layer '{param.layer.name}' has only zeros, which no pruning leaves; "
                    "they are not kept"
                )
            else:
                self._set(index, zeros)
        solver.log.info(f"Pruning keeps the zeros of the start: {self._share()}")

    @torch.no_grad()
    def _set(self, index: int, mask: Tensor) -> None:
        self._zeros[index] = int(mask.sum())
        if self._zeros[index]:
            self._masks[index] = mask
            self._params[index].blob.masked_fill_(mask, 0)

    def _share(self) -> str:
        zeros = sum(self._zeros)
        count = sum(param.blob.numel() for param in self._params)
        return f"sparsity {zeros / count:.4f}, {zeros} of {count} weights are 0"

    def _warn_of_empty(self, solver: Solver) -> None:
        for index, param in enumerate(self._params):
            if self._zeros[index] == param.blob.numel():
                solver.log.warning(
                    f"pruning: layer '{param.layer.name}' has no weight left. scope: LAYER prunes "
                    "the same share of each layer, and exclude leaves layers out"
                )

    # ---- snapshots

    def state(self) -> dict[str, np.ndarray]:
        """Return the masks, a bit for each weight."""
        return {
            f"{param.layer.name}/{param.index}": np.packbits(as_array(self._mask(index)))
            for index, param in enumerate(self._params)
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Take over masks; ones that do not fit raise ValueError."""
        for index, param in enumerate(self._params):
            bits = state.get(f"{param.layer.name}/{param.index}")
            if bits is not None:
                self._are_known = True
                count = param.blob.numel()
                if bits.size != -(-count // 8):
                    raise ValueError(f"{bits.size} bytes of masks for {count} weights")
                flat = np.unpackbits(bits, count=count).astype(bool)
                mask = torch.from_numpy(flat).view(param.blob.shape)
                self._set(index, mask.to(param.blob.device))

    def _mask(self, index: int) -> Tensor:
        blob = self._params[index].blob
        return self._masks.get(index, torch.zeros(blob.shape, dtype=torch.bool))


# ---- building


def _check(setting: Any, where: str) -> None:
    """Refuse a setting that cannot be meant."""
    if setting.keep_zeros and not setting.HasField("sparsity"):
        return
    policy = pb.PruningParameter.Policy.Name(setting.policy)
    if not setting.HasField("sparsity") or not 0 <= setting.sparsity < 1:
        raise _error("sparsity is the share of zeros at the end, 0 to below 1", setting, where)
    if setting.begin_iter < 0:
        raise _error("begin_iter must not be negative", setting, where)
    if policy == "ONE_SHOT":
        for field in ("end_iter", "frequency"):
            if setting.HasField(field):
                raise _error(
                    f"ONE_SHOT prunes in begin_iter alone: leave {field} out", setting, where
                )
    if setting.frequency < 1:
        raise _error("frequency must be at least 1", setting, where)
    if setting.HasField("end_iter") and setting.end_iter <= setting.begin_iter:
        raise _error("end_iter must be after begin_iter", setting, where)


def _error(what: str, setting: Any, where: str) -> SolverError:
    received = " ".join(str(setting).split())
    return SolverError(f"pruning: {what}. Received: {received or 'nothing'}", where)


def _end(setting: Any, max_iter: int) -> int:
    """Return end_iter; by default it leaves a quarter of the iterations to learn with all zeros."""
    if setting.policy == pb.PruningParameter.ONE_SHOT:
        return int(setting.begin_iter)
    if setting.HasField("end_iter"):
        return int(setting.end_iter)
    return max(setting.begin_iter + 1, round(setting.begin_iter / 4 + 0.75 * max_iter))


def _weights(solver: Solver, setting: Any, where: str) -> list[Param]:
    """Return the student's weights that may be pruned."""
    own = {layer.name for layer in solver.plan.student.layer}
    weights = {
        p.layer.name: p
        for p in solver.params
        if p.layer.type in _TYPES and p.index == 0 and p.blob.requires_grad and p.layer.name in own
    }
    for name in setting.exclude:
        if name not in weights:
            raise SolverError(
                f"pruning: exclude names '{name}', which is no layer of the student with weights "
                f"to prune.{did_you_mean(name, weights)} Such are: {', '.join(weights)}",
                where,
            )
    found = [p for name, p in weights.items() if name not in setting.exclude]
    if not found:
        raise SolverError(
            "pruning: the student has no weights that learn in layers of the types "
            f"{', '.join(_TYPES)}, beside those of exclude. Leave pruning out",
            where,
        )
    return found


def _groups(solver: Solver, weights: Sequence[Param], scope: int) -> list[list[Param]]:
    """Return the weights that are compared with each other: a student's, or each layer's own."""
    if scope == pb.PruningParameter.LAYER:
        return [[param] for param in weights]
    students = [f"{student.name}/" for student in solver.plan.students] or [""]
    groups = [[p for p in weights if p.layer.name.startswith(prefix)] for prefix in students]
    return [group for group in groups if group]


def build(solver: Solver, options: Options) -> Iterator[Callback]:
    """Yield the callback if the solver has ``pruning``.

    Raises:
        SolverError: a setting is out of range, or there is nothing to prune.
    """
    if not solver.param.HasField("pruning"):
        return
    setting, where = solver.param.pruning, solver.plan.where("pruning")
    _check(setting, where)
    groups = _groups(solver, _weights(solver, setting, where), setting.scope)
    max_iter = solver.param.max_iter
    pruning = Pruning(setting, groups, _end(setting, max_iter))
    if max_iter < pruning.end_iter:
        solver.log.warning(
            f"{where}: pruning ends in iteration {pruning.end_iter}, beyond max_iter {max_iter}: "
            f"the share of zeros stays below {setting.sparsity:g}"
        )
    yield pruning
