"""How well images and captions fit: the distribution of scores, and the pairs that fit least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.collection import Collection, ShardFiles, pair_scores
from clipkit.evaluation.report.content import SimilarityHistogram

OnRows = Callable[[int, int], None]
Scores = Sequence[Float32[np.ndarray, " texts"]]
"""Scores of the captions of each shard."""

QUANTILES: Final = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_POOL_ROWS: Final = 4096
"""Images that other captions are compared with, selected at random."""
_BIN_WIDTH: Final = 0.01
_BINS: Final = 200
_TEXT_ROWS: Final = 8192
_IMAGE_ROWS: Final = 16_384


@dataclass(frozen=True, slots=True)
class MismatchedPair:
    """A caption that does not fit its image.

    Args:
        row: Row of the sample.
        caption: Number of the caption in the sample.
        score: Cosine similarity of the caption and its image.
        num_better_images: Number of images that fit the caption better than its own.
        best_row: Row of the image that fits the caption best, of all others.
        best_score: Cosine similarity of the caption and that image.
    """

    row: int
    caption: int
    score: float
    num_better_images: int
    best_row: int
    best_score: float


@dataclass(frozen=True, slots=True)
class PairFacts:
    """Scores of the pairs of a data set.

    Args:
        num_pairs: Number of captions of images with an embedding.
        quantiles: Scores of the pairs at ``QUANTILES``.
        random_quantiles: Scores of the captions with images selected at random.
        histogram: Shares of both kinds of scores by their value.
        share_below_random: Share of the pairs whose score is below the median of random pairs.
        mismatched: The pairs with the lowest scores, one per sample, the lowest first.
    """

    num_pairs: int
    quantiles: tuple[float, ...]
    random_quantiles: tuple[float, ...]
    histogram: SimilarityHistogram
    share_below_random: float
    mismatched: tuple[MismatchedPair, ...]

    @property
    def estimated_mismatched_share(self) -> float:
        """Share of mismatched pairs if they score as random pairs do, and all others higher.

        Then half of the mismatched pairs, and no other, are below the median of random pairs.
        """
        return min(1.0, 2 * self.share_below_random)


def pair_facts(
    collection: Collection,
    scores: Scores,
    num_mismatched: int,
    seed: int = 0,
    on_rows: OnRows | None = None,
) -> PairFacts | None:
    """Compare the scores of pairs with those of random pairs, and find the lowest ones.

    Args:
        collection: A collection with embeddings of captions.
        scores: Scores of the captions of each shard, by ``pair_scores``.
        num_mismatched: Number of pairs with the lowest scores that are returned.
        seed: Seed of the random pairs.
        on_rows: Called after each tile of images with the numbers of completed rows and of all
            rows; None for no call.

    Returns:
        The facts; None if no image with an embedding has a caption, or there is only one image.

    Raises:
        DataError: If a file of the collection is missing or damaged.
    """
    embedded = collection.embedded_rows()
    valid = np.concatenate([each[~np.isnan(each)] for each in scores])
    if not len(valid) or embedded.sum() < 2:
        return None
    others = _random_scores(collection, embedded, seed)
    lowest = _lowest_pairs(collection, scores, num_mismatched)
    median = float(np.median(others))
    return PairFacts(
        num_pairs=len(valid),
        quantiles=tuple(map(float, np.quantile(valid, QUANTILES))),
        random_quantiles=tuple(map(float, np.quantile(others, QUANTILES))),
        histogram=_histogram(valid, others),
        share_below_random=float(np.mean(valid < median)),
        mismatched=_compared(collection, lowest, embedded, on_rows),
    )


def scores_by_shard(collection: Collection, on_rows: OnRows | None = None) -> Scores:
    """Return the scores of the captions of each shard; see ``pair_scores``."""
    scores = []
    for files, end in zip(collection.shards, collection.starts[1:], strict=True):
        scores.append(pair_scores(files))
        if on_rows is not None:
            on_rows(int(end), len(collection))
    return scores


def _random_scores(
    collection: Collection, embedded: Bool[np.ndarray, " N"], seed: int
) -> Float32[np.ndarray, " texts"]:
    """Return the score of each caption with an image of another sample."""
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(embedded)
    rows = np.sort(rng.choice(usable, min(_POOL_ROWS, len(usable)), replace=False))
    pool = collection.images(rows).astype(np.float32)
    found = []
    for start, files in zip(collection.starts, collection.shards, strict=False):
        owners = caption_owners(files) + start
        texts = files.texts()
        for first in range(0, len(texts), _TEXT_ROWS):
            own = owners[first : first + _TEXT_ROWS]
            place = rng.integers(len(rows), size=len(own))
            place = np.where(rows[place] == own, (place + 1) % len(rows), place)
            part = texts[first : first + _TEXT_ROWS].astype(np.float32)
            found.append(np.einsum("md,md->m", pool[place], part)[embedded[own]])
    others: Float32[np.ndarray, " texts"] = np.concatenate(found)
    scores: Float32[np.ndarray, " texts"] = others[~np.isnan(others)]
    return scores


def caption_owners(files: ShardFiles) -> Int64[np.ndarray, " texts"]:
    """Return the position in the shard of the sample of each caption."""
    starts = files.text_starts()
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


@dataclass(frozen=True, slots=True)
class _LowPair:
    score: float
    row: int
    caption: int
    text: Float32[np.ndarray, " D"]


def _lowest_pairs(collection: Collection, scores: Scores, num_pairs: int) -> list[_LowPair]:
    """Return the pairs with the lowest scores, at most one per sample."""
    lowest: list[_LowPair] = []
    for start, files, of_shard in zip(collection.starts, collection.shards, scores, strict=False):
        owners, starts, texts = caption_owners(files), files.text_starts(), files.texts()
        order = np.argsort(of_shard, kind="stable")[: np.count_nonzero(~np.isnan(of_shard))]
        firsts = np.sort(np.unique(owners[order], return_index=True)[1])[:num_pairs]
        lowest += [
            _LowPair(
                float(of_shard[at]),
                int(start + owners[at]),
                int(at - starts[owners[at]]),
                texts[at].astype(np.float32),
            )
            for at in order[firsts].tolist()
        ]
        lowest = sorted(lowest, key=lambda pair: (pair.score, pair.row))[:num_pairs]
    return lowest


def _compared(
    collection: Collection,
    pairs: list[_LowPair],
    embedded: Bool[np.ndarray, " N"],
    on_rows: OnRows | None,
) -> tuple[MismatchedPair, ...]:
    """Compare the captions of the pairs with all images, in tiles."""
    texts = np.stack([pair.text for pair in pairs])
    scores = np.array([pair.score for pair in pairs], dtype=np.float32)
    own = np.array([pair.row for pair in pairs])
    num_better = np.zeros(len(pairs), dtype=np.int64)
    best = np.full(len(pairs), -np.inf, dtype=np.float32)
    best_rows = np.zeros(len(pairs), dtype=np.int64)
    for first, images in collection.image_tiles(_IMAGE_ROWS):
        products = texts @ images.astype(np.float32).T
        products[:, ~embedded[first : first + len(images)]] = -np.inf
        products[np.isnan(products)] = -np.inf
        here = np.flatnonzero((own >= first) & (own < first + len(images)))
        products[here, own[here] - first] = -np.inf
        num_better += (products > scores[:, None]).sum(1)
        places = products.argmax(1)
        values = products[np.arange(len(pairs)), places]
        best_rows = np.where(values > best, places + first, best_rows)
        best = np.maximum(best, values)
        if on_rows is not None:
            on_rows(first + len(images), len(collection))
    return tuple(
        MismatchedPair(pair.row, pair.caption, pair.score, int(better), int(row), float(score))
        for pair, better, row, score in zip(pairs, num_better, best_rows, best, strict=True)
    )


def _histogram(
    scores: Float32[np.ndarray, " texts"], others: Float32[np.ndarray, " texts"]
) -> SimilarityHistogram:
    """Count both kinds of scores in bins of 0.01, from the lowest to the highest value."""
    edges = np.round(np.arange(-_BINS // 2, _BINS // 2 + 1) * _BIN_WIDTH, 2)
    counts = [np.histogram(np.clip(each, -1, 1), edges)[0] for each in (scores, others)]
    filled = np.flatnonzero(counts[0] + counts[1])
    kept = slice(int(filled[0]), int(filled[-1]) + 1)
    shares = [(each[kept] / max(1, each.sum())).tolist() for each in counts]
    return SimilarityHistogram(edges[kept.start : kept.stop + 1].tolist(), *shares)
