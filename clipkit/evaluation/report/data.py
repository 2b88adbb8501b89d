"""What a report shows, as plain data; nothing here knows HTML, a model or a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

MAX_SERIES: Final = 6
"""Lines of one chart that can be told apart; the page has so many colours for them."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the tables of metrics.

    Args:
        name: What was evaluated, for people: "Unseen drawings".
        metrics: Metric keys as the evaluators give them, values from 0 to 1.
        note: A few words under the name: "1,620 pictures by OpenMoji".
        is_baseline: A figure to compare with (chance, another trainer), drawn more quietly.
    """

    name: str
    metrics: Mapping[str, float]
    note: str = ""
    is_baseline: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Args:
        name: Its name in the legend.
        points: (step, value), steps rising.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines that share their axes.

    Args:
        title: What the lines show.
        series: The lines, at most ``MAX_SERIES``; further ones repeat the colours.
        is_share: Values are shares from 0 to 1 and read as percentages.
        note: The unit, or a few words.
    """

    title: str
    series: Sequence[Series]
    is_share: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small picture inside the page.

    Args:
        data: The bytes of an image file.
        caption: What it shows; becomes its alternative text.
        media_type: Type of ``data``.
    """

    data: bytes
    caption: str
    media_type: str = "image/webp"


@dataclass(frozen=True, slots=True)
class PictureHit:
    """A picture that was found for a text; ``is_match`` where the two belong together."""

    picture: Picture
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class CaptionHit:
    """A caption that was found for a picture; ``is_match`` where the two belong together."""

    caption: str
    similarity: float
    is_match: bool


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A text, the pictures that come first for it, the right picture and its rank (from 1)."""

    text: str
    hits: Sequence[PictureHit]
    answer: Picture
    rank: int


@dataclass(frozen=True, slots=True)
class ImageQuery:
    """A picture, the captions that come first for it, the best right one and its rank (from 1)."""

    picture: Picture
    hits: Sequence[CaptionHit]
    answer: str
    rank: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often pictures of one class were taken for another.

    Args:
        class_names: C names.
        counts: C rows of C counts: row = the true class, column = the predicted one.
    """

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class SimilarityHistogram:
    """Cosine similarities of pairs that belong together, and of pairs that do not.

    Args:
        edges: Borders of the K bins, K + 1 of them, rising.
        matching: Share of the matching pairs in each bin; sums to 1.
        other: Share of the other pairs in each bin; sums to 1.
    """

    edges: Sequence[float]
    matching: Sequence[float]
    other: Sequence[float]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name, its value as text, and a few words of explanation."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TowerParameters:
    """Numbers of parameters of one part of the model."""

    name: str
    num_trainable: int
    num_frozen: int


@dataclass(slots=True)
class ReportData:
    """All that a page shows. A part that is empty is left out of the page.

    Args:
        title: The run's name.
        subtitle: One sentence about it.
        results: Rows of metrics; the first that is no baseline gives the figures on top.
        charts: Learning curves.
        text_queries: Gallery "text -> pictures".
        image_queries: Gallery "picture -> captions".
        gallery_note: How the examples were chosen.
        confusion: Categories taken for one another.
        similarity: How well matching pairs stand apart.
        health: Label-free measures of the embeddings.
        facts: Duration, samples a second, machine …
        parameters: Size of each part of the model.
        versions: Names and versions of the software.
        config: The resolved configuration, as YAML.
        credits: Sources and licences of the pictures shown.
        created: When the page was made.

    Examples:
        >>> from clipkit.evaluation.report.page import write_report
        >>> data = ReportData("A run", results=[Result("Validation", {"top1": 0.5})])
        >>> write_report("report.html", data)
        PosixPath('report.html')
    """

    title: str
    subtitle: str = ""
    results: Sequence[Result] = ()
    charts: Sequence[Chart] = ()
    text_queries: Sequence[TextQuery] = ()
    image_queries: Sequence[ImageQuery] = ()
    gallery_note: str = ""
    confusion: Confusion | None = None
    similarity: SimilarityHistogram | None = None
    health: Sequence[Fact] = ()
    facts: Sequence[Fact] = ()
    parameters: Sequence[TowerParameters] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    config: str = ""
    credits: Sequence[str] = ()
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
