"""Captions in one language as queries for captions in another, through the shared space."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import CAPTION_LANGUAGE, EvaluationDataset
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_captions
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes, distinct_keys
from clipkit.evaluation.outcomes.retrieval import retrieval_outcomes
from clipkit.evaluation.outcomes.translation import pair_name, translation_outcomes
from clipkit.evaluation.query_groups import read_query_groups
from clipkit.metrics.ranking import pair_ranks
from clipkit.models import DualEncoder


@dataclass(frozen=True, slots=True)
class LanguageTexts:
    """Texts in one language.

    Args:
        texts: Unit-norm embeddings of the M texts.
        images: Row of each image that a text belongs to, and row of the text.
        keys: Distinct name of each text.
        groups: Name of the first image of each text.
    """

    texts: Float[Tensor, "texts D"]
    images: Int64[Tensor, "pairs 2"]
    keys: tuple[str, ...]
    groups: tuple[str, ...]


def pairs_by_image(
    first: Int64[Tensor, "first 2"], second: Int64[Tensor, "second 2"]
) -> Int64[Tensor, "joined 2"]:
    """Return the pairs of texts that belong to the same image.

    Args:
        first: Row of an image, and of a text of it, on one side.
        second: The same on the other side.

    Returns:
        Rows of the first and of the second text of each pair, each pair once.

    Examples:
        >>> german, english = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[1, 0], [1, 1]])
        >>> pairs_by_image(german, english).tolist()
        [[1, 0], [1, 1]]
    """
    texts: defaultdict[int, list[int]] = defaultdict(list)
    for image, text in second.tolist():
        texts[image].append(text)
    pairs = {(text, other) for image, text in first.tolist() for other in texts[image]}
    return torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)


@final
class CaptionTranslation(Evaluator):
    """Retrieval of captions in one language by captions in another, for each pair of languages.

    Texts are compared by their embeddings, and images decide what is correct: a candidate is
    correct if it is a caption of the same image. A model that learned only from images with
    captions has images as the pivot between languages (Gella et al. 2017, arXiv:1707.07601). The
    images themselves are neither read nor embedded.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with captions in at least two
            languages.
        tokenizer: Tokenizer for the captions; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        ks: Depths at which recall is measured.
        options: Batch size, limit, precision.
        language_field: Field with the language of the captions, as
            ``RetrievalOptions.group_field``; "caption:language" if the caption picker knows it.
        merge_captions: Whether equal captions of several images, in one language, are one query and
            one candidate. Otherwise each is a text of its own, and those of other images are
            incorrect.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> captions = LanguageCaptions("json:name_{language}")
        >>> evaluator = CaptionTranslation(open_dataset("data/val", caption=captions))
        >>> evaluator.primary_metric  # run also returns worst_pair/recall_at_1, de_to_en/…
        'recall_at_1'
    """

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        tokenizer: Tokenizer | None = None,
        split: str = "test",
        ks: Sequence[int] = (1, 5, 10),
        options: EmbedOptions = EmbedOptions(),
        language_field: str = CAPTION_LANGUAGE,
        merge_captions: bool = False,
    ) -> None:
        self.data = as_dataset(data, split)
        self.ks = tuple(ks)
        self.primary_metric = f"recall_at_{min(self.ks, default=1)}"
        self._tokenizer = tokenizer
        self.options = options
        self.language_field = language_field
        self.merge_captions = merge_captions

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return recall at k of each ordered pair of languages, their mean, and the lowest.

        ``de_to_en/recall_at_1`` has German captions as queries and English ones as candidates.

        Raises:
            DataError: If there are no two languages with captions of the same image.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and the outcome of each caption for each other language."""
        embedded = embed_captions(encoder, self.data, self.options, self._tokenizer)
        device = encoder.log_logit_scale.device
        groups = read_query_groups(
            self.data, embedded, self.language_field, self.options, device
        ).captions
        languages = _by_language(embedded, groups, self.merge_captions)
        parts = {
            pair_name(source, target): part
            for source, target, part in self._directions(languages, device)
        }
        if not parts:
            raise DataError(
                f"{self.data.name}: expected captions of the same images in at least two "
                f"languages, got {', '.join(languages) or 'no captions'}"
            )
        outcomes = translation_outcomes(dict(sorted(parts.items())))
        return Evaluation(outcome_metrics(outcomes), (outcomes,))

    def _directions(
        self, languages: dict[str, LanguageTexts], device: torch.device
    ) -> Iterator[tuple[str, str, Outcomes]]:
        """Yield the outcomes of each ordered pair of languages with an image in common."""
        if device.type != "cuda":
            device = torch.device("cpu")  # other devices lack fp64
        for source, target in combinations(languages, 2):
            first, second = languages[source], languages[target]
            pairs = pairs_by_image(first.images, second.images)
            if not len(pairs):
                continue
            tensors = (tensor.to(device) for tensor in (first.texts, second.texts, pairs))
            queries, candidates, correct = tensors
            ranks = pair_ranks(queries, candidates, correct, over_ranks=True)
            ways = ((source, target, first), (target, source, second))
            for (query, answer, texts), of_way in zip(ways, ranks, strict=True):
                part = retrieval_outcomes(of_way, texts.keys, texts.groups, "", self.ks)
                yield query, answer, part


def _by_language(
    embedded: EmbeddedPairs, languages: Sequence[str], merge: bool
) -> dict[str, LanguageTexts]:
    """Return the texts of each language, by the name of the language."""
    image_keys = distinct_keys(embedded.keys)
    owners = embedded.text_to_image.tolist()
    keys = distinct_keys([image_keys[owner] for owner in owners])
    found = {}
    for name in sorted(set(languages)):
        rows = [row for row, language in enumerate(languages) if language == name]
        texts = [embedded.captions[row] if merge else row for row in rows]
        number = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        images = [[owners[row], number[text]] for row, text in zip(rows, texts, strict=True)]
        first = {number[text]: row for row, text in reversed(list(zip(rows, texts, strict=True)))}
        of_texts = [first[at] for at in range(len(number))]
        found[name] = LanguageTexts(
            embedded.texts[of_texts],
            torch.tensor(images, dtype=torch.int64),
            tuple(keys[row] for row in of_texts),
            tuple(image_keys[owners[row]] for row in of_texts),
        )
    return found
