"""Classification by the nearest training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import shown_names
from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.probes.linear import num_classes_of
from clipkit.evaluation.probes.splits import ProbeSplits
from clipkit.models import DualEncoder

_CHUNK_SCORES: Final = 2**25
"""Similarities of test and training images that are in memory at once."""


def neighbour_votes(
    queries: Float[Tensor, "B D"],
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    num_classes: int,
    k: int,
    temperature: float,
) -> Float[Tensor, "B C"]:
    """Sum the votes of the nearest neighbours for each class.

    A neighbour at cosine similarity s votes for its class with weight exp(s / temperature) (Wu et
    al. 2018, section 3.4; Caron et al. 2021). Images that are as similar as the k-th neighbour vote
    too, so that the order of the training images has no effect.

    Args:
        queries: Unit-norm embeddings to classify.
        features: Unit-norm embeddings of the training images.
        labels: Class of each training image.
        num_classes: C.
        k: Number of neighbours.
        temperature: Divisor of the similarities.

    Returns:
        float64 votes, divided by the weight of similarity 1.

    Examples:
        >>> votes = neighbour_votes(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), 2, 1, 0.07)
        >>> votes.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    train = features.double()
    votes = torch.zeros(len(queries), num_classes, dtype=torch.float64, device=queries.device)
    size = max(1, _CHUNK_SCORES // max(1, len(features)))
    for start in range(0, len(queries), size):
        similarity = queries[start : start + size].double() @ train.T
        kth = similarity.topk(k, dim=1).values[:, -1:]
        rows, columns = (similarity >= kth).nonzero(as_tuple=True)
        weights = ((similarity[rows, columns] - 1) / temperature).exp()
        votes.index_put_((rows + start, labels[columns]), weights, accumulate=True)
    return votes


@final
class NearestNeighbours(Evaluator):
    """Accuracy of the weighted vote of the k most similar training images.

    Nothing is fitted: the number says what the embeddings hold without a classifier. The values for
    each k are ``k_K/top1`` and so on.

    Args:
        data: Folder or URL in CLIP_benchmark's layout with splits "train" and "test", or the
            splits.
        ks: Numbers of neighbours; those above the number of training images are left out.
        temperature: Divisor of the similarities before they are weights; DINO's by default.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If a split is missing.
        ConfigError: If ``ks`` or ``temperature`` is not positive, or all of ``ks`` are above the
            number of training images.

    Examples:
        >>> splits = ProbeSplits("data", split="val")
        >>> NearestNeighbours(splits, ks=[3]).run(encoder)
        {'k_3/top1': ..., 'k_3/mean_per_class_recall': ...}
    """

    def __init__(
        self,
        data: str | Path | ProbeSplits,
        ks: Sequence[int] = (10, 20, 100, 200),
        temperature: float = 0.07,
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        if not ks or temperature <= 0:
            raise ConfigError(
                f"expected at least one of ks and a temperature above 0, got {list(ks)} and "
                f"{temperature}"
            )
        for k in ks:
            check_at_least("ks", k, 1)
        self.splits = data if isinstance(data, ProbeSplits) else ProbeSplits(data)
        self.class_names = self.splits.class_names
        count, limit = len(self.splits.train), options.limit
        largest = count if limit is None else min(count, limit)
        self.ks, self.temperature = tuple(k for k in ks if k <= largest), temperature
        if not self.ks:
            raise ConfigError(
                f"ks: expected at most {largest}, the size of the training split, got {list(ks)}"
            )
        self.primary_metric = f"k_{self.ks[0]}/top1"
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return top-1, top-5 and mean per-class recall for each k."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the outcome of each test image for each k."""
        parts = self.splits.embed(encoder, self.options)
        train, test = parts["train"], parts["test"]
        num_classes = num_classes_of(self.class_names, parts)
        names = shown_names(self.class_names, num_classes)
        of_ks = []
        for k in self.ks:
            votes = neighbour_votes(
                test.features, train.features, train.labels, num_classes, k, self.temperature
            )
            outcomes = classification_outcomes(
                votes.cpu(), test.labels.cpu(), test.keys, names, test.groups
            )
            of_ks.append(replace(outcomes, prefix=f"k_{k}/"))
        metrics = {k: v for part in of_ks for k, v in outcome_metrics(part).items()}
        return Evaluation(metrics, tuple(of_ks))
