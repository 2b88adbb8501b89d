"""Search in an embedded collection: exact or with an index, from the shell or in a page."""

from clipkit.search.engine import NO_ROW, Ranked, SearchEngine
from clipkit.search.exact_engine import ExactEngine
from clipkit.search.query_parts import QueryPart
from clipkit.search.reranking.hits import reranked_hits
from clipkit.search.row_filter import RowFilter
from clipkit.search.searcher import Hit, Searcher, SearchResult
from clipkit.search.thumbnails import small_jpeg

__all__ = [
    "NO_ROW",
    "ExactEngine",
    "Hit",
    "QueryPart",
    "Ranked",
    "RowFilter",
    "SearchEngine",
    "SearchResult",
    "Searcher",
    "reranked_hits",
    "small_jpeg",
]
