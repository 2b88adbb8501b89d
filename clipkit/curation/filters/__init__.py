"""Filters of embedded collections, which decide on which samples a run trains."""

from clipkit.curation.filters.apply import Filtered, FilterOutcome, apply_filters
from clipkit.curation.filters.base import Decision, Filter, GroupCount
from clipkit.curation.filters.readable import ReadableFilter
from clipkit.curation.filters.score_filters import BestScoresFilter, MinScoreFilter
from clipkit.curation.filters.sizes import MaxAspectFilter, MinPixelsFilter, MinSideFilter

__all__ = [
    "BestScoresFilter",
    "Decision",
    "Filter",
    "FilterOutcome",
    "Filtered",
    "GroupCount",
    "MaxAspectFilter",
    "MinPixelsFilter",
    "MinScoreFilter",
    "MinSideFilter",
    "ReadableFilter",
    "apply_filters",
]
