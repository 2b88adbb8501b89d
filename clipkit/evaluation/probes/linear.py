"""Linear probe: logistic regression on the frozen image embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import final

from clipkit.class_names import shown_names
from clipkit.errors import DataError
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.probes.hold_out import SHARE, hold_out
from clipkit.evaluation.probes.logistic import choose_l2, fit_logistic
from clipkit.evaluation.probes.splits import EmbeddedSplit, ProbeSplits
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class LinearProbe(Evaluator):
    """Accuracy of a logistic regression on frozen embeddings; held-out data select its penalty.

    The classes of the splits are matched by name, if they have names.

    Args:
        data: Folder or URL in CLIP_benchmark's layout, with a class in each sample; or the splits,
            which then define the arguments that follow, except ``options``.
        split: Split to measure on.
        train_split: Split to fit on.
        validation_split: Split that selects the penalty; None holds out a fifth of each class of
            the training split. The final fit uses both parts.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category").
        options: Batch size, number of workers, limit, precision, progress bar.
        allow_outside: Whether the images of a table or folder may be outside of its folder.

    Raises:
        DataError: If a split is missing.

    Examples:
        >>> splits = ProbeSplits("data", split="val", validation_split="val", allow_overlap=True)
        >>> LinearProbe(splits).run(encoder)
        {'top1': ..., 'mean_per_class_recall': ..., 'l2': ...}
    """

    primary_metric = "top1"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | ProbeSplits,
        split: str = "test",
        train_split: str = "train",
        validation_split: str | None = None,
        label_field: str = "cls",
        options: EmbedOptions = EmbedOptions(),
        allow_outside: bool = False,
    ) -> None:
        self.splits = (
            data
            if isinstance(data, ProbeSplits)
            else ProbeSplits(
                data, split, train_split, validation_split, label_field, None, allow_outside
            )
        )
        self.class_names = self.splits.class_names
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return top-1, top-5, mean per-class recall, and the selected penalty ``l2``."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the outcome of each test image."""
        parts = self.splits.embed(encoder, self.options)
        num_classes = num_classes_of(self.class_names, parts)
        fitting, comparing = fitting_and_comparing(parts, self.splits.train.name)
        l2 = choose_l2(
            (fitting.features, fitting.labels), (comparing.features, comparing.labels), num_classes
        )
        train, test = fitting.joined(comparing), parts["test"]
        classifier = fit_logistic(train.features, train.labels, num_classes, l2)
        outcomes = classification_outcomes(
            classifier(test.features).cpu(),
            test.labels.cpu(),
            test.keys,
            shown_names(self.class_names, num_classes),
            test.groups,
        )
        return Evaluation({**outcome_metrics(outcomes), "l2": l2}, (outcomes,))


def num_classes_of(class_names: tuple[str, ...], parts: dict[str, EmbeddedSplit]) -> int:
    """Return the number of classes: those with names, or up to the highest number that occurs."""
    highest = max(int(part.labels.max()) for part in parts.values())
    return max(len(class_names), highest + 1)


def fitting_and_comparing(
    parts: dict[str, EmbeddedSplit], name: str
) -> tuple[EmbeddedSplit, EmbeddedSplit]:
    """Return the samples to fit on, and those to select options on.

    Args:
        parts: The splits; without "validation", a fifth of "train" is held out.
        name: Name of the training data in messages.

    Raises:
        DataError: If the training split is too small to hold samples out.
    """
    train = parts["train"]
    if "validation" in parts:
        return train, parts["validation"]
    kept, held = hold_out(train.labels, train.groups)
    if not len(held):
        raise DataError(
            f"{name}: the training split is too small to hold samples out (fewer than {SHARE} of "
            f"every class, or a class in one group only); name a validation split"
        )
    return train.rows(kept), train.rows(held)
