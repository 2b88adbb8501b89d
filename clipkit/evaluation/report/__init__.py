"""One self-contained HTML page about a run: figures, curves, galleries, confusions, facts."""

from clipkit.evaluation.report.data import (
    CaptionHit,
    Chart,
    Confusion,
    Fact,
    ImageQuery,
    Picture,
    PictureHit,
    ReportData,
    Result,
    Series,
    SimilarityHistogram,
    TextQuery,
    TowerParameters,
)
from clipkit.evaluation.report.examples import Examples, build_examples
from clipkit.evaluation.report.history import charts_from_history, read_metrics_csv
from clipkit.evaluation.report.page import render_report, write_report

__all__ = [
    "CaptionHit",
    "Chart",
    "Confusion",
    "Examples",
    "Fact",
    "ImageQuery",
    "Picture",
    "PictureHit",
    "ReportData",
    "Result",
    "Series",
    "SimilarityHistogram",
    "TextQuery",
    "TowerParameters",
    "build_examples",
    "charts_from_history",
    "read_metrics_csv",
    "render_report",
    "write_report",
]
