"""What each cluster of images holds: size, words, classes, scores and typical images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float64, Int32, Int64

from clipkit.collection import Collection
from clipkit.curation.clusters import ImageClusters, WordCounts
from clipkit.curation.overview.caption_facts import CaptionCounter, CountedText
from clipkit.curation.overview.pair_facts import Scores, caption_owners
from clipkit.data.text.word_sets import words_of

OnRows = Callable[[int, int], None]

_ROWS_AT_ONCE: Final = 4096
_NUM_WORDS: Final = 8
_NUM_CLASSES: Final = 5
_NUM_NEAREST: Final = 6
_NUM_FARTHEST: Final = 3
_NO_LABEL: Final = -1
_EQUAL: Final = 1e-6
"""Images whose similarities to the centre differ by less are equal, or look equal."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Numbers of a cluster of images.

    Args:
        size: Number of images.
        mean_similarity: Mean cosine similarity of the images to the centre; the nearer to 1, the
            smaller the spread.
        least_similarity: Cosine similarity of the farthest image to the centre.
        mean_score: Mean cosine similarity of captions and images; None without captions.
        words: Words that are typical of the captions, with the number of images; see ``log_odds``.
        classes: The most frequent classes, with the number of images.
        nearest: Rows of the images nearest to the centre, equal ones once.
        farthest: Rows of the images farthest from the centre, the farthest first.
    """

    size: int
    mean_similarity: float
    least_similarity: float
    mean_score: float | None
    words: tuple[CountedText, ...]
    classes: tuple[CountedText, ...]
    nearest: tuple[int, ...]
    farthest: tuple[int, ...]


@final
class TextCounts:
    """Captions, words and classes of all samples, counted in one pass over the tables.

    Args:
        num_clusters: Number of clusters.

    Attributes:
        captions: Counts of all captions.
        words: Counts of words by cluster.
        labels: Counts of classes by cluster.
    """

    def __init__(self, num_clusters: int) -> None:
        self.captions = CaptionCounter()
        self.words = WordCounts(num_clusters)
        self.labels = [Counter[int]() for _ in range(num_clusters)]

    def read(
        self, collection: Collection, clusters: ImageClusters, on_rows: OnRows | None = None
    ) -> None:
        """Count the samples of a collection; of those without a cluster, only the captions.

        Raises:
            DataError: If a table is missing or damaged.
        """
        for start, files in zip(collection.starts.tolist(), collection.shards, strict=False):
            table = files.table(["captions", "label"])
            for first in range(0, len(table), _ROWS_AT_ONCE):
                part = table.slice(first, _ROWS_AT_ONCE)
                rows = slice(start + first, start + first + len(part))
                labels = np.asarray(part.column("label").fill_null(_NO_LABEL), dtype=np.int64)
                self._add_labels(clusters.labels[rows], labels)
                captions = [texts or [] for texts in part.column("captions").to_pylist()]
                self._add_captions(clusters.labels[rows].tolist(), captions)
                if on_rows is not None:
                    on_rows(rows.stop, len(collection))

    def _add_labels(
        self, clusters: Int32[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]
    ) -> None:
        counted = (clusters >= 0) & (labels != _NO_LABEL)
        pairs = np.stack([clusters[counted].astype(np.int64), labels[counted]])
        values, counts = np.unique(pairs, axis=1, return_counts=True)
        for cluster, label, count in zip(*values.tolist(), counts.tolist(), strict=True):
            self.labels[cluster][label] += count

    def _add_captions(self, clusters: Sequence[int], captions: Sequence[Sequence[str]]) -> None:
        words = [[words_of(text) for text in of_sample] for of_sample in captions]
        self.captions.add(captions, words)
        for cluster, of_sample in zip(clusters, words, strict=True):
            if cluster >= 0:
                self.words.add(cluster, {word for of_text in of_sample for word in of_text})


def cluster_facts(
    collection: Collection, clusters: ImageClusters, texts: TextCounts, scores: Scores | None
) -> tuple[ClusterFacts, ...]:
    """Return the facts of each cluster, the largest first.

    Args:
        collection: The collection.
        clusters: Its clusters.
        texts: Captions, words and classes of the samples.
        scores: Scores of the captions of each shard, by ``pair_scores``; None without captions.
    """
    words = texts.words.typical_words(_NUM_WORDS)
    names = collection.info.class_names
    means = None if scores is None else _mean_scores(collection, clusters, scores)
    facts = []
    for number, size in enumerate(clusters.sizes.tolist()):
        members = clusters.members(number)
        similarities = clusters.similarities[members]
        counted = texts.labels[number].most_common(_NUM_CLASSES)
        facts.append(
            ClusterFacts(
                size=size,
                mean_similarity=float(similarities.mean()),
                least_similarity=float(similarities[-1]),
                mean_score=None
                if means is None or np.isnan(means[number])
                else float(means[number]),
                words=tuple(CountedText(word, count) for word, count in words[number]),
                classes=tuple(CountedText(_class_name(label, names), n) for label, n in counted),
                **_typical_rows(members, similarities),
            )
        )
    return tuple(facts)


def _typical_rows(
    members: Int64[np.ndarray, " rows"], similarities: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """Return the rows nearest to the centre, and of the others the farthest ones."""
    differs = np.abs(np.diff(similarities, prepend=np.inf)) > _EQUAL
    distinct = members[differs].tolist()
    nearest = distinct[:_NUM_NEAREST]
    return {
        "nearest": tuple(nearest),
        "farthest": tuple(distinct[: len(nearest) - 1 : -1][:_NUM_FARTHEST]),
    }


def _mean_scores(
    collection: Collection, clusters: ImageClusters, scores: Scores
) -> Float64[np.ndarray, " clusters"]:
    """Return the mean score of the captions of each cluster; NaN without captions."""
    num_clusters = len(clusters.centres)
    sums, counts = np.zeros(num_clusters), np.zeros(num_clusters)
    for start, files, of_shard in zip(collection.starts, collection.shards, scores, strict=False):
        numbers = clusters.labels[start + caption_owners(files)]
        valid = ~np.isnan(of_shard) & (numbers >= 0)
        sums += np.bincount(numbers[valid], of_shard[valid], minlength=num_clusters)
        counts += np.bincount(numbers[valid], minlength=num_clusters)
    means = np.full(num_clusters, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _class_name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) and names[label] else f"class {label}"
