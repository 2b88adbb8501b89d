"""Collect what a model answers in dialogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch

from clipkit.data.samples.candidates import TurnFields, read_turn
from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.outcomes.turns import CHOSEN, RANK
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import ClassifiedImage, Classifier

TurnSource = tuple[EvaluationDataset, TurnFields]
"""Turns, and the fields that hold one."""
_SHOWN: Final = 200
"""Characters of a dialogue that are shown: its end, with the question."""


def turn_content(
    name: str,
    outcomes: Outcomes,
    source: TurnSource,
    thumbnails: Thumbnails,
    *,
    num_images: int = 24,
    seed: int = 0,
) -> Classifier:
    """Collect turns with their images, the chosen and the right answer.

    Args:
        name: Name of the task.
        outcomes: Outcomes of kind "turns", in the order of the data.
        source: The turns, and the fields that hold one.
        thumbnails: Thumbnails of the images, in the same order.
        num_images: Number of hits, and of errors.
        seed: Seed of the selection of hits.
    """
    rank = outcomes.columns[RANK]
    right, wrong = (rank == 1).nonzero().flatten(), (rank > 1).nonzero().flatten()
    order = torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))
    worst = rank[wrong].argsort(descending=True, stable=True)

    def shown(rows: Sequence[int]) -> list[ClassifiedImage]:
        return [_shown(outcomes, source, thumbnails, row) for row in rows]

    return Classifier(
        name=name,
        hits=shown(right[order][:num_images].tolist()),
        errors=shown(wrong[worst][:num_images].tolist()),
        note=f"{len(right):,} of {len(rank):,} turns have the right answer first. Hits are "
        f"selected at random (seed {seed}); errors are those with the lowest place of the right "
        f"answer.",
    )


def _shown(
    outcomes: Outcomes, source: TurnSource, thumbnails: Thumbnails, row: int
) -> ClassifiedImage:
    data, fields = source
    raw = data.members(row, leave_out=IMAGES_AND_SOUNDS)
    with sample_errors(data.name, raw.key):
        turn = read_turn(raw.members, fields)
    assert turn is not None, "the evaluator has read it"
    start = "… " if len(turn.context) > _SHOWN else ""
    return ClassifiedImage(
        thumbnails[row],
        turn.candidates[turn.correct],
        turn.candidates[int(outcomes.columns[CHOSEN][row])],
        int(outcomes.columns[RANK][row]),
        text=f"{start}{turn.context[-_SHOWN:]}",
    )
