"""Approximate search with FAISS: choose, build, measure and open an index of a collection."""

from clipkit.search.index.build import BuildOptions, build_index
from clipkit.search.index.engine import FaissEngine
from clipkit.search.index.factory import EXACT_ROWS, index_factory
from clipkit.search.index.info import IndexInfo, read_index_info
from clipkit.search.index.opening import open_engine

__all__ = [
    "EXACT_ROWS",
    "BuildOptions",
    "FaissEngine",
    "IndexInfo",
    "build_index",
    "index_factory",
    "open_engine",
    "read_index_info",
]
