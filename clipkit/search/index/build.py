"""Build an index of a collection: train on a sample, add tile by tile, measure, put in place."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock, Timeout

from clipkit.atomic_files import FORMER_SUFFIX, TEMPORARY_SUFFIX, new_folder, restore
from clipkit.collection import Collection
from clipkit.errors import ConfigError, check_at_least
from clipkit.search.engine import RowMask
from clipkit.search.exact_engine import ExactEngine
from clipkit.search.index.adding import add_rows, needed_bytes
from clipkit.search.index.engine import FaissEngine
from clipkit.search.index.faiss_module import faiss_library, lists_of
from clipkit.search.index.info import (
    IndexInfo,
    collection_fingerprint,
    index_name,
    write_index_info,
)
from clipkit.search.index.opening import read_index
from clipkit.search.index.recall import CAPTIONS, exact_neighbours, recall_at_10, sample_queries
from clipkit.search.index.training import check_structure, new_index, train_index
from clipkit.search.usable_rows import usable_rows

TARGET_RECALL: Final = 0.95
NUM_QUERIES: Final = 200
NEARLY: Final = 0.005

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an index is built.

    Args:
        factory: Factory string of FAISS, with IVF, HNSW or Flat.
        num_probes: Number of inverted lists that a query searches; None for the fewest with a
            recall@10 of at least 0.95, of the powers of two.
        seed: Seed of the samples and of the training.
        modality: What is searched for: "image", or the name of a further modality.
    """

    factory: str
    num_probes: int | None = None
    seed: int = 0
    modality: str = "image"


def build_index(
    collection: Collection, options: BuildOptions, on_progress: Progress | None = None
) -> IndexInfo:
    """Build the index of a collection, in its folder ``index``, or such as ``index-sound``.

    A previous index is replaced. Memory is that of the training sample and of one block of
    rows. The folder gets its name when it is complete: a build that is killed leaves the
    previous index as it was.

    Args:
        collection: The collection.
        options: How it is built.
        on_progress: Called with the number of rows that were added, and of all rows.

    Returns:
        How the index was built, and its measured recall.

    Raises:
        ConfigError: If the factory string cannot be used, FAISS is not installed, the disk is too
            small, or another process builds an index of this collection.
        DataError: If the collection cannot be read.
    """
    check_at_least("num_probes", options.num_probes, 1)
    usable = usable_rows(collection, options.modality)
    index = new_index(options.factory, collection.info.embedding_dim)
    check_structure(index, options.factory, int(usable.sum()))
    target = collection.folder / index_name(options.modality)
    with _only_build(target):
        _check_space(collection, index)
        with new_folder(target) as folder:
            info = _built(collection, index, options, usable, folder, on_progress)
            write_index_info(info, folder)
    return info


def _built(
    collection: Collection,
    index: Any,
    options: BuildOptions,
    usable: RowMask,
    folder: Path,
    on_progress: Progress | None,
) -> IndexInfo:
    modality = options.modality
    fingerprint = collection_fingerprint(collection, modality)
    started = time.perf_counter()
    train_index(index, collection, usable, options.seed, modality)
    trained = time.perf_counter()
    add_rows(index, collection, folder, on_progress or (lambda *_: None), modality)
    added = time.perf_counter()
    has_lists = lists_of(index) is not None
    engine = FaissEngine(collection, read_index(folder), 0, options.factory, usable, modality)
    recall, num_queries = _measured(engine, collection, usable, options, has_lists)
    measured = time.perf_counter()
    return IndexInfo(
        factory=options.factory,
        num_probes=engine.num_probes,
        num_rows=len(collection),
        embedding_dim=collection.info.embedding_dim,
        fingerprint=fingerprint,
        recall_at_10=recall,
        num_queries=num_queries,
        seconds={
            "training": trained - started, "adding": added - trained,
            "measuring": measured - added,
        },
        seed=options.seed,
        versions={
            "python": platform.python_version(),
            "clipkit": version("clipkit"),
            "numpy": np.__version__,
            "faiss": faiss_library().__version__,
        },
    )  # fmt: skip


def _measured(
    engine: FaissEngine,
    collection: Collection,
    usable: RowMask,
    options: BuildOptions,
    has_lists: bool,
) -> tuple[dict[str, float], int]:
    """Set the number of lists that are searched, and return the recall by kind of query."""
    modality = options.modality
    queries = sample_queries(collection, usable, NUM_QUERIES, options.seed, modality)
    exact = exact_neighbours(ExactEngine(collection, usable=usable, modality=modality), queries)

    def measure(num_probes: int) -> dict[str, float]:
        engine.num_probes = num_probes
        return {
            kind: recall_at_10(engine, queries[kind], exact[kind], has_self=kind != CAPTIONS)
            for kind in queries
        }

    if not has_lists:
        recall = measure(0)
    elif options.num_probes is not None:
        recall = measure(min(options.num_probes, engine.num_lists))
    else:
        engine.num_probes, recall = fewest_probes(measure, engine.num_lists)
    return recall, len(next(iter(queries.values())))


def fewest_probes(
    measure: Callable[[int], Mapping[str, float]], num_lists: int
) -> tuple[int, dict[str, float]]:
    """Return the fewest lists, of the powers of two, with enough recall, and their recall.

    Where no number has enough, because codes or a graph lose neighbours, it is the fewest with
    nearly the recall of the best one: more lists would only take time.

    Args:
        measure: Returns the recall of a number of lists, by kind of query.
        num_lists: Number of all lists.

    Examples:
        >>> fewest_probes(lambda probes: {"images": min(0.2 * probes, 0.85)}, num_lists=1000)
        (8, {'images': 0.85})
    """
    found: dict[int, dict[str, float]] = {}
    probes = 1
    while True:
        found[probes] = dict(measure(probes))
        if min(found[probes].values()) >= TARGET_RECALL:
            return probes, found[probes]
        if probes == num_lists:
            break
        probes = min(2 * probes, num_lists)
    least = {number: min(recall.values()) for number, recall in found.items()}
    best = max(least.values())
    fewest = min(number for number, recall in least.items() if recall >= best - NEARLY)
    return fewest, found[fewest]


@contextmanager
def _only_build(target: Path) -> Iterator[None]:
    """Lock the folder of an index, and remove what a killed build left."""
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"{target}: another process builds this index now; wait until it has ended"
        ) from error
    try:
        name = escape(target.name)
        for previous in target.parent.glob(f".{name}.????????{FORMER_SUFFIX}"):
            restore(previous)
        for left in target.parent.glob(f".{name}.????????{TEMPORARY_SUFFIX}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _check_space(collection: Collection, index: Any) -> None:
    """Check the size of the disk: a full one would end the build near its end."""
    needed = needed_bytes(index, len(collection))
    free = shutil.disk_usage(collection.folder).free
    if free < needed:
        raise ConfigError(
            f"{collection.folder}: the index needs {needed / 1e6:,.0f} MB while it is built, the "
            f"disk has {free / 1e6:,.0f} MB; free some space, or choose a smaller --factory"
        )
