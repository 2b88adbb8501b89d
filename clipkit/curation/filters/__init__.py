"""Filters of embedded collections, which decide on which samples a run trains."""

from clipkit.curation.filters.apply import Filtered, FilterOutcome, apply_filters
from clipkit.curation.filters.base import Decision, Filter, GroupCount
from clipkit.curation.filters.captions import (
    CaptionCharactersFilter,
    CaptionWordsFilter,
    LanguageFilter,
    ScriptFilter,
)
from clipkit.curation.filters.class_balance import ClassBalanceFilter
from clipkit.curation.filters.copies.embedding_copies import (
    EmbeddingDuplicateFilter,
    KnownEmbeddingFilter,
)
from clipkit.curation.filters.copies.file_copies import FileDuplicateFilter
from clipkit.curation.filters.copies.image_copies import ImageDuplicateFilter, KnownImageFilter
from clipkit.curation.filters.metadata_balance import MetadataBalanceFilter
from clipkit.curation.filters.predicate import PredicateFilter
from clipkit.curation.filters.readable import ReadableFilter
from clipkit.curation.filters.score_filters import BestScoresFilter, MinScoreFilter
from clipkit.curation.filters.sizes import MaxAspectFilter, MinPixelsFilter, MinSideFilter

__all__ = [
    "BestScoresFilter",
    "CaptionCharactersFilter",
    "CaptionWordsFilter",
    "ClassBalanceFilter",
    "Decision",
    "EmbeddingDuplicateFilter",
    "FileDuplicateFilter",
    "Filter",
    "FilterOutcome",
    "Filtered",
    "GroupCount",
    "ImageDuplicateFilter",
    "KnownEmbeddingFilter",
    "KnownImageFilter",
    "LanguageFilter",
    "MaxAspectFilter",
    "MetadataBalanceFilter",
    "MinPixelsFilter",
    "MinScoreFilter",
    "MinSideFilter",
    "PredicateFilter",
    "ReadableFilter",
    "ScriptFilter",
    "apply_filters",
]
