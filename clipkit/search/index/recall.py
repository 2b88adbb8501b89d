"""Measure the recall of an index against exact search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32

from clipkit.collection import Collection
from clipkit.search.engine import Queries, Ranked, RowMask, SearchEngine
from clipkit.search.modalities import plural_of

NUM_NEIGHBOURS: Final = 10
CAPTIONS: Final = "captions"
"""Queries that are not rows of the collection themselves."""


def sample_queries(
    collection: Collection,
    usable: RowMask,
    num_queries: int,
    seed: int,
    modality: str = "image",
) -> dict[str, Queries]:
    """Return random rows and captions of a collection as queries, by kind.

    Texts are far from images in the embedding space, and an index trained on images finds fewer of
    their neighbours; therefore both are measured.

    Args:
        collection: The collection.
        usable: Rows with an embedding.
        num_queries: Number of queries of each kind.
        seed: Seed of the sample.
        modality: What is searched for: "image", or the name of a further modality.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(np.flatnonzero(usable))[:num_queries])
    vectors = collection.embeddings(rows, modality).astype(np.float32)
    queries = {plural_of(modality): _unit(vectors)}
    if collection.info.has_texts:
        texts = _sample_texts(collection, num_queries, rng)
        if len(texts):
            queries[CAPTIONS] = _unit(texts)
    return {kind: found[np.isfinite(found).all(axis=1)] for kind, found in queries.items()}


def exact_neighbours(engine: SearchEngine, queries: Mapping[str, Queries]) -> dict[str, Ranked]:
    """Return the most similar rows of queries, by kind, all in one pass over the collection."""
    kinds = list(queries)
    found = engine.search(np.concatenate([queries[kind] for kind in kinds]), NUM_NEIGHBOURS + 1)
    ends = np.cumsum([len(queries[kind]) for kind in kinds])[:-1]
    return {
        kind: Ranked(scores, rows)
        for kind, scores, rows in zip(
            kinds, np.split(found.scores, ends), np.split(found.rows, ends), strict=True
        )
    }


def recall_at_10(engine: SearchEngine, queries: Queries, exact: Ranked, *, has_self: bool) -> float:
    """Return the share of the ten most similar rows that an engine finds.

    A row counts if its similarity is at least that of the tenth: of equal images any will do.

    Args:
        engine: The engine; its similarities are exact.
        queries: The queries.
        exact: Result of exact search, of one row more.
        has_self: Whether the first row of a query is the query itself, which does not count.
    """
    count = min(NUM_NEIGHBOURS + has_self, exact.scores.shape[1])
    found = engine.search(queries, NUM_NEIGHBOURS + 1).scores
    least = exact.scores[:, count - 1 : count]
    hits = (found >= least).sum(axis=1).clip(max=count)
    return float(((hits - has_self).clip(min=0) / max(1, count - has_self)).mean())


def _sample_texts(
    collection: Collection, num_queries: int, rng: np.random.Generator
) -> Float32[np.ndarray, "texts D"]:
    """Return the embeddings of random captions, from at most as many shards."""
    width = collection.info.embedding_dim
    found = [np.empty((0, width), dtype=np.float32)]
    numbers = rng.permutation(len(collection.shards))[:num_queries]
    each = -(-num_queries // max(1, len(numbers)))
    for number in numbers.tolist():
        texts = collection.shards[number].texts()
        rows = np.sort(rng.permutation(len(texts))[:each])
        found.append(texts[rows].astype(np.float32))
    return np.concatenate(found)[:num_queries]


def _unit(vectors: Float32[np.ndarray, "queries D"]) -> Float32[np.ndarray, "queries D"]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = norms[:, 0] > 0
    unit: Float32[np.ndarray, "queries D"] = vectors[kept] / norms[kept]
    return unit
