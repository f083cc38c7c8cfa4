"""Logits computed from other logits: from several teachers', and for other classes."""

from typing import Any, List

import numpy as np

from .base import blobs, number, numbers, one_of
from .formulas import log_softmax
from .logits import AXIS, LogitLayer


def groups(text: str) -> List[List[int]]:
    """Return groups of whole numbers, 0 or more: spaces between numbers, slashes between groups."""
    found = [[int(word) for word in part.split()] for part in text.split("/")]
    if not all(found) or min(map(min, found)) < 0:
        raise ValueError("an empty group, or a class below 0")
    return found


class TeacherEnsemble(LogitLayer):
    """Combine several teachers' logits into one teacher's.

    With weights w_i that sum to 1, PROBABILITIES: ``z = T * log(sum of w_i softmax(z_i / T))``;
    LOGITS: ``z = sum of w_i z_i``.

    Bottoms: logits (N, C, ...) of each teacher, all of one shape. Top: logits of that shape. The
    teachers get no gradient.

    Settings: ``mean`` PROBABILITIES (or LOGITS), ``weight`` one for each bottom, as '1 2 1' (all
    the same), ``temperature`` 4, ``axis`` 1. Source: https://arxiv.org/abs/1503.02531.
    """

    known = {
        "mean": (one_of("PROBABILITIES", "LOGITS"), "PROBABILITIES"),
        "weight": (numbers, None),
        "temperature": (number, 4.0),
        "axis": AXIS,
    }
    bottoms = ()

    def check_settings(self, bottoms: int) -> None:
        weights = np.array(self.settings["weight"] or [1.0] * bottoms)
        if len(weights) != bottoms or weights.min() < 0 or not 0 < weights.sum() < np.inf:
            self.refuse("weight must be given for each bottom, 0 or more, and not all 0")
        self.weights = weights / weights.sum()

    def reshape(self, bottom: Any, top: Any) -> None:
        shapes = [tuple(b.shape) for b in blobs(bottom)]
        if len(set(shapes)) > 1:
            self.refuse(f"all teachers must have logits of the same shape. Received: {shapes}")
        self.split_at_axis(shapes[0])
        top[0].reshape(*shapes[0])

    def forward(self, bottom: Any, top: Any) -> None:
        t = self.settings["temperature"]
        counted = [
            (self.logits(b.data, b.shape), w) for b, w in zip(blobs(bottom), self.weights) if w > 0
        ]
        if self.settings["mean"] == "LOGITS":
            found = sum(w * z for z, w in counted)
        else:
            terms = np.stack([log_softmax(z / t) + np.log(w) for z, w in counted])
            most = terms.max(axis=0)
            found = t * (most + np.log(np.exp(terms - most).sum(axis=0)))
        top[0].data[...] = np.asarray(found).reshape(top[0].data.shape)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        if any(propagate_down[index] for index in range(len(bottom))):
            self.refuse("the teachers get no gradient: give propagate_down: false for each bottom")


class ClassMap(LogitLayer):
    """Map logits to other classes: a selection, another order, or groups of classes.

    ``z_g = T * log(sum over the group's c of e^(z_c / T))``. Bottom: logits (N, C, ...). Top:
    logits with as many classes as there are groups.

    Settings: ``group`` the bottom's classes for each class of the top, as '0 1/2/3 5' (with one
        class each: '3/1'), ``temperature`` 4, ``axis`` 1.
    """

    known = {"group": (groups, None), "temperature": (number, 4.0), "axis": AXIS}

    def reshape(self, bottom: Any, top: Any) -> None:
        shape = list(bottom[0].shape)
        classes = self.split_at_axis(shape)[1]
        named = [c for group in self.settings["group"] or () for c in group]
        if not named or len(set(named)) < len(named) or max(named) >= classes:
            self.refuse(f"group must name classes of 0..{classes - 1}, each only once")
        shape[self.settings["axis"] % len(shape)] = len(self.settings["group"])
        top[0].reshape(*shape)

    def forward(self, bottom: Any, top: Any) -> None:
        t = self.settings["temperature"]
        self.z = self.logits(bottom[0].data, bottom[0].shape)
        joined = []
        for group in self.settings["group"]:
            parts = self.z[:, group] / t
            most = parts.max(axis=1)
            joined.append(t * (most + np.log(np.exp(parts - most[:, None]).sum(axis=1))))
        self.joined = np.stack(joined, axis=1)
        top[0].data[...] = self.joined.reshape(top[0].data.shape)

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        if not propagate_down[0]:
            return
        t, found = self.settings["temperature"], np.zeros_like(self.z)
        given = np.asarray(top[0].diff, dtype=np.float64).reshape(self.joined.shape)
        for index, group in enumerate(self.settings["group"]):
            at = slice(index, index + 1)
            share = np.exp((self.z[:, group] - self.joined[:, at]) / t)
            found[:, group] = share * given[:, at]
        bottom[0].diff[...] = found.reshape(bottom[0].diff.shape)
