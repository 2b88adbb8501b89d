"""Zero-shot retrieval between every two modalities, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast, final

from clipkit.data.modalities.field import ModalityField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.embedding import EmbeddedPairs, embed_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.retrieval_outcomes import pair_outcomes
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.modality_embedding import (
    EmbeddedModalities,
    captions_of_samples,
    embed_modalities,
    has_further,
)
from clipkit.evaluation.modality_pairs import ModalityPair, image_text_pair, modality_pairs
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.query_groups import QueryGroups, read_query_groups
from clipkit.models import DualEncoder, TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class Retrieval(Evaluator):
    """Retrieval from images to captions and from captions to images, or between all modalities.

    An image may have several captions, and a caption several images. A query counts as found at k
    if any of its correct candidates is among the first k (the convention of CLIP-like papers and of
    CLIP_benchmark).

    With a ``MultimodalEncoder``, or a ``JointEncoder`` with further towers, every ordered pair of
    its modalities is measured, such as ``sound_to_text/recall_at_1``. Each pair is over the samples
    that have both, whose number is in the details of the result: ``image_and_sound/num_samples``
    and ``.../num_left_out``.

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
        fields: Fields that read further modalities, as in ``data.samples.fields``. Sounds need
            none; a modality that nothing reads is left out, with a warning.

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
        fields: Sequence[ModalityField] = (),
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
        self.tokenizer = tokenizer
        self.options = options
        self.correct = correct
        self.fields = tuple(fields)

    def embed(self, encoder: DualEncoder) -> EmbeddedPairs:
        """Return the embeddings of images and captions that ``run`` measures.

        Raises:
            DataError: If an image has no caption.
        """
        pairs = embed_pairs(encoder, self.data, self.options, self.tokenizer)
        without_caption = set(range(len(pairs.keys))) - set(pairs.text_to_image.tolist())
        if without_caption:
            raise DataError(
                f"{self.data.name}: {len(without_caption)} of {len(pairs.keys)} images have no "
                f"caption (first: {pairs.keys[min(without_caption)]}): {self.data.caption.source} "
                f"is missing or empty; retrieval needs captions in every sample"
            )
        return pairs

    def embed_all(self, encoder: NamedTowerEncoder) -> EmbeddedModalities:
        """Return the embeddings of all modalities that ``run`` measures."""
        return embed_modalities(encoder, self.data, self.options, self.fields, self.tokenizer)

    def run(self, encoder: DualEncoder | NamedTowerEncoder) -> dict[str, float]:
        """Return the metrics of both directions of each pair.

        The recall of truncated embeddings, at the first k, is
        ``width_W/image_to_text/recall_at_K``.

        Raises:
            ConfigError: If a width exceeds that of the embeddings.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder | NamedTowerEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image and caption; see ``run``."""
        if max(self.widths, default=0) > encoder.embedding_dim:
            raise ConfigError(
                f"widths: expected at most the {encoder.embedding_dim} components of the "
                f"embeddings, got {max(self.widths)}"
            )
        device = encoder.log_logit_scale.device
        outcomes, details = list[Outcomes](), dict[str, float]()
        for pair in self.pairs(encoder):
            outcomes += pair_outcomes(pair, self.ks, self.widths, device)
            if has_further(encoder):
                name = f"{pair.first}_and_{pair.second}"
                details[f"{name}/num_samples"] = len(pair.samples)
                details[f"{name}/num_left_out"] = pair.num_left_out
        metrics = {name: v for part in outcomes for name, v in outcome_metrics(part).items()}
        return Evaluation(metrics, tuple(outcomes), details)

    def pairs(self, encoder: DualEncoder | NamedTowerEncoder) -> list[ModalityPair]:
        """Return what ``run`` compares: images and texts, or each two modalities.

        Raises:
            DataError: If an image has no caption, or no sample has two modalities.
        """
        is_complete = self.options.limit is None
        if has_further(encoder):
            every = self.embed_all(encoder)
            groups = self._groups(encoder, captions_of_samples(every))
            return modality_pairs(every, self.correct, is_complete, groups)
        embedded = self.embed(cast(DualEncoder, encoder))  # these two are used alike
        groups = self._groups(encoder, embedded)
        return [image_text_pair(embedded, self.correct, is_complete, groups)]

    def _groups(self, encoder: TowerEncoder, embedded: EmbeddedPairs) -> QueryGroups | None:
        field, device = self.correct.group_field, encoder.log_logit_scale.device
        if field is None:
            return None
        return read_query_groups(self.data, embedded, field, self.options, device)
