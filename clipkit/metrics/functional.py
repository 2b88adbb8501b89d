"""Retrieval and classification metrics as pure functions.

A tie is never a win: a candidate with the score of the correct one ranks before it. A model that
maps everything to one point therefore gets 0, in any order of the candidates, and NaN raises.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.ranking import pair_ranks
from clipkit.types import IGNORE_LABEL


@torch.no_grad()
def retrieval_recall(
    image: Float[Tensor, "images D"],
    text: Float[Tensor, "texts D"],
    text_to_image: Int64[Tensor, " texts"],
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int | None = None,
    over_ranks: bool = False,
) -> dict[str, float]:
    """Compute recall at k, from images to texts and from texts to images.

    An image with several texts counts as retrieved if one of them is among the k best. Images
    without a text are candidates but not queries.

    Args:
        image: Unit-norm embeddings of distinct images.
        text: Unit-norm embeddings of texts.
        text_to_image: Row of the image of each text.
        ks: Numbers of best candidates that are considered.
        chunk_size: Rows and columns of the similarities held at a time; None for 1,024, and
            for 4,096 on a GPU.
        over_ranks: Whether the ranks of the process group divide the work. All of them then call
            this function with the same arguments and get the same recall.

    Returns:
        ``image_to_text/recall_at_K`` and ``text_to_image/recall_at_K`` for each K, 0 to 1.

    Raises:
        MetricError: If an embedding is NaN or infinite, or the shapes do not fit.

    Examples:
        >>> one = torch.eye(4)
        >>> retrieval_recall(one, one, torch.arange(4), ks=(1,))
        {'image_to_text/recall_at_1': 1.0, 'text_to_image/recall_at_1': 1.0}
    """
    of_images, of_texts = retrieval_ranks(image, text, text_to_image, chunk_size, over_ranks)
    of_images = of_images[torch.unique(text_to_image)]
    scores: dict[str, float] = {}
    for direction, ranks in (("image_to_text", of_images), ("text_to_image", of_texts)):
        scores |= {f"{direction}/recall_at_{k}": _share(ranks < k) for k in checked_ks(ks)}
    return scores


@torch.no_grad()
def retrieval_ranks(
    image: Float[Tensor, "images D"],
    text: Float[Tensor, "texts D"],
    text_to_image: Int64[Tensor, " texts"],
    chunk_size: int | None = None,
    over_ranks: bool = False,
) -> tuple[Int64[Tensor, " images"], Int64[Tensor, " texts"]]:
    """Compute the rank of the best correct candidate of each image and of each text.

    ``pair_ranks`` has more than one correct image for a text, and all correct candidates.

    Args:
        image: Unit-norm embeddings of distinct images.
        text: Unit-norm embeddings of texts.
        text_to_image: Row of the image of each text.
        chunk_size: Rows and columns of the similarities held at a time; None for 1,024, and
            for 4,096 on a GPU.
        over_ranks: Whether the ranks of the process group divide the work. All of them then call
            this function with the same arguments and get the same ranks.

    Returns:
        The number of incorrect candidates that score at least as high: for each image over texts
        (the number of texts if it has none), and for each text over images.

    Raises:
        MetricError: If an embedding is NaN or infinite, or the shapes do not fit.
    """
    if text_to_image.shape != text.shape[:1]:
        raise MetricError(
            f"text_to_image: expected one entry per text, got {list(image.shape)}, "
            f"{list(text.shape)} and {list(text_to_image.shape)}"
        )
    pairs = torch.stack([text_to_image, torch.arange(len(text), device=text_to_image.device)], 1)
    of_images, of_texts = pair_ranks(image, text, pairs, chunk_size, over_ranks)
    ranks = torch.full((len(image),), len(text), dtype=torch.int64, device=image.device)
    is_best = of_images.correct == 0
    ranks[of_images.query[is_best]] = of_images.incorrect[is_best]
    return ranks, of_texts.incorrect


@torch.no_grad()
def label_ranks(scores: Float[Tensor, "B C"], labels: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Count the incorrect classes that score at least as high as the correct one, per sample.

    Raises:
        MetricError: If a score is NaN, or a label has no column.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise MetricError(
            f"scores and labels: expected [B C] and [B], "
            f"got {list(scores.shape)} and {list(labels.shape)}"
        )
    if scores.isnan().any():
        raise MetricError("scores: expected numbers, got NaN")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise MetricError(
            f"labels: expected 0 to {scores.shape[1] - 1}, "
            f"got {int(labels.min())} to {int(labels.max())}"
        )
    return (scores >= scores.gather(1, labels[:, None])).sum(1) - 1


def topk_accuracy(
    scores: Float[Tensor, "B C"], labels: Int64[Tensor, " B"], ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Compute how often the correct class is among the k best.

    Args:
        scores: Score of each class, on any scale.
        labels: Class indices; samples with ``IGNORE_LABEL`` are skipped.
        ks: Numbers of best classes that are considered; those above C are skipped.

    Returns:
        ``topK`` for each K, 0 to 1.

    Raises:
        MetricError: If a score is NaN, a label has no column, or no sample has a label.

    Examples:
        >>> topk_accuracy(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([2]), ks=(1, 2))
        {'top1': 0.0, 'top2': 1.0}
    """
    ranks, _ = _labelled_ranks(scores, labels)
    return {f"top{k}": _share(ranks < k) for k in checked_ks(ks) if k <= scores.shape[1]}


