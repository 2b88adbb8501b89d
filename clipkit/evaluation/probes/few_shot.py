"""Linear probe on few training images of each class, drawn several times."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError, DataError, check_at_least
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes, distinct_keys
from clipkit.evaluation.probes.linear import num_classes_of
from clipkit.evaluation.probes.logistic import L2_GRID, choose_l2, fit_logistic
from clipkit.evaluation.probes.splits import EmbeddedSplit, ProbeSplits
from clipkit.metrics.functional import label_ranks
from clipkit.models import DualEncoder

_LOG: Final = logging.getLogger(__name__)
_GRID: Final = L2_GRID[::3]
_MOST_VALIDATION_SHOTS: Final = 4


def draw_shots(
    split: EmbeddedSplit, shots: int, seed: int, without: Sequence[str] = ()
) -> Int64[Tensor, " rows"]:
    """Draw images of each class.

    The images of a class are ordered by a hash of seed and key, and the first are drawn: the choice
    does not depend on the order of the data, and those of few shots are among those of more.

    Args:
        split: Images with classes.
        shots: Images of each class; all of a class that has fewer.
        seed: Number of the draw.
        without: Groups that nothing is drawn from.

    Returns:
        Rows of the images, in ascending order.
    """
    excluded = set(without)
    order = sorted(
        range(len(split.keys)),
        key=lambda row: hashlib.sha256(f"{seed} {split.keys[row]}".encode()).digest(),
    )
    labels = split.labels.tolist()
    drawn: Counter[int] = Counter()
    rows = []
    for row in order:
        if drawn[labels[row]] < shots and split.groups[row] not in excluded:
            drawn[labels[row]] += 1
            rows.append(row)
    return torch.tensor(sorted(rows), dtype=torch.int64)


@final
class FewShotProbe(Evaluator):
    """Accuracy of a linear probe on few images of each class: mean and spread over several draws.

    For each seed and number of shots, that many images of each class are drawn from the training
    split, and a logistic regression is fitted on them. Its penalty is selected on up to four
    further images of each class, none of whose groups is among the shots (the protocol of Zhou et
    al. 2022, CoOp).

    Args:
        data: Folder or URL in CLIP_benchmark's layout with splits "train" and "test", or the
            splits. A validation split provides the images that select the penalty.
        shots: Images of each class; a number for which a class has too few images is left out.
        seeds: Number of draws.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If a split is missing.
        ConfigError: If ``shots`` or ``seeds`` is not positive.

    Examples:
        >>> splits = ProbeSplits("data", split="val")
        >>> FewShotProbe(splits, shots=[1], seeds=2).run(encoder)
        {'shots_1/top1': ..., 'shots_1/top1_spread': ...}
    """

    def __init__(
        self,
        data: str | Path | ProbeSplits,
        shots: Sequence[int] = (1, 2, 4, 8, 16),
        seeds: int = 5,
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        if not shots:
            raise ConfigError("shots: expected at least one number, got none")
        for number in shots:
            check_at_least("shots", number, 1)
        check_at_least("seeds", seeds, 1)
        self.splits = data if isinstance(data, ProbeSplits) else ProbeSplits(data)
        self.class_names = self.splits.class_names
        self.shots, self.seeds = tuple(shots), seeds
        self.primary_metric = f"shots_{min(shots)}/top1"
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the mean top-1 of each number of shots, and the standard deviation over draws."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the share of the draws in which each test image was right."""
        parts = self.splits.embed(encoder, self.options)
        num_classes, test = num_classes_of(self.class_names, parts), parts["test"]
        columns, spreads = {}, {}
        for shots in self._possible(parts):
            right = torch.stack(
                [_right(parts, shots, seed, num_classes) for seed in range(self.seeds)]
            )
            columns[f"shots_{shots}/top1"] = right.mean(0)
            if self.seeds > 1:
                spreads[f"shots_{shots}/top1_spread"] = stdev(right.mean(1).tolist())
        outcomes = Outcomes("means", distinct_keys(test.keys), test.groups, columns)
        means = outcome_metrics(outcomes)
        metrics = {}
        for name in columns:
            metrics[name] = means[name]
            metrics |= {key: spreads[key] for key in [f"{name}_spread"] if key in spreads}
        return Evaluation(metrics, (outcomes,))

    def _possible(self, parts: dict[str, EmbeddedSplit]) -> list[int]:
        """Return the numbers of shots for which every class has enough training images."""
        train = parts["train"]
        smallest = min(Counter(train.labels.tolist()).values())
        usable = smallest if "validation" in parts else smallest - 1
        possible = [number for number in self.shots if number <= usable]
        if not possible:
            data = self.splits.train
            raise DataError(
                f"{data.name}: the smallest class of the training split has {smallest} "
                f"{data.modality.plural}, too few for {min(self.shots)} shots and one more to "
                f"select the penalty"
            )
        if len(possible) < len(self.shots):
            _LOG.warning(
                "%s: left out more than %d shots: the smallest class of the training split has %d",
                self.splits.train.name,
                max(possible),
                smallest,
            )
        return possible


def _right(
    parts: dict[str, EmbeddedSplit], shots: int, seed: int, num_classes: int
) -> Float[Tensor, " N"]:
    """Fit on one draw, and return 1 for each test image that is classified correctly, else 0."""
    train, test = parts["train"], parts["test"]
    drawn = train.rows(draw_shots(train, shots, seed))
    rest = min(shots, _MOST_VALIDATION_SHOTS)
    if "validation" in parts:
        comparing = parts["validation"].rows(draw_shots(parts["validation"], rest, seed))
    else:
        comparing = train.rows(draw_shots(train, rest, seed, without=drawn.groups))
    if not len(comparing.keys):
        raise DataError(
            "few-shot: every group is among the shots, none is left to select the penalty; name a "
            "validation split"
        )
    fitting = drawn.features, drawn.labels
    l2 = choose_l2(fitting, (comparing.features, comparing.labels), num_classes, _GRID)
    scores = fit_logistic(*fitting, num_classes, l2)(test.features)
    return (label_ranks(scores, test.labels) == 0).double().cpu()
