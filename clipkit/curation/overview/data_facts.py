"""Everything that the data page shows: clusters, scores, duplicates and captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from clipkit.collection import Collection
from clipkit.curation.clusters import cluster_images
from clipkit.curation.overview.caption_facts import CaptionFacts
from clipkit.curation.overview.cluster_facts import ClusterFacts, TextCounts, cluster_facts
from clipkit.curation.overview.duplicate_facts import DuplicateFacts, find_duplicates
from clipkit.curation.overview.pair_facts import (
    QUANTILES,
    PairFacts,
    pair_facts,
    scores_by_shard,
)

ShowProgress = Callable[[str], AbstractContextManager[Callable[[int, int | None], None]]]
"""Starts the display of a step's progress; the function takes the completed and all rows."""

_NUM_MISMATCHED: Final = 24


def no_progress(_: str) -> AbstractContextManager[Callable[[int, int | None], None]]:
    """Show no progress."""
    return nullcontext(lambda _, __: None)


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample that a list or an image of the page refers to."""

    key: str
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What the data of an embedded collection hold.

    Args:
        model: Name of the model.
        num_samples: Number of samples.
        num_without_embedding: Number of samples that could not be embedded.
        clusters: Clusters of the images, the largest first.
        pairs: Scores of images and captions; None without embeddings of captions.
        duplicates: Duplicates of each kind.
        captions: Numbers of the captions.
        samples: Key and captions of each sample that the other parts name, by its row.
    """

    model: str
    num_samples: int
    num_without_embedding: int
    clusters: tuple[ClusterFacts, ...]
    pairs: PairFacts | None
    duplicates: tuple[DuplicateFacts, ...]
    captions: CaptionFacts
    samples: Mapping[int, ShownSample]

    def as_json(self) -> dict[str, Any]:
        """Return the facts in JSON types; samples are named by row and key."""
        content = dataclasses.asdict(self)
        del content["samples"]
        for cluster in content["clusters"]:
            for name in ("nearest", "farthest"):
                cluster[name] = [self._named(row) for row in cluster[name]]
        for kind in content["duplicates"]:
            for group in kind["largest"]:
                group["samples"] = [self._named(row) for row in group.pop("rows")]
        if self.pairs is not None:
            pairs = content["pairs"]
            for name in ("quantiles", "random_quantiles"):
                pairs[name] = {
                    f"{q:g}": value for q, value in zip(QUANTILES, pairs[name], strict=True)
                }
            pairs["estimated_mismatched_share"] = self.pairs.estimated_mismatched_share
            for pair in pairs["mismatched"]:
                row, best = pair.pop("row"), pair.pop("best_row")
                pair["sample"], pair["best_sample"] = self._named(row), self._named(best)
                pair["caption"] = self.caption(row, pair["caption"])
        return content

    def caption(self, row: int, number: int) -> str:
        """Return a caption of a shown sample."""
        return self.samples[row].captions[number]

    def _named(self, row: int) -> dict[str, int | str]:
        return {"row": row, "key": self.samples[row].key}


def describe_data(
    collection: Collection,
    num_clusters: int | None = None,
    seed: int = 0,
    progress: ShowProgress = no_progress,
) -> DataFacts:
    """Describe the images and captions of an embedded collection.

    Embeddings and tables are read shard by shard; memory holds some bytes per sample and caption.

    Args:
        collection: The collection.
        num_clusters: Number of clusters; None for ``default_num_clusters``.
        seed: Seed of clusters and of random pairs.
        progress: Shows the progress of each step.

    Raises:
        ConfigError: If ``num_clusters`` is less than 1 or larger than the number of images.
        DataError: If no image has an embedding, or a file of the collection is damaged.

    Examples:
        >>> facts = describe_data(Collection("collection"), num_clusters=2)
        >>> facts.num_samples, len(facts.clusters)
        (8, 2)
    """
    with progress("clustering") as advance:
        clusters = cluster_images(collection, num_clusters, seed, advance)
    texts = TextCounts(len(clusters.centres))
    with progress("captions") as advance:
        texts.read(collection, clusters, advance)
    scores = pairs = None
    if collection.info.has_texts:
        with progress("scores") as advance:
            scores = scores_by_shard(collection, advance)
        with progress("mismatched pairs") as advance:
            pairs = pair_facts(collection, scores, _NUM_MISMATCHED, seed, advance)
    with progress("duplicates") as advance:
        duplicates = find_duplicates(collection, advance)
    facts = DataFacts(
        model=collection.info.model,
        num_samples=len(collection),
        num_without_embedding=int(np.count_nonzero(clusters.labels < 0)),
        clusters=cluster_facts(collection, clusters, texts, scores),
        pairs=pairs,
        duplicates=duplicates,
        captions=texts.captions.facts(),
        samples={},
    )
    return dataclasses.replace(facts, samples=_shown_samples(collection, facts))


def _shown_samples(collection: Collection, facts: DataFacts) -> dict[int, ShownSample]:
    """Read keys and captions of the samples that the facts name."""
    rows = {row for each in facts.clusters for row in (*each.nearest, *each.farthest)}
    rows |= {row for kind in facts.duplicates for group in kind.largest for row in group.rows}
    named = facts.pairs.mismatched if facts.pairs is not None else ()
    rows |= {row for pair in named for row in (pair.row, pair.best_row)}
    numbers = sorted(rows)
    table = collection.table(["key", "captions"], np.array(numbers, dtype=np.int64))
    keys, captions = table.column("key").to_pylist(), table.column("captions").to_pylist()
    return {
        row: ShownSample(key, tuple(texts or ()))
        for row, key, texts in zip(numbers, keys, captions, strict=True)
    }
