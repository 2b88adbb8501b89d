"""Evaluation sets out of one's own pairs: split without leakage, hard negatives, data card."""

from clipkit.evaluation.building.build import BuiltSet, build_evaluation_set
from clipkit.evaluation.building.opening import SourceOptions
from clipkit.evaluation.building.options import (
    DuplicateOptions,
    SampleFields,
    SplitOptions,
    WriteOptions,
)

__all__ = [
    "BuiltSet",
    "DuplicateOptions",
    "SampleFields",
    "SourceOptions",
    "SplitOptions",
    "WriteOptions",
    "build_evaluation_set",
]
