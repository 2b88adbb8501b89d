"""Recall over a complete validation set, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.functional import first_of_each, retrieval_recall
from clipkit.metrics.states import GatheredMetric


@final
class RetrievalMetrics(GatheredMetric):
    """Recall at k, from images to texts and from texts to images, exact over ranks.

    Embeddings are kept until ``compute``. An image that a sampler has repeated to fill the last
    batch counts once.

    Args:
        ks: Numbers of best candidates that are considered.

    Examples:
        >>> metric = RetrievalMetrics(ks=(1,))
        >>> metric.update(torch.eye(4), torch.eye(4), torch.arange(4))
        >>> metric.compute()
        {'image_to_text/recall_at_1': tensor(1.), 'text_to_image/recall_at_1': tensor(1.)}
    """

    image: list[Tensor]
    text: list[Tensor]
    ids: list[Tensor]
    owners: list[Tensor]
    ordinals: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__(ks, ("image", "text", "ids", "owners", "ordinals"))

    def update(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "texts D"],
        ids: Int64[Tensor, " B"],
        text_to_image: Int64[Tensor, " texts"] | None = None,
    ) -> None:
        """Add images together with all of their texts.

        Args:
            image: Unit-norm embeddings of the images.
            text: Unit-norm embeddings of the texts.
            ids: Ids of the images that are unique over all ranks: ``batch.sample_ids``.
            text_to_image: Row of the image of each text; None if text i belongs to image i.

        Raises:
            MetricError: If the lengths do not fit.
        """
        owner = torch.arange(len(image), device=image.device)
        owner = owner if text_to_image is None else text_to_image
        if len(ids) != len(image) or len(owner) != len(text):
            raise MetricError(
                f"ids and text_to_image: expected {len(image)} and {len(text)} entries, "
                f"got {len(ids)} and {len(owner)}"
            )
        self.image.append(image.detach().float())
        self.text.append(text.detach().float())
        self.ids.append(ids)
        self.owners.append(ids[owner])
        self.ordinals.append(_ordinals(owner))

    def compute(self) -> dict[str, Tensor]:
        """Compute ``retrieval_recall`` of everything added on all ranks."""
        image, text = (self.gathered(state, torch.float32) for state in ("image", "text"))
        if not len(image):
            raise MetricError("RetrievalMetrics: expected an update before compute, got none")
        ids, owners, ordinals = map(self.gathered, ("ids", "owners", "ordinals"))
        images = first_of_each(ids)
        ascending, order = ids[images].sort()
        rows = order[torch.searchsorted(ascending, owners)]
        texts = first_of_each(rows * (int(ordinals.max()) + 1) + ordinals)
        recalls = retrieval_recall(image[images], text[texts], rows[texts], self.ks)
        return {name: torch.tensor(value, device=image.device) for name, value in recalls.items()}


def _ordinals(owner: Int64[Tensor, " texts"]) -> Int64[Tensor, " texts"]:
    """Return the number of each text among the texts of its image, from 0."""
    order = owner.sort(stable=True).indices
    _, sizes = torch.unique(owner, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ordinals = torch.empty_like(owner)
    ordinals[order] = torch.arange(len(owner), device=owner.device) - starts
    return ordinals
