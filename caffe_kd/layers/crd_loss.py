"""CRDLoss: a student's answer to a record is told from its teacher's answers to others."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..losses.contrastive_representation import contrastive_representation, log_mean_score
from ..losses.features import unit
from .base import Shape, register
from .pair_loss import PairLoss

_SIDES = ("student", "teacher")


@register("CRDLoss", param="crd_loss_param", bottoms=(2, 3), origin="caffe_kd")
class CRDLoss(PairLoss):
    """Punish embeddings by which a record's answers of both nets are not known to belong together.

    Contrastive representation distillation. Embeddings are brought to length 1. The negatives are
    the embeddings of the last ``negatives`` records before this batch, M of them. With
    ``g(a, b) = exp(a.b / temperature) / c`` and ``h = g / (g + M)``::

        side(a, b, others) = mean over records of (-log h(a, b) - sum over others of log(1 - h))
        loss = side(e_s, e_t, the teacher's before) + side(e_t, e_s, the student's before)

    c is a constant of each side: the mean of ``exp(a.b / temperature)`` over the first batch that
    has negatives. With a label as third bottom, records of the same class are no negatives of each
    other; a record without negatives gives 0, as does the first batch. Usual loss_weight: 0.8.

    Bottoms: the student's embedding (N, K), the teacher's, of the same shape: each as a rule an
    InnerProduct of 128 outputs in the distiller; optionally labels (N). Unlike with other losses
    the teacher's bottom gets a gradient, since its embedding learns too (the teacher itself is
    frozen). Top: the loss, a scalar in nats, 0 or more; but for the first batch it does not become
    0, where student and teacher are equal neither.

    What it remembers goes into the state beside a snapshot, not into the weights. A test net has
    its own, of the test records.

    Raises:
        NetError: the bottoms differ in records or values per record, there is not one label a
            record, negatives is 0, or the temperature is not above 0.

    Source: Tian, Krishnan, Isola 2020, Contrastive Representation Distillation,
        https://arxiv.org/abs/1910.10699. The authors' code keeps an embedding of each training
        record, a mean with momentum 0.5, and draws 16384 of them for each record at random. The
        last ones need no numbers of records and no memory for all of them, are fresh, and are the
        same for a whole batch; the positive is the other net's present embedding, as in the paper.
    """

    constant_bottoms = (2,)
    _banks: list[Tensor]  # what is remembered of the student and of the teacher, newest last
    _classes: Tensor
    _log_means: Tensor | None  # log c of each side, once there are negatives

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        student, _, *label = bottom_shapes
        if label and math.prod(label[0]) != student[0]:
            self.fail("there must be one label for each record", student=student, label=label[0])
        self.width = math.prod(student[1:])
        self.check_shape((self.param.negatives, self.width), "the memory of negatives")
        self.reset()

    def check(self, student: Shape, teacher: Shape) -> None:
        self.check_values(student, teacher)
        if self.param.negatives < 1:
            self.fail("negatives must be at least 1", negatives=self.param.negatives)
        if not 0 < self.param.temperature < math.inf:
            self.fail("temperature must be above 0", temperature=self.param.temperature)

    def forward(self, student: Tensor, teacher: Tensor, label: Tensor | None = None) -> Tensor:  # type: ignore[override]
        embeddings = [unit(student.flatten(1)), unit(teacher.flatten(1))]
        remembered = [bank.to(student) for bank in self._banks]
        classes = self._classes.to(student)
        counted = None
        if label is None:
            label = student.new_zeros(len(student))
        else:
            label = label.detach().reshape(-1).to(student.dtype)
            counted = label.unsqueeze(1) != classes
        loss = self._sides(embeddings, remembered, counted)
        most = self.param.negatives
        self._banks = [
            torch.cat([old, new.detach()])[-most:]
            for new, old in zip(embeddings, remembered, strict=True)
        ]
        self._classes = torch.cat([classes, label])[-most:]
        return loss

    def _sides(
        self, embeddings: list[Tensor], remembered: list[Tensor], counted: Tensor | None
    ) -> Tensor:
        if not len(remembered[0]):
            return 0 * (embeddings[0] * embeddings[1]).sum()
        s, t = embeddings
        sides = [(s, t, remembered[1]), (t, s, remembered[0])]
        temperature = self.param.temperature
        if self._log_means is None:
            with torch.no_grad():
                self._log_means = torch.stack([log_mean_score(*x, temperature) for x in sides])
        means = self._log_means.to(s)
        losses = [
            contrastive_representation(a, b, others, mean, temperature=temperature, counted=counted)
            for (a, b, others), mean in zip(sides, means, strict=True)
        ]
        return losses[0] + losses[1]

    # ---- what goes on

    def reset(self) -> None:
        self._banks = [torch.zeros(0, self.width) for _ in _SIDES]
        self._classes = torch.zeros(0)
        self._log_means = None

    def state(self) -> dict[str, np.ndarray]:
        means = torch.zeros(0) if self._log_means is None else self._log_means
        parts = dict(zip(_SIDES, self._banks, strict=True))
        parts |= {"classes": self._classes, "log_means": means}
        return {name: part.cpu().numpy().copy() for name, part in parts.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        count = len(state["classes"])
        shapes = [state[side].shape for side in _SIDES]
        if shapes != [(count, self.width)] * 2 or count > self.param.negatives:
            raise ValueError(
                f"layer '{self.name}' remembers {self.param.negatives} embeddings of {self.width} "
                f"values, and its state has the shapes {shapes}"
            )
        device = self.context.device
        self._banks = [torch.from_numpy(state[side].copy()).to(device) for side in _SIDES]
        self._classes = torch.from_numpy(state["classes"].copy()).to(device)
        means = torch.from_numpy(state["log_means"].copy()).to(device)
        self._log_means = means if len(means) else None
