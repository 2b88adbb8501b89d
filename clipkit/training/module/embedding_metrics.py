"""Recall and health of the embeddings of a validation."""

from __future__ import annotations

from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.embedding_health import health_metrics
from clipkit.metrics import RetrievalMetrics
from clipkit.metrics.retrieval import DIRECTIONS, GatheredPairs
from clipkit.types import Batch, Embeddings

_CPU: Final = torch.device("cpu")


@final
class EmbeddingMetrics:
    """Collects the embeddings of validation batches, and measures them over all ranks.

    Args:
        num_pairs: Largest number of pairs that are measured; 0 for no measurement. The memory of a
            rank holds at most twice as many embeddings.
    """

    def __init__(self, num_pairs: int) -> None:
        self._metric = RetrievalMetrics(limit=num_pairs) if num_pairs else None

    def add(self, embeddings: Embeddings, batch: Batch) -> None:
        """Add the pairs of a batch; batches without ids of samples are left out.

        Pairs whose image and caption do not belong together are left out too.
        """
        if self._metric is None or batch.sample_ids is None or not len(embeddings.image):
            return
        device = _exact_device(embeddings.image.device)
        image = embeddings.image.to(device)
        text = image[:0] if embeddings.text is None else embeddings.text.to(device)
        ids = batch.sample_ids.to(device)
        groups = None if batch.groups is None else batch.groups.to(device)
        if batch.pair_mask is not None and len(text):
            mask = batch.pair_mask.to(device)
            image, text, ids = image[mask], text[mask], ids[mask]
            groups = None if groups is None else groups[mask]
        owner = torch.arange(len(text), device=device)
        self._metric.update(image, text, ids, owner, groups)

    def result(self, device: torch.device) -> dict[str, Float[Tensor, ""]]:
        """Return the metrics of all batches so far, and forget the batches.

        Every rank calls this, and gets the same values. Batches without captions give the health of
        the images alone. Values of embeddings that are not finite are NaN.

        Args:
            device: Device of the rank.

        Returns:
            ``text_to_image/recall_at_K``, ``text_to_image/median_rank`` and so on,
            ``retrieval_candidates`` (the number of pairs), and the measures of ``health_metrics``
            as ``health/NAME``. Empty if there are no pairs.
        """
        if self._metric is None:
            return {}
        self._metric.to(_exact_device(device))
        if not len(self._metric.gathered("ids")):
            return {}
        pairs = self._metric.pairs()
        self._metric.reset()
        values = _recall_and_health(self._metric, pairs)
        values["retrieval_candidates"] = float(len(pairs.image))
        return {name: torch.tensor(value, device=device) for name, value in values.items()}


def _recall_and_health(metric: RetrievalMetrics, pairs: GatheredPairs) -> dict[str, float]:
    if not (pairs.image.isfinite().all() and pairs.text.isfinite().all()):
        # The keys stay: a monitored metric that is missing would end the run.
        directions = DIRECTIONS if len(pairs.text) else ()
        names = (*(f"recall_at_{k}" for k in metric.ks), "median_rank", "mean_rank")
        return {f"{way}/{name}": torch.nan for way in directions for name in names}
    health = health_metrics(pairs.image, pairs.text, pairs.text_to_image)
    values = {f"health/{name}": value for name, value in health.items()}
    if len(pairs.text):
        values |= {name: float(value) for name, value in metric.measure(pairs).items()}
    return values


def _exact_device(device: torch.device) -> torch.device:
    """Return the device for embeddings: the CPU instead of one without fp64."""
    return _CPU if device.type == "mps" else device
