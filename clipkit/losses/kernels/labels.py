"""Checks of labels, which do not make the CPU wait for a GPU, and weights of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.types import IGNORE_LABEL


def check_labels(labels: Int64[Tensor, " B"], num_classes: int) -> None:
    """Refuse labels without a class.

    On a GPU the check does not wait; a wrong label then stops the program by an assertion, unless
    ``CombinedLoss.check_batch`` has refused it on the CPU before.
    """
    wrong = (labels != IGNORE_LABEL) & ((labels < 0) | (labels >= num_classes))
    expected = f"0 to {num_classes - 1} or {IGNORE_LABEL} for none"
    _refuse("labels", labels, wrong, expected, "; make the label_head wider or correct the labels")


def check_multi_labels(targets: Int64[Tensor, "B C"], num_classes: int) -> None:
    """Refuse targets of another width, or with other values than 0, 1 and ``IGNORE_LABEL``.

    On a GPU the check does not wait, as for ``check_labels``.
    """
    if targets.shape[1] != num_classes:
        raise ConfigError(
            f"multi_labels: expected {[len(targets), num_classes]}, the width of the encoder's "
            f"label_head, got {list(targets.shape)}"
        )
    wrong = (targets != 0) & (targets != 1) & (targets != IGNORE_LABEL)
    _refuse("multi_labels", targets, wrong, f"0, 1 or {IGNORE_LABEL} for unknown")


def weight_tensor(name: str, weights: Sequence[float] | None) -> Float[Tensor, " C"] | None:
    """Return the weights of classes as a tensor; refuse one below 0."""
    if weights is None:
        return None
    if any(weight < 0 for weight in weights):
        raise ConfigError(f"{name}: expected none below 0, got {min(weights)}")
    return torch.tensor(list(weights))


def _refuse(name: str, values: Tensor, wrong: Tensor, expected: str, remedy: str = "") -> None:
    if wrong.is_cuda or torch.compiler.is_compiling():  # a graph cannot branch on values
        torch._assert_async(~wrong.any(), f"{name}: expected {expected}")
    elif wrong.any():
        raise ConfigError(f"{name}: expected {expected}, got {int(values[wrong][0])}{remedy}")
