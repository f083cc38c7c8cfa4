"""The tensors that the reference values of the distillation losses were computed on."""

from __future__ import annotations

from types import SimpleNamespace

import torch

# Relative: the reference values were computed in float32 and are given to 6 or 7 digits.
REFERENCE = 5e-6


def reference_tensors() -> SimpleNamespace:
    """Return fs, ft, maps after a ReLU, and es, et, embeddings: of student and teacher."""
    torch.manual_seed(0)
    torch.randn(8, 10), torch.randn(8, 10)  # logits, drawn before
    return SimpleNamespace(
        fs=torch.randn(8, 4, 7, 7).relu(),
        ft=torch.randn(8, 6, 7, 7).relu(),
        es=torch.randn(8, 16),
        et=torch.randn(8, 16),
    )
