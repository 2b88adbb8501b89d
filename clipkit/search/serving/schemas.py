"""Requests and answers of the JSON API, with their bounds."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_ROW: Final = 2**53 - 1
"""Largest integer that JavaScript represents exactly."""


class Request(BaseModel):
    """Body of a request: known keys of the exact types only."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Answer(BaseModel):
    """Body of an answer."""

    model_config = ConfigDict(extra="forbid")


class ErrorAnswer(Answer):
    """Why a request was refused."""

    error: str = Field(description="One line: what was expected, and what was found.")


class ColumnAnswer(Answer):
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
    columns: list[ColumnAnswer]
    class_names: list[str] = Field(description="Name of each class by its number.")
    num_classes: int
