"""Content of a report as plain data, independent of HTML, models and trainers."""

from clipkit.evaluation.report.content.charts import MAX_SERIES, Chart, Series
from clipkit.evaluation.report.content.classification import (
    ClassifiedImage,
    Classifier,
    ClassRow,
    Confusion,
    ReliabilityBin,
    ReliabilityDiagram,
)
from clipkit.evaluation.report.content.embedding import (
    Clouds,
    EmbeddingHealth,
    EmbeddingMap,
    MapClass,
    Projection,
    SimilarityHistogram,
    ThumbnailSheet,
)
from clipkit.evaluation.report.content.explanation import Explanation
from clipkit.evaluation.report.content.images import Thumbnail
from clipkit.evaluation.report.content.inputs import (
    InputHit,
    InputQuery,
    ModalityGallery,
    ShownInput,
    SoundClip,
)
from clipkit.evaluation.report.content.report import Examples, ReportData
from clipkit.evaluation.report.content.reranking import ChangedQuery, RerankedQueries, Reranking
from clipkit.evaluation.report.content.results import Result
from clipkit.evaluation.report.content.retrieval import (
    CaptionHit,
    Gallery,
    ImageHit,
    ImageQuery,
    RecallCurve,
    TextQuery,
)
from clipkit.evaluation.report.content.run import Fact, RunDetails, TowerParameters

__all__ = [
    "MAX_SERIES",
    "CaptionHit",
    "ChangedQuery",
    "Chart",
    "ClassRow",
    "ClassifiedImage",
    "Classifier",
    "Clouds",
    "Confusion",
    "EmbeddingHealth",
    "EmbeddingMap",
    "Examples",
    "Explanation",
    "Fact",
    "Gallery",
    "ImageHit",
    "ImageQuery",
    "InputHit",
    "InputQuery",
    "MapClass",
    "ModalityGallery",
    "Projection",
    "RecallCurve",
    "ReliabilityBin",
    "ReliabilityDiagram",
    "ReportData",
    "RerankedQueries",
    "Reranking",
    "Result",
    "RunDetails",
    "Series",
    "ShownInput",
    "SimilarityHistogram",
    "SoundClip",
    "TextQuery",
    "Thumbnail",
    "ThumbnailSheet",
    "TowerParameters",
]
