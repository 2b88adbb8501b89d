"""Content of the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from clipkit.evaluation.report.content.charts import Chart
from clipkit.evaluation.report.content.classification import Classifier
from clipkit.evaluation.report.content.embedding import EmbeddingHealth, EmbeddingMap
from clipkit.evaluation.report.content.explanation import Explanation
from clipkit.evaluation.report.content.inputs import ModalityGallery
from clipkit.evaluation.report.content.reranking import Reranking
from clipkit.evaluation.report.content.results import Result
from clipkit.evaluation.report.content.retrieval import Gallery, RecallCurve
from clipkit.evaluation.report.content.run import RunDetails
from clipkit.renamed_arguments import renamed_arguments

_RENAMED: Final = {"confusion": "classifiers=[Classifier(name, confusion)]"}


@renamed_arguments(_RENAMED)
@dataclass(frozen=True, slots=True)
class Examples:
    """Behaviour of a model on one data set, as ``build_examples`` collects it.

    Args:
        gallery: Queries of retrieval that were selected at random.
        errors: Queries of retrieval whose incorrect best answer was the most similar.
        recalls: Recall curve of each direction.
        classifiers: Classes, confusions, reliability and images of each classifier.
        map: Image embeddings as points of the plane; None to omit it.
        health: Label-free measures of the embeddings.
        explanations: Parts of images and texts that carry a match.
        modalities: Queries of retrieval from each modality to each other one.
        matches: Parts of images and texts that carry the matching logit of a joint encoder.
        reranking: Retrieval before and after re-ranking; None without it.
    """

    gallery: Gallery = field(default_factory=Gallery)
    errors: Gallery = field(default_factory=Gallery)
    recalls: Sequence[RecallCurve] = ()
    classifiers: Sequence[Classifier] = ()
    map: EmbeddingMap | None = None
    health: EmbeddingHealth = field(default_factory=EmbeddingHealth)
    explanations: Sequence[Explanation] = ()
    modalities: Sequence[ModalityGallery] = ()
    matches: Sequence[Explanation] = ()
    reranking: Reranking | None = None


@dataclass(frozen=True, slots=True)
class ReportData:
    """Content of a report. Empty parts are omitted from the page.

    Args:
        title: Name of the run.
        subtitle: One sentence about the run.
        results: Rows of metrics; the first that is no baseline gives the large figures.
        charts: Learning curves.
        examples: Galleries, curves, classifiers, map and health of the embeddings.
        run: How the model was trained.
        credits: Sources and licences of the images shown.
        created: Time at which the report was created.

    Examples:
        >>> data = ReportData("A run", results=[Result("Validation", {"top1": 0.5})])
        >>> write_report("report.html", data)
        PosixPath('report.html')
    """

    title: str
    subtitle: str = ""
    results: Sequence[Result] = ()
    charts: Sequence[Chart] = ()
    examples: Examples = field(default_factory=Examples)
    run: RunDetails = field(default_factory=RunDetails)
    credits: Sequence[str] = ()
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
