"""Zero-shot retrieval in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.correct_pairs import Candidates, RetrievalOptions, match_candidates
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.outcomes.retrieval import (
    recalls_of,
    recalls_only,
    retrieval_outcomes,
    rsum_outcomes,
)
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes
from clipkit.evaluation.query_groups import QueryGroups, read_query_groups
from clipkit.metrics.ranking import PairRanks, pair_ranks
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class Retrieval(Evaluator):
    """Retrieval from images to captions and from captions to images.

    An image may have several captions, and a caption several images. A query counts as found at k
    if any of its correct candidates is among the first k (the convention of CLIP-like papers and of
    CLIP_benchmark).

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with captions.
        tokenizer: Tokenizer for the captions; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        ks: Depths at which recall is measured; mAP and NDCG are measured at the greatest.
        widths: Also measure embeddings truncated to their first components, for each of these
            numbers of components, at the first of ``ks``; see ``clipkit.losses.MatryoshkaLoss``.
            They may be in ``correct`` instead.
        options: Batch size, number of workers, limit, precision, progress bar.
        correct: Which candidates are correct, groups of queries, and widths.

    Raises:
        ConfigError: If a width is less than 1, or both ``widths`` and ``correct.widths`` are given.
        DataError: If the data cannot be found or have no captions.

    Examples:
        >>> Retrieval("data/val").run(encoder)
        {'image_to_text/recall_at_1': ..., ...}
    """

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        tokenizer: Tokenizer | None = None,
        split: str = "test",
        ks: Sequence[int] = (1, 5, 10),
        widths: Sequence[int] = (),
        options: EmbedOptions = EmbedOptions(),
        correct: RetrievalOptions = RetrievalOptions(),
    ) -> None:
        if widths and correct.widths:
            raise ConfigError(
                f"widths: expected them once, got {list(widths)} and "
                f"correct=RetrievalOptions(widths={list(correct.widths)})"
            )
        widths = widths or correct.widths
        if any(width < 1 for width in widths):
            raise ConfigError(f"widths: expected numbers of at least 1, got {list(widths)}")
        self.data = as_dataset(data, split)
        self.ks, self.widths = tuple(ks), tuple(widths)
        self.primary_metric = f"text_to_image/recall_at_{min(self.ks, default=1)}"
        self._tokenizer = tokenizer
        self.options = options
        self.correct = correct

    def embed(self, encoder: DualEncoder) -> EmbeddedPairs:
        """Return the embeddings that ``run`` measures.

        Raises:
            DataError: If an image has no caption.
        """
        pairs = embed_pairs(encoder, self.data, self.options, self._tokenizer)
        without_caption = set(range(len(pairs.keys))) - set(pairs.text_to_image.tolist())
        if without_caption:
            raise DataError(
                f"{self.data.name}: {len(without_caption)} of {len(pairs.keys)} images have no "
                f"caption (first: {pairs.keys[min(without_caption)]}): {self.data.caption.source} "
                f"is missing or empty; retrieval needs captions in every sample"
            )
        return pairs

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics of both directions.

        The recall of truncated embeddings, at the first k, is
        ``width_W/image_to_text/recall_at_K``.

        Raises:
            ConfigError: If a width exceeds that of the embeddings.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image and caption; see ``run``."""
        full = encoder.image_tower.embedding_dim
        if max(self.widths, default=0) > full:
            raise ConfigError(
                f"widths: expected at most the {full} components of the embeddings, got "
                f"{max(self.widths)}"
            )
        embedded = self.embed(encoder)
        device = encoder.log_logit_scale.device
        field, groups = self.correct.group_field, None
        if field is not None:
            groups = read_query_groups(self.data, embedded, field, self.options, device)
        of_captions = groups.captions if groups is not None and groups.images is None else None
        is_complete = self.options.limit is None
        candidates = match_candidates(embedded, self.correct, is_complete, of_captions)
        parts = list(_directions(candidates, self.ks, device))
        rsum = rsum_outcomes(*parts)
        grouped = [] if groups is None else _by_group(candidates, groups, parts, self.ks, device)
        for width in self.widths:
            images, texts = (
                F.normalize(rows[:, :width].float(), dim=1)
                for rows in (candidates.images, candidates.texts)
            )
            truncated = replace(candidates, images=images, texts=texts)
            parts += [
                recalls_only(part, f"width_{width}/{part.prefix}")
                for part in _directions(truncated, self.ks[:1], device)
            ]
        parts += [*grouped, *([rsum] if rsum is not None else [])]
        metrics = {name: v for part in parts for name, v in outcome_metrics(part).items()}
        return Evaluation(metrics, tuple(parts))


def _directions(
    candidates: Candidates, ks: Sequence[int], device: torch.device
) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes with images as queries, and those with texts as queries."""
    of_images, of_texts = _ranks(candidates, device)
    images, texts = candidates.image_keys, candidates.text_keys
    return (
        retrieval_outcomes(of_images, images, images, "image_to_text/", ks),
        retrieval_outcomes(of_texts, texts, candidates.text_groups, "text_to_image/", ks),
    )


def _ranks(candidates: Candidates, device: torch.device) -> tuple[PairRanks, PairRanks]:
    """Return the ranks of all correct pairs; the ranks of the process group divide the work."""
    if device.type != "cuda":
        device = torch.device("cpu")  # other devices lack fp64
    tensors = (candidates.images, candidates.texts, candidates.pairs)
    images, texts, pairs = (tensor.to(device) for tensor in tensors)
    return pair_ranks(images, texts, pairs, over_ranks=True)


def _by_group(
    candidates: Candidates,
    groups: QueryGroups,
    parts: Sequence[Outcomes],
    ks: Sequence[int],
    device: torch.device,
) -> list[Outcomes]:
    """Return the recall of each group of queries in both directions.

    If captions have groups, the candidates of an image are the captions of one group, such as those
    in one language.
    """
    of_texts = [groups.captions[row] for row in candidates.caption_rows.tolist()]
    text_part = worst_group_outcomes(recalls_of(parts[1]), of_texts, parts[1])
    if groups.images is not None:
        return [worst_group_outcomes(recalls_of(parts[0]), groups.images, parts[0]), text_part]
    prefix, images = parts[0].prefix, candidates.image_keys
    of_names: dict[str, Outcomes] = {}
    for name in sorted(set(of_texts)):
        inside = torch.tensor([group == name for group in of_texts])
        pairs = candidates.pairs[inside[candidates.pairs[:, 1]]]
        rows = torch.stack([pairs[:, 0], (inside.cumsum(0) - 1)[pairs[:, 1]]], 1)
        of_group = replace(candidates, texts=candidates.texts[inside], pairs=rows)
        ranks, _ = _ranks(of_group, device)
        of_names[name] = retrieval_outcomes(ranks, images, images, prefix, ks)
    units = Outcomes(
        "means",
        tuple(f"{key}@{name}" for name, part in of_names.items() for key in part.keys),
        tuple(group for part in of_names.values() for group in part.groups),
        {},
        prefix,
    )
    recalls = {
        column: torch.cat([part.columns[column] for part in of_names.values()])
        for column in recalls_of(parts[0])
    }
    attributes = [name for name, part in of_names.items() for _ in part.keys]
    return [worst_group_outcomes(recalls, attributes, units), text_part]
