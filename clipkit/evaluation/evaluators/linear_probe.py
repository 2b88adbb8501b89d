"""Linear probe: a linear classifier on the embeddings of the frozen image tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, open_dataset
from clipkit.evaluation.embedding import embed_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.evaluation.evaluators.zero_shot import require_classes
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.metrics.functional import classification_accuracy
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments

L2_GRID: Final = tuple(10.0 ** (-exponent / 2) for exponent in range(13))
"""From strong (1) to weak (1e-6), two per decade; for embeddings of unit norm."""

_HOLD_OUT: Final = 5
_MAX_ITERATIONS: Final = 300


@dataclass(frozen=True, slots=True)
class LinearClassifier:
    """Linear classifier in float64: scores are ``features @ weight.T + bias``."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]

    def __call__(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Return the scores of every class for every row."""
        return features.double() @ self.weight.T + self.bias


def fit_logistic(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    num_classes: int,
    l2: float,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Fit a multinomial logistic regression by L-BFGS: mean cross-entropy + l2/2 * ||weight||².

    The problem is convex and solved in float64 from a fixed start, so the result depends neither on
    a seed nor on the order of the rows.
    """
    inputs = features.double()
    zeros = torch.zeros(num_classes, inputs.shape[1] + 1, dtype=torch.float64, device=inputs.device)
    if start is not None:
        zeros = torch.cat([start.weight, start.bias[:, None]], dim=1)
    both = zeros.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [both],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        with torch.enable_grad():
            weight, bias = both[:, :-1], both[:, -1]
            loss = F.cross_entropy(inputs @ weight.T + bias, labels)
            loss = loss + 0.5 * l2 * weight.square().sum()
            (both.grad,) = torch.autograd.grad(loss, both)
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = both.detach()
    return LinearClassifier(fitted[:, :-1], fitted[:, -1])


def choose_l2(
    train: tuple[Float[Tensor, "N D"], Int64[Tensor, " N"]],
    validation: tuple[Float[Tensor, "K D"], Int64[Tensor, " K"]],
    num_classes: int,
    grid: Sequence[float] = L2_GRID,
) -> float:
    """Return the penalty with the best validation accuracy, the strongest one of equals."""
    best, chosen = -1.0, grid[0]
    classifier: LinearClassifier | None = None
    for l2 in grid:
        classifier = fit_logistic(*train, num_classes, l2, classifier)
        right = classifier(validation[0]).argmax(1) == validation[1]
        accuracy = float(right.double().mean())
        if accuracy > best:
            best, chosen = accuracy, l2
    return chosen


def hold_out(labels: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " k"]]:
    """Return rows to fit on and rows to hold out: every fifth row of each class.

    Examples:
        >>> hold_out(torch.tensor([0, 0, 0, 0, 0, 1]))
        (tensor([0, 1, 2, 3, 5]), tensor([4]))
    """
    seen: dict[int, int] = {}
    held = torch.zeros(len(labels), dtype=torch.bool)
    for row, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, 0) + 1
        held[row] = seen[label] % _HOLD_OUT == 0
    return (~held).nonzero().flatten(), held.nonzero().flatten()


@final
class LinearProbe(Evaluator):
    """Accuracy of a logistic regression on frozen embeddings; validation data select its penalty.

    The classes of the splits are matched by name, if they have names.

    Args:
        data: Folder or URL in CLIP_benchmark's layout, with a class in each sample.
        split: Split to measure on.
        train_split: Split to fit on.
        validation_split: Split that selects the penalty; None holds out every fifth sample of each
            class of the training split. The final fit uses both parts.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category").
        options: Batch size, number of workers, limit, precision, progress bar.
        allow_outside: Whether the images of a table or folder may be outside of its folder.

    Raises:
        DataError: If a split is missing.

    Examples:
        >>> LinearProbe("data", split="val", validation_split="val").run(encoder)
        {'top1': ..., 'mean_per_class_recall': ..., 'l2': ...}
    """

    primary_metric = "top1"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path,
        split: str = "test",
        train_split: str = "train",
        validation_split: str | None = None,
        label_field: str = "cls",
        options: EmbedOptions = EmbedOptions(),
        allow_outside: bool = False,
    ) -> None:
        def part(name: str) -> EvaluationDataset:
            return open_dataset(data, name, label_field=label_field, allow_outside=allow_outside)

        self.test, self.train = part(split), part(train_split)
        self.validation = part(validation_split) if validation_split else None
        splits = [self.train, *([self.validation] if self.validation else []), self.test]
        self.class_names = _all_names(splits)
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return top-1, top-5, mean per-class recall, and the selected penalty ``l2``."""
        train = self._features(encoder, self.train)
        test = self._features(encoder, self.test)
        if self.validation is not None:
            fitting, comparing = train, self._features(encoder, self.validation)
            train = torch.cat([fitting[0], comparing[0]]), torch.cat([fitting[1], comparing[1]])
        else:
            rows, held = hold_out(train[1])
            fitting = train[0][rows], train[1][rows]
            comparing = train[0][held], train[1][held]
        highest = max(int(labels.max()) for labels in (train[1], test[1]))
        num_classes = max(len(self.class_names), highest + 1)
        if not len(comparing[1]):
            raise DataError(
                f"{self.train.name}: the training split is too small to hold samples out (fewer "
                f"than {_HOLD_OUT} of every class); name a validation split"
            )
        l2 = choose_l2(fitting, comparing, num_classes)
        scores = fit_logistic(*train, num_classes, l2)(test[0])
        return {**classification_accuracy(scores, test[1]), "l2": l2}

    def _features(
        self, encoder: DualEncoder, data: EvaluationDataset
    ) -> tuple[Float[Tensor, "N D"], Int64[Tensor, " N"]]:
        pairs = embed_pairs(encoder, data, self.options, captions=False)
        num_classes = len(data.class_names) or int(pairs.labels.max()) + 1
        require_classes(pairs.labels, num_classes, pairs.keys, data)
        match = ClassMatch(data.class_names, self.class_names, data.name, "the other splits")
        return pairs.images, match.labels(pairs.labels)


def _all_names(splits: Sequence[EvaluationDataset]) -> tuple[str, ...]:
    """Return the classes of all splits: those of the first, then those that only others have."""
    names: tuple[str, ...] = ()
    for split in splits:
        added = [name for name in split.class_names if name not in names] if names else []
        names = (*names, *added) if names else split.class_names
    return names
