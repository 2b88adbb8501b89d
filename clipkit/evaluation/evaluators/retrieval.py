"""Zero-shot retrieval in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch.nn.functional as F

from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.metrics.functional import retrieval_recall
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class Retrieval(Evaluator):
    """Recall at k from images to captions and from captions to images.

    An image may have several captions. It counts as found if any of them is among the first k (the
    convention of CLIP-like papers and of CLIP_benchmark).

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with captions.
        tokenizer: Tokenizer for the captions; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        ks: Depths at which recall is measured.
        widths: Also measure embeddings truncated to their first components, for each of these
            numbers of components, at the first of ``ks``; see ``clipkit.losses.MatryoshkaLoss``.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
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
    ) -> None:
        if any(width < 1 for width in widths):
            raise ConfigError(f"widths: expected numbers of at least 1, got {list(widths)}")
        self.data = as_dataset(data, split)
        self.ks, self.widths = tuple(ks), tuple(widths)
        self.primary_metric = f"text_to_image/recall_at_{min(self.ks, default=1)}"
        self._tokenizer = tokenizer
        self.options = options

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
        """Return the recall at each k in both directions.

        That of truncated embeddings, at the first k, is ``width_W/image_to_text/recall_at_K``.

        Raises:
            ConfigError: If a width exceeds that of the embeddings.
        """
        full = encoder.image_tower.embedding_dim
        if max(self.widths, default=0) > full:
            raise ConfigError(
                f"widths: expected at most the {full} components of the embeddings, got "
                f"{max(self.widths)}"
            )
        pairs = self.embed(encoder)
        recalls = retrieval_recall(pairs.images, pairs.texts, pairs.text_to_image, ks=self.ks)
        for width in self.widths:
            images, texts = (
                F.normalize(rows[:, :width].float(), dim=1) for rows in (pairs.images, pairs.texts)
            )
            of_width = retrieval_recall(images, texts, pairs.text_to_image, ks=self.ks[:1])
            recalls |= {f"width_{width}/{key}": value for key, value in of_width.items()}
        return recalls
