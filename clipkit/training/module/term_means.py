"""Average the terms of the objective over batches, with equal weight of all samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

_COUNT = "_num_samples"


@final
class TermMeans:
    """Averages the output of ``CombinedLoss`` over the batches of a validation.

    Each term is weighted by the number of its samples over all ranks (those with a label, for a
    label loss), so that all samples count equally. Every rank computes the same means. The loss is
    the sum of the means of the weighted terms.
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[Tensor]] = {}

    def add(self, terms: Mapping[str, Float[Tensor, ""]]) -> None:
        """Add the terms of a batch."""
        for name, value in terms.items():
            self._seen.setdefault(name, []).append(value.detach())

    def result(self) -> dict[str, Float[Tensor, ""]]:
        """Return the means of all batches so far, and forget the batches."""
        # On the CPU: not every device has float64.
        seen = {name: torch.stack(values).cpu().double() for name, values in self._seen.items()}
        device = next((values[0].device for values in self._seen.values()), None)
        self._seen = {}
        means: dict[str, Tensor] = {}
        for count in (name for name in seen if name.endswith(_COUNT)):
            term = count.removesuffix(_COUNT)
            weights = seen[count] / seen[count].sum().clamp(min=1)
            means |= {name: (seen[name] * weights).sum() for name in (term, f"{term}_weighted")}
            means[count] = seen[count].mean()
        if seen:
            weighted = [value for name, value in means.items() if name.endswith("_weighted")]
            means["loss"] = torch.stack(weighted).sum()
        return {name: value.float().to(device) for name, value in means.items()}


def named_terms(stage: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms to log: raw, weighted, and number of samples over all ranks."""
    return {f"{stage}/{name}": value for name, value in terms.items()}
