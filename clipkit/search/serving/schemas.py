"""Requests and answers of the JSON API, with their bounds."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from clipkit.search.records import MAX_SHOWN, cut_text
from clipkit.search.row_filter import OPERATORS

MAX_ROW: Final = 2**53 - 1
"""Largest integer that JavaScript represents exactly."""
MAX_RESULTS: Final = 1000
MAX_OFFSET: Final = 99_000
MAX_CAPTIONS: Final = 1000
"""Largest number of captions of an image in an answer."""
MAX_LABELS: Final = 100
"""Largest number of labels that a request may bring, and that an answer has."""


def _integer(value: Any) -> Any:
    """Return 3 for 3.0, which is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integer)]
Row = Annotated[Integer, Field(ge=0, le=MAX_ROW, description="Number of an image.")]
Upload = Annotated[
    str,
    Field(pattern="^[0-9a-f]{32}$", description="Answer of POST /api/uploads."),
]
Weight = Annotated[
    float, Field(ge=-100, le=100, description="Negative for what must not be shown; not 0.")
]


Modality = Annotated[str, Field(min_length=1, max_length=100)]


def _cut(value: Any) -> Any:
    return cut_text(value) if isinstance(value, str) else value


Shown = Annotated[str, BeforeValidator(_cut), Field(max_length=MAX_SHOWN)]
"""A text of the data, of which the first 2,000 characters are in the answer."""


class RequestBody(BaseModel):
    """Body of a request: known keys of the exact types only."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Body of an answer."""

    model_config = ConfigDict(extra="forbid")


class ErrorAnswer(Answer):
    """Why a request was refused."""

    error: str = Field(description="One line: what was expected, and what was found.")


class ColumnName(Answer):
    """A column that filters may name."""

    name: str
    type: str = Field(description="Type of the values in Arrow's names, such as int64 or string.")


class StatusAnswer(Answer):
    """State of the server, and what it serves."""

    state: Literal["loading", "ready", "failed"]
    progress: Annotated[float, Field(ge=0, le=1)]
    message: str = Field(description="What is being loaded, or why loading failed.")
    num_images: int = Field(description="Number of images of the collection.")
    model: str = Field(description="Name of the model that embeds the queries.")
    engine: str = Field(description="How vectors are compared, such as exact; empty until loaded.")
    columns: list[ColumnName]
    class_names: list[str] = Field(description="Name of each class by its number.")
    num_classes: int
    modalities: list[str] = Field(description="What can be searched for, such as image or sound.")


class UploadAnswer(Answer):
    """An uploaded image or sound, which is embedded."""

    upload: Upload
    width_pixels: int | None = Field(description="Null for a sound.")
    height_pixels: int | None = Field(description="Null for a sound.")
    seconds: float | None = Field(
        description="Duration of a sound; null for an image, and if the file does not say."
    )


class TextPart(RequestBody):
    """A text as a part of a query."""

    weight: Weight = 1.0
    text: Annotated[str, Field(min_length=1, max_length=2000)]


class UploadPart(RequestBody):
    """An uploaded image or sound as a part of a query."""

    weight: Weight = 1.0
    upload: Upload


class RowPart(RequestBody):
    """A row of the collection as a part of a query; it is not among the results.

    It is its image, or what is searched for.
    """

    weight: Weight = 1.0
    row: Row


def _kind(value: Any) -> str:
    """Return which kind of part a value is meant as, by its keys."""
    keys = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    return next((kind for kind in ("upload", "row") if kind in keys), "text")


Part = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[UploadPart, Tag("upload")]
    | Annotated[RowPart, Tag("row")],
    Discriminator(_kind),
]


class Filter(RequestBody):
    """A condition that results must meet, as in ``clipkit search query --where``."""

    column: Annotated[str, Field(min_length=1, max_length=200)]
    operator: Literal[OPERATORS]  # type: ignore[valid-type]
    value: Annotated[str, Field(max_length=1000)] | int | float


