"""Zero-shot classification: images are assigned to the class whose prompts are most similar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import shown_names
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.embedding import embed_pairs, encode_on_ranks, tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.metrics.per_class import confusion_matrix
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating
from clipkit.renamed_arguments import renamed_arguments
from clipkit.templates import check_templates, fill_template
from clipkit.types import IGNORE_LABEL

GENERIC_TEMPLATES: Final = (
    "{}",
    "a picture of {}",
    "a photo that shows {}",
    "a drawing of {}",
    "here we see {}",
    "{}, seen from nearby",
    "{}, small and far away",
    "an image in the category {}",
)
"""Templates for data without any: several views and media, no assumption about the domain."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of every class for every image.

    Args:
        scores: Cosine similarities, or logits of a label head.
        labels: True class of each image, as a column of ``scores``.
        class_names: Name of each column; C distinct names.
        keys: Name of each image; empty if the images have no names.
    """

    scores: Float[Tensor, "N C"]
    labels: Int64[Tensor, " N"]
    class_names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def class_embeddings(
    encoder: DualEncoder,
    class_names: Sequence[str],
    templates: Sequence[str],
    tokenizer: Tokenizer,
    batch_size: int = 64,
) -> Float[Tensor, "C D"]:
    """Return one unit-norm embedding per class: the normalised mean over its prompts.

    The classifier of Radford et al. 2021, section 3.1.4. With several ranks, every rank calls this
    function, and embeds a part of the prompts.

    Args:
        encoder: The model, in evaluation mode and without gradients.
        class_names: C names.
        templates: Sentences with ``{}`` for the class name.
        tokenizer: Tokenizer of the text tower.
        batch_size: Prompts per forward pass.

    Returns:
        float32 embeddings on the encoder's device.

    Raises:
        ConfigError: If a template has no place for the name.
    """
    templates = check_templates(templates, "templates")
    prompts = [fill_template(template, name) for name in class_names for template in templates]
    embedded = encode_on_ranks(encoder, tokenizer, prompts, batch_size)
    means = embedded.view(len(class_names), len(templates), -1).mean(1)
    return F.normalize(means, dim=-1)


def confusion_counts(
    predictions: Predictions, num_classes: int | None = None
) -> Int64[Tensor, "C C"]:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        predictions: Scores and true classes.
        num_classes: C; None for the number of columns of the scores.

    Returns:
        Counts; correct predictions are on the diagonal.

    Examples:
        >>> scores = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
        >>> confusion_counts(Predictions(scores, torch.tensor([0, 1]))).tolist()
        [[1, 0], [1, 0]]
    """
    size = predictions.scores.shape[1] if num_classes is None else num_classes
    return confusion_matrix(predictions.scores.argmax(1), predictions.labels, size)


@final
class ZeroShotClassification(Evaluator):
    """Top-1 and top-5 accuracy and mean per-class recall of zero-shot predictions.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with a class in each sample.
        tokenizer: Tokenizer for the prompts; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        class_names: Names in the order of class numbers; None for those of the data. Numbers with
            an empty name are not predicted.
        templates: Sentences with ``{}`` for the class name; None for those of the data, or
            ``GENERIC_TEMPLATES`` if the data have none.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found or name no classes.
        ConfigError: If a template has no place for the class name.

    Examples:
        >>> ZeroShotClassification("data/val").run(encoder)
        {'top1': ..., 'mean_per_class_recall': ...}
    """

    primary_metric = "top1"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        tokenizer: Tokenizer | None = None,
        split: str = "test",
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = tuple(class_names or self.data.class_names)
        num_named = sum(map(bool, self.class_names))
        if num_named < 2:
            raise DataError(
                f"{self.data.name}: zero-shot classification needs the names of at least two "
                f"classes, got {num_named}; write classnames.txt, one name per line"
            )
        chosen = templates if templates is not None else self.data.templates or GENERIC_TEMPLATES
        self.templates = check_templates(chosen, "templates")
        self._tokenizer = tokenizer
        self.options = options

    def predict(self, encoder: DualEncoder) -> Predictions:
        """Return the scores of every class for every image, which ``run`` measures.

        Raises:
            DataError: If an image has no class, or a class without a name.
        """
        pairs = embed_pairs(encoder, self.data, self.options, self._tokenizer, captions=False)
        names = [name for name in self.class_names if name]
        labels = self._named(pairs.labels, pairs.keys)
        tokenizer = self._tokenizer or tokenizer_of(encoder)
        with evaluating(encoder, self.options.precision):
            classes = class_embeddings(
                encoder, names, self.templates, tokenizer, self.options.batch_size
            )
        scores = pairs.images @ classes.cpu().T
        return Predictions(scores, labels, shown_names(names, len(names)), pairs.keys)

    def _named(self, labels: Int64[Tensor, " N"], keys: Sequence[str]) -> Int64[Tensor, " N"]:
        """Return the position of each sample's class among the classes with a name."""
        require_classes(labels, len(self.class_names), keys, self.data)
        has_name = torch.tensor([bool(name) for name in self.class_names])
        nameless = (~has_name[labels]).nonzero().flatten().tolist()
        if nameless:
            raise DataError(
                f"{self.data.name}: {len(nameless)} of {len(labels)} images have a class without a "
                f"name (first: {keys[nameless[0]]}, class {int(labels[nameless[0]])}); name it in "
                f"classnames.txt, or next to its number in the table"
            )
        return (has_name.cumsum(0) - 1)[labels]

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics; ``top5`` only if there are at least five classes."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image."""
        return evaluate_predictions(self.predict(encoder))


def evaluate_predictions(predictions: Predictions) -> Evaluation:
    """Compute the outcome of each image, and the metrics."""
    keys = predictions.keys or tuple(map(str, range(len(predictions.labels))))
    outcomes = classification_outcomes(
        predictions.scores, predictions.labels, keys, predictions.class_names
    )
    return Evaluation(outcome_metrics(outcomes), (outcomes,))


def require_classes(
    labels: Int64[Tensor, " N"], num_classes: int, keys: Sequence[str], data: EvaluationDataset
) -> None:
    """Refuse images whose class is missing or out of range."""
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten().tolist()
    if not wrong:
        return
    label = int(labels[wrong[0]])
    problem = f"no class in {data.label_field}" if label == IGNORE_LABEL else f"class {label}"
    raise DataError(
        f"{data.name}: {len(wrong)} of {len(labels)} images have no usable class (first: "
        f"{keys[wrong[0]]}, {problem}); expected 0 to {num_classes - 1}"
    )
