"""Choice between few images and texts that differ in little, such as the order of words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.distributed.agreement import same_errors
from clipkit.errors import DataError, MetricError
from clipkit.evaluation.datasets.choice_sources import ChoiceColumns, open_choices
from clipkit.evaluation.datasets.choices import ChoiceData, ChoiceImages
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes, distinct_keys
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes
from clipkit.models import DualEncoder


def right_choices(scores: Float[Tensor, "images texts"]) -> tuple[bool, bool]:
    """Return whether every text, and every image, is chosen correctly.

    The i-th image belongs to the i-th text; further images or texts are wrong. A correct one must
    score higher than every other one: a tie is never a win.

    Args:
        scores: Similarity of each image (row) and text (column) of an instance.

    Returns:
        Whether each image with a text prefers it to the other texts, and whether each text with an
        image prefers it to the other images.

    Raises:
        MetricError: If a score is NaN.

    Examples:
        >>> right_choices(torch.tensor([[0.3, 0.2]]))
        (True, True)
        >>> right_choices(torch.tensor([[0.3, 0.3]]))  # a collapsed model
        (False, True)
    """
    if scores.isnan().any():
        raise MetricError("scores: expected numbers, got NaN")
    size = min(scores.shape)
    right = scores.diagonal()
    is_own = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    others = scores.masked_fill(is_own, -torch.inf)
    texts = (right > others[:size].amax(1)).all()
    images = (right > others[:, :size].amax(0)).all()
    return bool(texts), bool(images)


@final
class PairChoice(Evaluator):
    """Accuracy of the choice between texts, and between images, of each instance.

    For SugarCrepe, ARO, Winoground, ImageCoDe, and data of the same forms. With several texts per
    instance, ``text_acc`` is the fraction of instances in which every image is more similar to its
    text than to all others; with several images, ``image_acc`` is that of texts and images; ``acc``
    is the fraction in which both hold. For Winoground these are the text, image and group score.
    If the data have categories, ``group/CATEGORY/acc`` is that of each of them.

    Args:
        data: Data of pair choice, opened or as for ``open_choices``.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        columns: Columns of a table; None to recognise them.
        tokenizer: Tokenizer for the texts; None for that of the text tower.
        options: Batch size, number of workers, limit, precision, progress bar.
        allow_outside: Whether images may be outside of the folder of the table.

    Raises:
        DataError: If the data cannot be found, or their columns are not recognised.

    Examples:
        >>> PairChoice("photos/choices.csv").run(encoder)
        {'text_acc': ..., 'acc': ...}
    """

    primary_metric = "acc"

    def __init__(
        self,
        data: str | Path | ChoiceData,
        split: str = "test",
        columns: ChoiceColumns | None = None,
        tokenizer: Tokenizer | None = None,
        options: EmbedOptions = EmbedOptions(),
        allow_outside: bool = False,
    ) -> None:
        self.data: ChoiceData = (
            data
            if isinstance(data, ChoiceData)
            else open_choices(data, split, columns, allow_outside)
        )
        self._tokenizer = tokenizer
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return ``text_acc`` (several texts), ``image_acc`` (several images), and ``acc``."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the outcome of each instance.

        Raises:
            DataError: If an instance has one image and one text, which is no choice.
        """
        limit, size = self.options.limit, self.data.num_images
        options = replace(self.options, limit=None if limit is None else limit * size)
        pairs = embed_pairs(encoder, ChoiceImages(self.data), options, self._tokenizer)
        right = [right_choices(scores) for scores in self._scores(pairs)]
        texts, images = (
            torch.tensor(hits, dtype=torch.float64) for hits in zip(*right, strict=True)
        )
        columns = {"text_acc": texts, "image_acc": images, "acc": texts * images}
        if size == 1:
            del columns["image_acc"]
        elif len(pairs.texts) == len(right):
            del columns["text_acc"]
        keys = distinct_keys(pairs.keys[::size])
        parts = [Outcomes("means", keys, keys, columns)]
        with same_errors():
            kinds = [self.data.category(number) for number in range(len(keys))]
        if any(kinds):
            names = [kind or "none" for kind in kinds]
            parts.append(worst_group_outcomes({"acc": columns["acc"]}, names, parts[0]))
        metrics = {k: v for part in parts for k, v in outcome_metrics(part).items()}
        return Evaluation(metrics, tuple(parts))

    def _scores(self, pairs: EmbeddedPairs) -> list[Float[Tensor, "images texts"]]:
        """Return the cosine similarities of each instance, in float64."""
        size = self.data.num_images
        images = pairs.images.double().reshape(-1, size, pairs.images.shape[1])
        counts = torch.bincount(pairs.text_to_image // size, minlength=len(images)).tolist()
        scores = []
        for number, texts in enumerate(torch.split(pairs.texts.double(), counts)):
            if size * len(texts) < 2:
                raise DataError(
                    f"{self.data.name}: {pairs.keys[number * size]}: expected a choice, of the "
                    f"right text and a wrong one; got {len(texts)} texts for {size} images"
                )
            # Sums of products, not a matrix product: equal embeddings give equal scores.
            scores.append((images[number][:, None] * texts).sum(-1))
        return scores
