"""Report of a run as one self-contained HTML page: metrics, curves, examples and run details."""

from clipkit.evaluation.report.collect.examples import build_examples
from clipkit.evaluation.report.collect.history import charts_from_history, read_metrics_csv
from clipkit.evaluation.report.content import (
    CaptionHit,
    Chart,
    Confusion,
    EmbeddingHealth,
    Examples,
    Fact,
    Gallery,
    ImageHit,
    ImageQuery,
    ReportData,
    Result,
    RunDetails,
    Series,
    SimilarityHistogram,
    TextQuery,
    Thumbnail,
    TowerParameters,
)
from clipkit.evaluation.report.curve import write_curve
from clipkit.evaluation.report.evaluated import evaluate_with_report
from clipkit.evaluation.report.page import render_report, write_report
from clipkit.evaluation.report.sections.charts import chart_svg
from clipkit.evaluation.report.sections.confusion_image import confusion_png

__all__ = [
    "CaptionHit",
    "Chart",
    "Confusion",
    "EmbeddingHealth",
    "Examples",
    "Fact",
    "Gallery",
    "ImageHit",
    "ImageQuery",
    "ReportData",
    "Result",
    "RunDetails",
    "Series",
    "SimilarityHistogram",
    "TextQuery",
    "Thumbnail",
    "TowerParameters",
    "build_examples",
    "chart_svg",
    "charts_from_history",
    "confusion_png",
    "evaluate_with_report",
    "read_metrics_csv",
    "render_report",
    "write_curve",
    "write_report",
]
