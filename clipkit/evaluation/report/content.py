"""Content of a report as plain data, independent of HTML, models and trainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MAX_SERIES: Final = 6
"""Number of line colours; a chart with more lines repeats them."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the metric tables.

    Args:
        name: Name of the evaluation, for example "Unseen drawings".
        metrics: Metric keys as returned by the evaluators, with values from 0 to 1.
        note: A few words shown under the name, for example "1,620 images by OpenMoji".
        is_baseline: True for a reference value (chance, another trainer), which is shown in grey.
    """

    name: str
    metrics: Mapping[str, float]
    note: str = ""
    is_baseline: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Args:
        name: Name in the legend.
        points: Points (step, value) with increasing steps.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines on common axes.

    Args:
        title: Quantity that the lines show.
        series: Lines; after ``MAX_SERIES`` of them the colours repeat.
        is_share: True if the values are shares from 0 to 1, which are printed as percentages.
        note: Unit of the values, or a few words.
    """

    title: str
    series: Sequence[Series]
    is_share: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small image inside the page.

    Args:
        data: Bytes of an image file.
        caption: Description of the image, used as its alternative text.
        media_type: Media type of ``data``.
    """

    data: bytes
    caption: str
    media_type: str = "image/webp"


@dataclass(frozen=True, slots=True)
class ImageHit:
    """An image retrieved for a text.

    Args:
        image: Retrieved image.
        similarity: Cosine similarity of text and image.
        is_match: True if text and image belong together.
    """

    image: Thumbnail
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class CaptionHit:
    """A caption retrieved for an image.

    Args:
        caption: Retrieved caption.
        similarity: Cosine similarity of image and caption.
        is_match: True if image and caption belong together.
    """

    caption: str
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text and the images that were retrieved for it.

    Args:
        text: Text used as query.
        hits: Most similar images, most similar first.
        answer: Image that belongs to the text.
        rank: Rank of ``answer`` among all images, from 1.
    """

    text: str
    hits: Sequence[ImageHit]
    answer: Thumbnail
    rank: int


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """An image and the captions that were retrieved for it.

    Args:
        image: Image used as query.
        hits: Most similar captions, most similar first.
        answer: Most similar caption among those that belong to the image.
        rank: Rank of ``answer`` among all captions, from 1.
    """

    image: Thumbnail
    hits: Sequence[CaptionHit]
    answer: str
    rank: int


@dataclass(frozen=True, slots=True)
class Gallery:
    """Examples of retrieval.

    Args:
        text_queries: Texts with retrieved images.
        image_queries: Images with retrieved captions.
        note: How the examples were selected.
    """

    text_queries: Sequence[TextQuery] = ()
    image_queries: Sequence[ImageQuery] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Number of images of each class by predicted class.

    Args:
        class_names: C names.
        counts: C rows of C counts; row: true class, column: predicted class.
    """

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class SimilarityHistogram:
    """Cosine similarities of matching and of all other pairs.

    Args:
        edges: K + 1 increasing borders of the K bins.
        matching: Share of the matching pairs in each bin; sums to 1.
        other: Share of the other pairs in each bin; sums to 1.
    """

    edges: Sequence[float]
    matching: Sequence[float]
    other: Sequence[float]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name, a value and an explanation.

    Args:
        name: What the value is.
        value: Value as text, with its unit.
        note: A few words of explanation.
    """

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingHealth:
    """Measures of the embeddings that need no labels.

    Args:
        similarity: Similarities of matching and other pairs; None to omit the histogram.
        measures: Named measures such as the effective rank.
    """

    similarity: SimilarityHistogram | None = None
    measures: Sequence[Fact] = ()


@dataclass(frozen=True, slots=True)
class Examples:
    """Behaviour of a model on one data set, as ``build_examples`` collects it.

    Args:
        gallery: Examples of retrieval.
        confusion: Confusion matrix of a classifier; None to omit it.
        health: Label-free measures of the embeddings.
    """

    gallery: Gallery = Gallery()
    confusion: Confusion | None = None
    health: EmbeddingHealth = EmbeddingHealth()


@dataclass(frozen=True, slots=True)
class TowerParameters:
    """Number of parameters of one part of the model.

    Args:
        name: Name of the part.
        num_trainable: Number of trainable parameters.
        num_frozen: Number of frozen parameters.
    """

    name: str
    num_trainable: int
    num_frozen: int


@dataclass(frozen=True, slots=True)
class RunDetails:
    """How a model was trained.

    Args:
        facts: Duration, samples per second, machine and so on.
        parameters: Size of each part of the model.
        versions: Software names and their versions.
        config: Resolved configuration as YAML.
    """

    facts: Sequence[Fact] = ()
    parameters: Sequence[TowerParameters] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Content of a report. Empty parts are omitted from the page.

    Args:
        title: Name of the run.
        subtitle: One sentence about the run.
        results: Rows of metrics; the first that is no baseline gives the large figures.
        charts: Learning curves.
        examples: Gallery, confusion matrix and embedding health.
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
    examples: Examples = Examples()
    run: RunDetails = RunDetails()
    credits: Sequence[str] = ()
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