class SearchRequest(RequestBody):
    """A query: the weighted sum of the embeddings of its parts."""

    parts: Annotated[list[Part], Field(min_length=1, max_length=16)]
    filters: Annotated[list[Filter], Field(max_length=20)] = []
    num_results: Annotated[Integer, Field(ge=1, le=MAX_RESULTS)] = 50
    offset: Annotated[Integer, Field(ge=0, le=MAX_OFFSET)] = 0
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = None
    modality: Modality | None = Field(
        None, description="What is searched for, such as sound; null for images if there are any."
    )


class SearchHit(Answer):
    """An image or a sound that was found."""

    row: int
    score: float = Field(description="Cosine similarity of the image and the query.")
    key: Shown
    caption: Shown = Field(description="First caption; empty if there is none.")
    label: int | None = Field(description="Number of the class.")
    class_name: Shown | None
    width_pixels: int | None
    height_pixels: int | None
    has_image: bool
    has_sound: bool


class SearchAnswer(Answer):
    """Results of a query, the most similar first."""

    results: list[SearchHit]
    num_candidates: int = Field(description="Number of images that pass the filters.")
    seconds: float


Labels = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    Field(min_length=1, max_length=MAX_LABELS),
]


class LabelsOfUpload(RequestBody):
    """Classes to compare with an uploaded image or sound."""

    upload: Upload
    labels: Labels | None = Field(None, description="Names; null for the classes of the data.")


class LabelsOfRow(RequestBody):
    """Classes to compare with an image or a sound of the collection."""

    row: Row
    labels: Labels | None = Field(None, description="Names; null for the classes of the data.")
    modality: Modality | None = Field(
        None, description="What is compared, such as sound; null for the image if there is one."
    )


def _kind_of_image(value: Any) -> str:
    kind = _kind(value)
    return kind if kind == "row" else "upload"


LabelsRequest = Annotated[
    Annotated[LabelsOfUpload, Tag("upload")] | Annotated[LabelsOfRow, Tag("row")],
    Discriminator(_kind_of_image),
]


class ScoredLabel(Answer):
    """A class, compared with an image."""

    name: str
    score: float = Field(description="Probability among the labels, by the model's temperature.")
    similarity: float = Field(description="Cosine similarity with the mean of the prompts.")


class LabelsAnswer(Answer):
    """The most probable classes of an image, the most probable first, at most 100."""

    labels: list[ScoredLabel]


class ImageAnswer(Answer):
    """All that is known of an image, its longest texts cut."""

    row: int
    key: Shown
    captions: Annotated[list[Shown], BeforeValidator(lambda texts: texts[:MAX_CAPTIONS])] = Field(
        description="At most the first 1,000."
    )
    label: int | None
    class_name: Shown | None
    width_pixels: int | None
    height_pixels: int | None
    error: Shown | None = Field(description="Why the image has no embedding.")
    columns: dict[str, Annotated[Any, BeforeValidator(_cut)]] = Field(
        description="Values of the further columns."
    )
    shard: str
    has_image: bool
    has_sound: bool


class ValueCount(Answer):
    """A value of a column, and how many images have it."""

    value: str | int | float | bool
    count: int


class ColumnAnswer(Answer):
    """Content of a column."""

    name: str
    type: str
    num_missing: int = Field(description="Number of images without a value.")
    values: list[ValueCount] | None = Field(
        description="The most frequent values, at most 100; null if nearly all values differ."
    )
    minimum: float | None = Field(description="Smallest number; null for texts.")
    maximum: float | None = Field(description="Largest number; null for texts.")


class MapAnswer(Answer):
    """Positions of images on a plane, where similar images are next to each other."""

    points: list[Annotated[list[int | float | None], Field(min_length=4, max_length=4)]] = Field(
        description="Of each image: x and y from -1 to 1, row, number of the class or null."
    )