def mean_per_class_recall(scores: Float[Tensor, "B C"], labels: Int64[Tensor, " B"]) -> float:
    """Compute the top-1 accuracy of each class, averaged over the classes that occur.

    Args:
        scores: Score of each class, on any scale.
        labels: Class indices; samples with ``IGNORE_LABEL`` are skipped.

    Raises:
        MetricError: If a score is NaN, a label has no column, or no sample has a label.

    Examples:
        >>> mean_per_class_recall(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 0, 2]))
        0.5
    """
    return recall_by_class(*_labelled_ranks(scores, labels))


def classification_accuracy(
    scores: Float[Tensor, "B C"], labels: Int64[Tensor, " B"], ks: Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Compute ``topk_accuracy`` and ``mean_per_class_recall``.

    Args:
        scores: Score of each class, on any scale.
        labels: Class indices; samples with ``IGNORE_LABEL`` are skipped.
        ks: Numbers of best classes that are considered; those above C are skipped.

    Returns:
        ``topK`` for each K, and ``mean_per_class_recall``.

    Raises:
        MetricError: If a score is NaN, a label has no column, or no sample has a label.
    """
    mean = mean_per_class_recall(scores, labels)
    return {**topk_accuracy(scores, labels, ks), "mean_per_class_recall": mean}


def recall_by_class(ranks: Int64[Tensor, " B"], labels: Int64[Tensor, " B"]) -> float:
    """Compute the share of rank 0 in each class, averaged over the classes that occur.

    Raises:
        MetricError: If there is no sample.
    """
    if not len(labels):
        raise MetricError("labels: expected at least one sample with a label, got none")
    _, number, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    hits = torch.zeros_like(sizes).index_add_(0, number, (ranks == 0).to(sizes))
    return float((hits.double() / sizes).mean())


def first_of_each(ids: Int64[Tensor, " N"]) -> Int64[Tensor, " distinct"]:
    """Return the position of the first occurrence of every id, ascending.

    It removes the samples that a sampler has repeated.

    Examples:
        >>> first_of_each(torch.tensor([5, 3, 5, 4])).tolist()
        [0, 1, 3]
    """
    _, number = torch.unique(ids, return_inverse=True)
    first = torch.full((int(number.max()) + 1 if len(ids) else 0,), len(ids), device=ids.device)
    positions = torch.arange(len(ids), device=ids.device)
    return first.scatter_reduce(0, number, positions, "amin").sort().values


def _labelled_ranks(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    labelled = labels != IGNORE_LABEL
    return label_ranks(scores[labelled], labels[labelled]), labels[labelled]


def checked_ks(ks: Sequence[int]) -> Sequence[int]:
    """Refuse numbers of candidates below 1."""
    if not ks or min(ks) < 1:
        raise MetricError(f"ks: expected positive numbers, got {list(ks)}")
    return ks


def _share(hits: Tensor) -> float:
    if not len(hits):
        raise MetricError("expected at least one sample to score, got none")
    return float(hits.double().mean())
