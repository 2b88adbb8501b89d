"""Outcomes of the retrieval of captions in one language by captions in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.outcomes.retrieval import recalls_of

_PAIR: Final = "pair"


def translation_outcomes(parts: Mapping[str, Outcomes]) -> Outcomes:
    """Join the outcomes of ordered pairs of languages.

    Args:
        parts: Outcomes of kind "retrieval" by the name of the pair, such as "de_to_en".

    Returns:
        Outcomes of kind "translation". ``class_names`` are the names of the pairs.

    Examples:
        >>> of_pair = Outcomes("retrieval", ("a",), ("a",), {"recall_at_1": torch.ones(1)})
        >>> outcome_metrics(translation_outcomes({"de_to_en": of_pair}))
        {'recall_at_1': 1.0, 'worst_pair/recall_at_1': 1.0, 'de_to_en/recall_at_1': 1.0}
    """
    columns = {
        name: torch.cat([part.columns[name] for part in parts.values()])
        for name in recalls_of(next(iter(parts.values())))
    }
    sizes = torch.tensor([len(part) for part in parts.values()])
    columns[_PAIR] = torch.arange(len(parts)).repeat_interleave(sizes)
    return Outcomes(
        "translation",
        tuple(f"{key}@{name}" for name, part in parts.items() for key in part.keys),
        tuple(group for part in parts.values() for group in part.groups),
        columns,
        class_names=tuple(parts),
    )


def translation_metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
    """Return recall at k: the mean over the pairs of languages, the lowest, and that of each."""
    pair, names = outcomes.columns[_PAIR], outcomes.class_names
    zeros = torch.zeros(len(names), dtype=torch.float64)
    counts = zeros.index_add(0, pair, weights)
    means = {
        name: zeros.index_add(0, pair, weights * column) / counts
        for name, column in recalls_of(outcomes).items()
    }
    occurring = {name: values[counts > 0] for name, values in means.items()}
    return {
        **{name: float(values.mean()) for name, values in occurring.items()},
        **{f"worst_pair/{name}": float(values.min()) for name, values in occurring.items()},
        **{
            f"{of_pair}/{name}": value
            for name, values in means.items()
            for of_pair, value in zip(names, values.tolist(), strict=True)
        },
    }


def pair_name(source: str, target: str) -> str:
    """Return the name of an ordered pair of languages in metrics.

    Examples:
        >>> pair_name("de", "en")
        'de_to_en'
    """
    return f"{source}_to_{target}"
