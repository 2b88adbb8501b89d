"""Choice of the images that people associate with a cue, among few candidates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import MetricError
from clipkit.evaluation.datasets.associations import (
    AssociationData,
    AssociationImages,
    open_associations,
)
from clipkit.evaluation.embedding import embed_pairs, encode_on_ranks, tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating


def jaccard_of_choice(scores: Float[Tensor, " N"], correct: Bool[Tensor, " N"]) -> float:
    """Return the Jaccard index of the k best candidates and the k correct ones.

    A candidate is chosen if fewer than k others score at least as high: of candidates with the same
    score that do not all have a place, none is chosen, and their places count as wrong.

    Args:
        scores: Similarity of each candidate and the cue.
        correct: Whether each candidate is correct; k of them are.

    Raises:
        MetricError: If a score is NaN.

    Examples:
        >>> correct = torch.tensor([True, True, False, False])
        >>> jaccard_of_choice(torch.tensor([0.9, 0.1, 0.5, 0.2]), correct)  # one of three
        0.3333333333333333
        >>> jaccard_of_choice(torch.ones(4), correct)  # a collapsed model
        0.0
    """
    if scores.isnan().any():
        raise MetricError("scores: expected numbers, got NaN")
    size = int(correct.sum())
    as_high = (scores[None, :] >= scores[:, None]).sum(1)  # including the candidate itself
    hits = int((correct & (as_high <= size)).sum())
    return hits / (2 * size - hits)


def cue_prompt(cue: str) -> str:
    """Return the text that is embedded for a cue; it is DataComp's.

    Examples:
        >>> cue_prompt("Orange"), cue_prompt("full moon")
        ('An orange', 'A full moon')
    """
    text = cue.lower()
    return f"An {text}" if text[0] in "aeiou" else f"A {text}"


@final
class ImageAssociation(Evaluator):
    """Jaccard index of the images chosen for a cue and those that people associate with it.

    For WinoGAViL. The metrics have DataComp's names: ``avg_jaccard_score`` is the mean over all
    instances, ``jaccard_score_12`` that over instances with 12 candidates, ``jaccard_score_5-6``
    and ``jaccard_score_10-12`` those with at most 6 and at least 10. Intervals draw complete lists
    of candidates, which several cues share.

    Args:
        data: Cues and images, opened or as for ``open_associations``.
        tokenizer: Tokenizer for the cues; None for that of the text tower.
        options: Batch size, number of workers, limit (of cues), precision, progress bar.
        allow_outside: Whether images may be outside of the folder of the table.

    Raises:
        DataError: If the data cannot be found or read.

    Examples:
        >>> ImageAssociation("associations").run(encoder)
        {'avg_jaccard_score': ..., 'jaccard_score_4': ..., 'jaccard_score_5-6': ...}
    """

    primary_metric = "avg_jaccard_score"

    def __init__(
        self,
        data: str | Path | AssociationData,
        tokenizer: Tokenizer | None = None,
        options: EmbedOptions = EmbedOptions(),
        allow_outside: bool = False,
    ) -> None:
        self.data: AssociationData = (
            data if isinstance(data, AssociationData) else open_associations(data, allow_outside)
        )
        self._tokenizer = tokenizer
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the mean of all cues, and of those with each number of candidates."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the outcome of each cue."""
        rows = self.data.rows[: self.options.limit]
        images = AssociationImages(self.data, rows)
        options = replace(self.options, limit=None)
        embedded = embed_pairs(encoder, images, options, captions=False).images.double()
        prompts = [cue_prompt(row.cue) for row in rows]
        with evaluating(encoder, options.precision):
            tokenizer = self._tokenizer or tokenizer_of(encoder)
            cues = encode_on_ranks(encoder, tokenizer, prompts, options.batch_size).cpu().double()
        place = {name: number for number, name in enumerate(images.names)}
        scores = []
        for row, cue in zip(rows, cues, strict=True):
            candidates = embedded[[place[name] for name in row.candidates]]
            correct = torch.tensor([name in row.associations for name in row.candidates])
            # Sums of products, not a matrix product: equal embeddings give equal scores.
            scores.append(jaccard_of_choice((candidates * cue).sum(-1), correct))
        sizes = torch.tensor([len(row.candidates) for row in rows])
        outcomes = Outcomes(
            "means",
            tuple(row.key for row in rows),
            tuple(", ".join(row.candidates) for row in rows),
            _columns(torch.tensor(scores, dtype=torch.float64), sizes),
        )
        return Evaluation(outcome_metrics(outcomes), (outcomes,))


def _columns(scores: Float[Tensor, " N"], sizes: Tensor) -> dict[str, Tensor]:
    """Return the scores, and those of each number of candidates that occurs; NaN for others."""
    members = {f"jaccard_score_{size}": sizes == size for size in sorted(set(sizes.tolist()))}
    members |= {"jaccard_score_5-6": sizes <= 6, "jaccard_score_10-12": sizes >= 10}
    columns = {"avg_jaccard_score": scores}
    for name, is_member in members.items():
        if is_member.any():
            columns[name] = scores.masked_fill(~is_member, torch.nan)
    return columns
