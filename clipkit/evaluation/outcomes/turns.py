"""Outcomes of dialogue turns, of which each ranks its own candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.means import mean_metrics
from clipkit.evaluation.outcomes.outcomes import Outcomes

KIND: Final = "turns"
CHOSEN: Final = "chosen"
"""Column with the position of the best candidate, of which there is no mean."""
RANK: Final = "mean_rank"


def turn_outcomes(
    keys: Sequence[str],
    groups: Sequence[str],
    measures: Mapping[str, Float[Tensor, " N"]],
    chosen: Float[Tensor, " N"],
) -> Outcomes:
    """Return the outcomes of turns.

    Args:
        keys: Distinct name of each turn.
        groups: Name of its image.
        measures: Result of ``candidate_measures``.
        chosen: Position of the candidate with the best score.
    """
    columns = {RANK if name == "rank" else name: column for name, column in measures.items()}
    return Outcomes(KIND, tuple(keys), tuple(groups), {**columns, CHOSEN: chosen})


def turn_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Return the weighted means of each measure; turns with NaN in one are left out of it."""
    means = mean_metrics(outcomes, weights)
    return {name: value for name, value in means.items() if name != CHOSEN}
