"""A full report out of nothing but arithmetic and a few coloured squares."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np

from clipkit.evaluation.report import (
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
from tests.helpers.factories import COLORS, image_bytes

HOSTILE = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }} {% raw %} "
LONG_WORD = "incomprehensibilities" * 6
NAMES = ("smileys & emotion", "people", "animals", "travel and places of this wide world", HOSTILE)
RECALLS = tuple(
    f"{way}/recall_at_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)
)


def thumbnail(number: int, caption: str = "") -> Thumbnail:
    color = list(COLORS)[number % len(COLORS)]
    data = image_bytes(color, seed=number, format="WEBP")
    return Thumbnail(data, caption or f"a {color} square")


def text_query(number: int, rank: int) -> TextQuery:
    text = (f"a square, number {number}", HOSTILE, LONG_WORD)[min(number, 2)]
    hits = [ImageHit(thumbnail(i), 0.6 - 0.1 * i, i + 1 == rank) for i in range(5)]
    return TextQuery(text, hits, thumbnail(number), rank)


def image_query(number: int, rank: int) -> ImageQuery:
    hits = [CaptionHit(f"caption {i} {HOSTILE}", 0.6 - 0.2 * i, i + 1 == rank) for i in range(5)]
    return ImageQuery(thumbnail(number), hits, f"answer {number}", rank)


def curve(start: float, end: float, count: int = 600) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, count)
    return [(10.0 * i, end + (start - end) * math.exp(-i / 100) + noise[i]) for i in range(count)]


def full_report() -> ReportData:
    ranks = (1, 1, 3, 400, 1, 2, 12345, 1, 5, 7, 1, 1, 1, 6)
    counts = np.random.default_rng(0).integers(0, 9, (5, 5)) + 40 * np.eye(5, dtype=int)
    metrics = {name: 0.1 * (i + 1) for i, name in enumerate(RECALLS)}
    return ReportData(
        title=f"A run {HOSTILE}",
        subtitle="Squares of four colours and their names.",
        results=[
            Result("Unseen drawings", metrics | {"top1": 0.5, "l2": 0.001}, "1,504 images"),
            Result("Chance", dict.fromkeys(RECALLS, 0.0007), is_baseline=True),
        ],
        charts=[
            Chart("Loss", [Series("loss", curve(6, 0.5)), Series("label", curve(2, 0.1))]),
            Chart("Recall", [Series("at 1", curve(0, 0.4, 9))], is_share=True, note="%"),
            Chart("Constant", [Series("learning rate", [(0.0, 1e-3), (90.0, 1e-3)])]),
        ],
        examples=Examples(
            gallery=Gallery(
                text_queries=[text_query(i, rank) for i, rank in enumerate(ranks)],
                image_queries=[image_query(i, rank) for i, rank in enumerate(ranks[:4])],
                note="Selected at random.",
            ),
            confusion=Confusion(NAMES, counts.tolist()),
            health=EmbeddingHealth(
                SimilarityHistogram([-0.2, 0.1, 0.4, 0.7], [0, 0.2, 0.8], [0.7, 0.3, 0]),
                [Fact("Modality gap", "0.31", "distance of the means")],
            ),
        ),
        run=RunDetails(
            facts=[Fact("Duration", "4 min 58 s"), Fact("Samples seen", "172,032", "33 epochs")],
            parameters=[
                TowerParameters("Image tower", 6_812_416, 0),
                TowerParameters("Text", 1, 9),
            ],
            versions={"clipkit": "0.1.0", "torch": "2.9.1"},
            config=f"seed: 0\n{HOSTILE}\n" + "key: " + "long " * 90,
        ),
        credits=["Squares: public domain."],
        created=datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
    )
