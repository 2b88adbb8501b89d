"""Recall over a whole validation set, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from clipkit.errors import MetricError
from clipkit.metrics.functional import first_of_each, retrieval_recall
from clipkit.metrics.states import gather_chunks


@final
class RetrievalMetrics(Metric):
    """Recall at k, from pictures to captions and back, exact over ranks.

    Embeddings are kept until :meth:`compute`. A picture that comes twice, because a sampler padded
    the last batch, counts once.

    Args:
        ks: Depths of the list of answers.

    Examples:
        >>> metric = RetrievalMetrics(ks=(1,))
        >>> metric.update(torch.eye(4), torch.eye(4), torch.arange(4))
        >>> metric.compute()
        {'image_to_text/recall_at_1': tensor(1.), 'text_to_image/recall_at_1': tensor(1.)}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    image: list[Tensor]
    text: list[Tensor]
    ids: list[Tensor]
    owners: list[Tensor]
    ordinals: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__(sync_on_compute=False)  # compute() gathers, empty ranks included
        if not ks or min(ks) < 1:
            raise MetricError(f"ks: expected positive numbers, got {list(ks)}")
        self.ks = tuple(ks)
        for name in ("image", "text", "ids", "owners", "ordinals"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "M D"],
        ids: Int64[Tensor, " B"],
        text_to_image: Int64[Tensor, " M"] | None = None,
    ) -> None:
        """Add pictures together with all of their captions.

        Args:
            image: Unit-norm embeddings.
            text: Unit-norm embeddings.
            ids: What tells one picture from another, over all ranks: ``batch.sample_ids``.
            text_to_image: For each caption, the row of its picture in ``image``; None: one each.

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
        """Recalls of everything that was added on all ranks; see ``retrieval_recall``."""
        image = gather_chunks(self.image, torch.float32, self.device)
        text = gather_chunks(self.text, torch.float32, self.device)
        if not len(image):
            raise MetricError("RetrievalMetrics: expected an update before compute, got none")
        ids, owners, ordinals = (
            gather_chunks(state, torch.int64, self.device)
            for state in (self.ids, self.owners, self.ordinals)
        )
        pictures = first_of_each(ids)
        known, order = ids[pictures].sort()
        rows = order[torch.searchsorted(known, owners)]
        captions = first_of_each(rows * (int(ordinals.max()) + 1) + ordinals)
        recalls = retrieval_recall(image[pictures], text[captions], rows[captions], self.ks)
        return {name: torch.tensor(value, device=image.device) for name, value in recalls.items()}


def _ordinals(owner: Int64[Tensor, " M"]) -> Int64[Tensor, " M"]:
    """Number the captions of each picture: 0 for its first, 1 for its second, and so on."""
    order = owner.sort(stable=True).indices
    _, sizes = torch.unique(owner, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ordinals = torch.empty_like(owner)
    ordinals[order] = torch.arange(len(owner), device=owner.device) - starts
    return ordinals
