"""Create an index of FAISS from its factory string, and train it on a sample."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float32

from clipkit.collection import Collection
from clipkit.errors import ConfigError
from clipkit.search.engine import RowMask
from clipkit.search.index.faiss_module import faiss_library, first_reason, lists_of

_ROWS_PER_LIST: Final = 40
"""FAISS asks for at least 39 rows per list."""
_LEAST_ROWS: Final = 65_536
"""Rows that train codes (SQ, PQ), if there are as many."""
_GRAPH_WIDTH: Final = 256
"""Candidates that a walk through a graph keeps. With FAISS's 16, a walk over centres of separate
groups misses the nearest one, and the row goes to a list where no query looks for it."""


def new_index(factory: str, width: int) -> Any:
    """Return an empty index of inner products.

    Raises:
        ConfigError: If FAISS does not know the string, or is not installed.
    """
    faiss = faiss_library()
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"--factory {factory!r}: FAISS cannot build it for {width} components: "
            f"{first_reason(error)}; such as IVF2048,SQ8"
        ) from error
    lists = lists_of(index)
    graph = index if lists is None else faiss.downcast_index(lists.quantizer)
    if isinstance(graph, faiss.IndexHNSW):
        graph.hnsw.efConstruction = _GRAPH_WIDTH
        graph.hnsw.efSearch = _GRAPH_WIDTH
    return index


def check_structure(index: Any, factory: str, num_rows: int) -> None:
    """Check that an index is of a kind that can be filtered and mapped, and not too large.

    Raises:
        ConfigError: If it is not.
    """
    faiss = faiss_library()
    lists = lists_of(index)
    if lists is None and not isinstance(index, faiss.IndexHNSW | faiss.IndexFlat):
        raise ConfigError(
            f"--factory {factory!r}: expected an index with IVF, HNSW or Flat, got "
            f"{type(index).__name__}; such as IVF2048,SQ8"
        )
    if lists is not None and not isinstance(index, faiss.IndexIVF | faiss.IndexPreTransform):
        raise ConfigError(
            f"--factory {factory!r}: expected IVF at the outermost level or after a transform of "
            f"vectors, got {type(index).__name__}; exact similarities are computed in any case"
        )
    if lists is not None and lists.nlist > num_rows:
        raise ConfigError(
            f"--factory {factory!r}: expected at most one list per row, got {lists.nlist} lists "
            f"for {num_rows} rows with an embedding"
        )


def train_index(
    index: Any, collection: Collection, usable: RowMask, seed: int, modality: str = "image"
) -> None:
    """Train an index on a random sample of the rows with an embedding.

    Raises:
        ConfigError: If there are too few rows for it.
    """
    if index.is_trained:
        return
    lists = lists_of(index)
    num_lists = 0 if lists is None else lists.nlist
    num_rows = max(_ROWS_PER_LIST * num_lists, _LEAST_ROWS)
    sample = _sample(collection, usable, num_rows, seed, modality)
    if lists is not None:
        lists.cp.seed = seed + 1  # FAISS replaces 0 by the time
        lists.cp.min_points_per_centroid = 1  # no warnings on standard error for few rows
    faiss = faiss_library()
    try:
        if isinstance(index, faiss.IndexIVF) and isinstance(_graph(index), faiss.IndexHNSW):
            _train_graph(index, sample)
        index.train(sample)
    except RuntimeError as error:
        raise ConfigError(
            f"the index cannot be trained on {len(sample)} rows: {first_reason(error)}; choose "
            "another --factory"
        ) from error


def _graph(index: Any) -> Any:
    return faiss_library().downcast_index(index.quantizer)


def _train_graph(index: Any, sample: Float32[np.ndarray, "rows D"]) -> None:
    """Cluster the sample and build the graph of the centres with one thread.

    Several threads would build another graph each time.
    """
    faiss = faiss_library()
    clustering = faiss.Clustering(index.d, index.nlist, index.cp)
    clustering.train(sample, faiss.IndexFlatIP(index.d))
    centres = faiss.vector_to_array(clustering.centroids).reshape(index.nlist, index.d)
    graph, num_threads = _graph(index), faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        graph.train(centres)
        graph.add(centres)
    finally:
        faiss.omp_set_num_threads(num_threads)


def _sample(
    collection: Collection, usable: RowMask, num_rows: int, seed: int, modality: str
) -> Float32[np.ndarray, "rows D"]:
    rows = np.flatnonzero(usable)
    if len(rows) > num_rows:
        rows = np.sort(np.random.default_rng(seed).choice(rows, num_rows, replace=False))
    sample: Float32[np.ndarray, "rows D"] = collection.embeddings(rows, modality).astype(np.float32)
    return np.ascontiguousarray(sample[np.isfinite(sample).all(axis=1)])
