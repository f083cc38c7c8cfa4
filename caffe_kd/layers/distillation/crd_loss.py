"""CRDLoss: a student's embedding of a sample is matched with its teacher's, among others."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...losses.contrastive_representation import contrastive_representation, log_mean_score
from ...losses.features import unit
from ..base import Shape, register
from .embedding_memory import Bank, Memory, Queue
from .pair_loss import PairLoss


@register("CRDLoss", param="crd_loss_param", bottoms=(2, 4), origin="caffe_kd")
class CRDLoss(PairLoss):
    """Penalise embeddings that do not match the two nets' outputs for the same sample.

    Contrastive representation distillation. Embeddings are scaled to length 1. Each sample has M
    negatives, embeddings of other samples. With ``g(a, b) = exp(a.b / temperature) / c`` and
    ``h = g / (g + M)``::

        side(a, b, others) = mean over samples of (-log h(a, b) - sum over others of log(1 - h))
        loss = side(e_s, e_t, the teacher's others) + side(e_t, e_s, the student's others)

    c is a constant for each side: the mean of ``exp(a.b / temperature)`` over the first batch that
    has negatives. The negatives come from one of two memories:

    * a queue: the last ``negatives`` samples before this batch, the same for the whole batch;
    * with ``records``, the number of samples, the paper's bank: for each sample of the batch
      ``negatives`` are drawn at random, with replacement, from all samples seen before. The bank
      has a row for each sample and each net, ``n(momentum * row + (1 - momentum) * new)``, where
      n scales to length 1. The last bottom then has the samples' numbers: a data layer's third
      top.

    With a label as third bottom, samples of the same class are not negatives of each other, and in
    the bank a sample is not its own negative; these do not count in M. A sample without negatives
    gives 0, as does the first batch. Usual loss_weight: 0.8.

    Bottoms: the student's embedding (N, K), the teacher's, of the same shape: each usually an
    InnerProduct of 128 outputs in the distiller; optionally labels (N); with ``records`` the
    samples' numbers (N), whole, from 0 and below ``records``. Unlike with other losses the
    teacher's bottom gets a gradient, since its embedding learns too (the teacher itself is frozen).
    Top: the loss, a scalar in nats, 0 or more; 0 for the first batch, and above 0 afterwards even
    if student and teacher are equal.

    The memory is saved with the solver's state, not with the weights. A test net has its own
    memory of test samples.

    Raises:
        NetError: the bottoms differ in samples or values per sample, there is not one label or
            number a sample, a number is not below ``records``, negatives is 0, the temperature is
            not above 0, or momentum not in 0..1.

    Source: Tian, Krishnan, Isola 2020, Contrastive Representation Distillation,
        https://arxiv.org/abs/1910.10699. The bank of the authors' code differs: its rows start
        with random values, which may be drawn, and the positive is the sample's row; here only
        samples seen before are drawn, and the positive is the other net's current embedding, as
        in the paper, so that even a single pass trains. It draws until all negatives are of other
        classes. The queue needs neither sample numbers nor memory for all samples.

    Sample::

        layer {
          name: "crd" type: "CRDLoss"
          bottom: "student/embedding"  # (4, 16)
          bottom: "teacher/embedding"  # (4, 16)
          top: "crd"  # scalar
          loss_weight: 0.8
          crd_loss_param { negatives: 1024 }
        }
    """

    constant_bottoms = (2, 3)
    _memory: Memory
    _log_means: Tensor | None  # log c of each side, once there are negatives

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        student, _, *others = bottom_shapes
        records, negatives = self.param.records, self.param.negatives
        own = 1 if records else 0
        if not own <= len(others) <= own + 1:
            self.fail(
                "takes student, teacher, optionally label, and with records the samples' numbers, "
                "a data layer's third top, last",
                bottoms=len(bottom_shapes),
                records=records,
            )
        names = ["label"] * (len(others) - own) + ["number"] * own
        for what, shape in zip(names, others, strict=True):
            if math.prod(shape) != student[0]:
                self.fail(
                    f"there must be one {what} for each sample", student=student, **{what: shape}
                )
        width = math.prod(student[1:])
        if records:
            self.check_shape((records, width), "the bank of embeddings")
            self.check_shape((student[0], negatives), "the draw of negatives")
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
            self._memory = Bank(records, width, negatives, self.param.momentum, generator)
        else:
            self.check_shape((negatives, width), "the memory of negatives")
            self._memory = Queue(negatives, width)
        self._log_means = None

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_values(student, teacher)
        if self.param.negatives < 1:
            self.fail("negatives must be at least 1", negatives=self.param.negatives)
        if not 0 < self.param.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=self.param.temperature)
        if not 0 <= self.param.momentum <= 1:
            self.fail("momentum must be in 0..1", momentum=self.param.momentum)
        if self.param.HasField("momentum") and not self.param.records:
            self.fail("momentum is for the bank, which needs records, the number of samples")

    def forward(self, student: Tensor, teacher: Tensor, *others: Tensor) -> Tensor:
        s, t = unit(student.flatten(1)), unit(teacher.flatten(1))
        numbers: list[int] = []
        if self.param.records:
            *others, index = others  # type: ignore[assignment]
            numbers = self._numbers(index)
        label = others[0].detach().reshape(-1).to(s.dtype) if others else None
        self._memory.move(s)
        loss = self._loss(s, t, label, numbers)
        if label is None:
            label = s.new_zeros(len(s))
        self._memory.add([s.detach(), t.detach()], label, numbers)
        return loss

    def _numbers(self, index: Tensor) -> list[int]:
        given = index.detach().reshape(-1).tolist()
        for number in given:
            if not (0 <= number < self.param.records and number == int(number)):
                self.fail(
                    "samples are numbered from 0, and records is their number",
                    number=number,
                    records=self.param.records,
                )
        return [int(number) for number in given]

    def _loss(self, s: Tensor, t: Tensor, label: Tensor | None, numbers: list[int]) -> Tensor:
        if not len(self._memory):
            return 0 * (s * t).sum()
        of_student, of_teacher = self._memory.embeddings
        drawn, counted = self._memory.negatives(label, numbers)
        sides = [(s, t, of_teacher), (t, s, of_student)]
        temperature = self.param.temperature
        if self._log_means is None:
            with torch.no_grad():
                self._log_means = torch.stack(
                    [log_mean_score(*side, temperature, drawn) for side in sides]
                )
        losses = [
            contrastive_representation(
                *side, mean, temperature=temperature, drawn=drawn, counted=counted
            )
            for side, mean in zip(sides, self._log_means.to(s), strict=True)
        ]
        return losses[0] + losses[1]

    # ---- the state

    def reset(self) -> None:
        self._memory.clear()
        self._log_means = None

    def state(self) -> dict[str, np.ndarray]:
        means = torch.zeros(0) if self._log_means is None else self._log_means
        return {**self._memory.state(), "log_means": means.cpu().numpy().copy()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        try:
            self._memory.restore(state, self.context.device)
        except ValueError as error:
            raise ValueError(f"layer '{self.name}': {error}") from None
        means = torch.from_numpy(state["log_means"].copy()).to(self.context.device)
        self._log_means = means if len(means) else None
