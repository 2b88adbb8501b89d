"""Recall over a complete validation set, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.errors import MetricError, check_at_least
from clipkit.metrics.functional import first_of_each
from clipkit.metrics.query_values import query_measures
from clipkit.metrics.ranking import pair_ranks
from clipkit.metrics.states import GatheredMetric, gather_chunks

DIRECTIONS: Final = ("image_to_text", "text_to_image")
_MAX_PAIRS: Final = 2**22
_OF_IMAGES: Final = ("image", "ids", "groups")
_OF_TEXTS: Final = ("text", "owners", "ordinals")


@dataclass(frozen=True, slots=True)
class GatheredPairs:
    """Distinct images and texts of all ranks, and which of them match.

    Args:
        image: Embeddings of the N images.
        text: Embeddings of the M texts.
        text_to_image: Row of the image of each text.
        groups: Group of each image: its texts match all images of the group. Negative for none.
    """

    image: Float[Tensor, "N D"]
    text: Float[Tensor, "texts D"]
    text_to_image: Int64[Tensor, " texts"]
    groups: Int64[Tensor, " N"]


@final
class RetrievalMetrics(GatheredMetric):
    """Recall at k, from images to texts and from texts to images, exact over ranks.

    Embeddings are kept until ``compute``. An image that a sampler has repeated to fill the last
    batch counts once.

    Args:
        ks: Numbers of best candidates that are considered.
        limit: Largest number of images that are kept with their texts; None for all. The same
            images are selected, evenly over their ids, for any number of ranks and any batch size.

    Examples:
        >>> metric = RetrievalMetrics(ks=(1,))
        >>> metric.update(torch.eye(4), torch.eye(4), torch.arange(4))
        >>> metric.compute()
        {'image_to_text/recall_at_1': tensor(1.), 'text_to_image/recall_at_1': tensor(1.)}
    """

    image: list[Tensor]
    text: list[Tensor]
    ids: list[Tensor]
    groups: list[Tensor]
    owners: list[Tensor]
    ordinals: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10), limit: int | None = None) -> None:
        check_at_least("RetrievalMetrics.limit", limit, 1)
        super().__init__(ks, (*_OF_IMAGES, *_OF_TEXTS))
        self.limit = limit

    def update(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "texts D"],
        ids: Int64[Tensor, " B"],
        text_to_image: Int64[Tensor, " texts"] | None = None,
        groups: Int64[Tensor, " B"] | None = None,
    ) -> None:
        """Add images together with all of their texts.

        Args:
            image: Unit-norm embeddings of the images.
            text: Unit-norm embeddings of the texts.
            ids: Ids of the images that are unique over all ranks: ``batch.sample_ids``.
            text_to_image: Row of the image of each text; None if text i belongs to image i.
            groups: Group of each image, such as ``batch.groups``: all images and texts with the
                same number match, also over ranks; a negative number is no group. None for no
                groups.

        Raises:
            MetricError: If the lengths do not fit.
        """
        owner = torch.arange(len(image), device=image.device)
        owner = owner if text_to_image is None else text_to_image
        groups = torch.full_like(ids, -1) if groups is None else groups
        if len(ids) != len(image) or len(owner) != len(text) or len(groups) != len(ids):
            raise MetricError(
                f"ids, text_to_image and groups: expected {len(image)}, {len(text)} and "
                f"{len(image)} entries, got {len(ids)}, {len(owner)} and {len(groups)}"
            )
        self.image.append(image.detach().float())
        self.text.append(text.detach().float())
        self.ids.append(ids)
        self.groups.append(groups)
        self.owners.append(ids[owner])
        self.ordinals.append(_ordinals(owner))
        if self.limit is not None and sum(map(len, self.ids)) > 2 * self.limit:
            kept = _spread(torch.unique(torch.cat(self.ids)), self.limit)
            for name, chunks in self._selected(kept).items():
                setattr(self, name, chunks)

    def compute(self) -> dict[str, Tensor]:
        """Compute the recall of everything added on all ranks."""
        measures = self.measure(self.pairs())
        return {name: value for name, value in measures.items() if "/recall_at_" in name}

    def pairs(self) -> GatheredPairs:
        """Return the images and texts of all ranks, the same on every rank.

        Raises:
            MetricError: If no rank has any.
        """
        ids, groups = self.gathered("ids"), self.gathered("groups")
        if not len(ids):
            raise MetricError("RetrievalMetrics: expected an update before compute, got none")
        kept = self._selected(self._kept(ids, groups))

        def gathered(name: str, dtype: torch.dtype = torch.int64) -> Tensor:
            return gather_chunks(kept[name], dtype, self.device)

        ids = gathered("ids")
        images = first_of_each(ids)
        ascending, order = ids[images].sort()
        rows = order[torch.searchsorted(ascending, gathered("owners"))]
        ordinals = gathered("ordinals")
        most = int(ordinals.max()) + 1 if len(ordinals) else 1
        texts = first_of_each(rows * most + ordinals)
        return GatheredPairs(
            gathered("image", torch.float32)[images],
            gathered("text", torch.float32)[texts],
            rows[texts],
            gathered("groups")[images],
        )

    def measure(self, pairs: GatheredPairs) -> dict[str, Tensor]:
        """Compute recall at each k, and median and mean rank from 1, in both directions.

        Every rank calls this with the same pairs.
        """
        correct = _correct_pairs(pairs)
        both = pair_ranks(pairs.image, pairs.text, correct, over_ranks=True)
        measures = dict[str, Tensor]()
        for direction, ranks in zip(DIRECTIONS, both, strict=True):
            _, values = query_measures(ranks, self.ks)
            rank = values["rank"].double() + 1
            means = {f"recall_at_{k}": values[f"recall_at_{k}"].mean() for k in self.ks}
            means |= {"median_rank": rank.quantile(0.5), "mean_rank": rank.mean()}
            measures |= {f"{direction}/{name}": value.float() for name, value in means.items()}
        return measures

    def _kept(
        self, ids: Int64[Tensor, " N"], groups: Int64[Tensor, " N"]
    ) -> Int64[Tensor, " kept"]:
        """Return the ids of the images of all ranks that are measured."""
        ids, number = torch.unique(ids, return_inverse=True)
        groups = torch.empty_like(ids).scatter_(0, number, groups)
        kept = _spread(ids, self.limit)
        # The number of correct pairs grows with the square of the size of a group.
        while len(kept) > 1 and _num_pairs(groups[torch.isin(ids, kept)]) > _MAX_PAIRS:
            kept = kept[: len(kept) // 2]
        return kept

    def _selected(self, kept: Int64[Tensor, " kept"]) -> dict[str, list[Tensor]]:
        """Return the states of these images, of this rank."""
        states: dict[str, list[Tensor]] = {}
        for names, key in ((_OF_IMAGES, "ids"), (_OF_TEXTS, "owners")):
            masks: list[Bool[Tensor, " B"]]
            masks = [torch.isin(chunk, kept) for chunk in getattr(self, key)]
            for name in names:
                chunks = zip(getattr(self, name), masks, strict=True)
                rows = [chunk[mask] for chunk, mask in chunks]
                states[name] = [torch.cat(rows)] if rows else []
        return states


def _spread(ids: Int64[Tensor, " N"], limit: int | None) -> Int64[Tensor, " N"]:
    """Return ids in an order that depends on them alone, up to a limit, which spreads them evenly.

    Examples:
        >>> sorted(_spread(torch.arange(100), 5).tolist())
        [0, 10, 19, 23, 66]
    """
    mixed = (ids & 0x7FFFFFFF) * 2654435761 & 0xFFFFFFFF  # multiplicative hash of Knuth
    mixed = (mixed ^ mixed >> 16) * 73244475 & 0xFFFFFFFF
    return ids[(mixed ^ mixed >> 16).argsort(stable=True)[:limit]]


def _num_pairs(groups: Int64[Tensor, " N"]) -> int:
    """Return the number of correct pairs of images with one text each."""
    _, sizes = torch.unique(groups[groups >= 0], return_counts=True)
    return int(sizes.square().sum()) + int((groups < 0).sum())


def _correct_pairs(pairs: GatheredPairs) -> Int64[Tensor, "pairs 2"]:
    """Return row of image and row of text of all correct pairs, those of groups included."""
    rows = torch.arange(len(pairs.image), device=pairs.image.device)
    _, group = torch.unique(
        torch.where(pairs.groups < 0, -1 - rows, pairs.groups), return_inverse=True
    )
    sizes = torch.bincount(group)
    by_group = group.argsort(stable=True)
    starts = sizes.cumsum(0) - sizes
    of_text = group[pairs.text_to_image]
    counts = sizes[of_text]
    text = torch.arange(len(of_text), device=rows.device).repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    place = torch.arange(len(text), device=rows.device) - first
    return torch.stack([by_group[starts[of_text][text] + place], text], 1)


def _ordinals(owner: Int64[Tensor, " texts"]) -> Int64[Tensor, " texts"]:
    """Return the number of each text among the texts of its image, from 0."""
    order = owner.sort(stable=True).indices
    _, sizes = torch.unique(owner, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ordinals = torch.empty_like(owner)
    ordinals[order] = torch.arange(len(owner), device=owner.device) - starts
    return ordinals
