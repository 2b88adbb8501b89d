"""A full report out of nothing but arithmetic and a few coloured squares."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from clipkit.evaluation.report import (
    CaptionHit,
    Chart,
    ClassifiedImage,
    Classifier,
    ClassRow,
    Clouds,
    Confusion,
    EmbeddingHealth,
    EmbeddingMap,
    Examples,
    Explanation,
    Fact,
    Gallery,
    ImageHit,
    ImageQuery,
    InputHit,
    InputQuery,
    MapClass,
    ModalityGallery,
    Projection,
    RecallCurve,
    ReliabilityBin,
    ReliabilityDiagram,
    ReportData,
    Result,
    RunDetails,
    Series,
    ShownInput,
    SimilarityHistogram,
    SoundClip,
    TextQuery,
    Thumbnail,
    ThumbnailSheet,
    TowerParameters,
)
from tests.helpers.factories import COLORS, image_bytes
from tests.helpers.sounds import wav_bytes

SECTIONS = (
    "results", "curves", "recall", "gallery", "errors", "modalities", "classes", "confusion",
    "reliability", "classified", "map", "health", "explanations", "matches", "run",
)  # fmt: skip
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


def classified(number: int, rank: int) -> ClassifiedImage:
    predicted = NAMES[number % 5] if rank > 1 else NAMES[0]
    return ClassifiedImage(thumbnail(number), NAMES[0], predicted, rank, 0.9 - 0.05 * number)


def reliability(name: str) -> ReliabilityDiagram:
    bins = [
        ReliabilityBin(i / 5, (i + 1) / 5, 10 * i, i / 5 + 0.1, 0.2 * i if i else 0.0)
        for i in range(5)
    ]
    return ReliabilityDiagram(name, bins, 0.123)


def classifier(name: str) -> Classifier:
    counts = np.random.default_rng(0).integers(0, 9, (5, 5)) + 40 * np.eye(5, dtype=int)
    rows = [ClassRow(part, 45 + i, 0.5 + 0.1 * i, 0.4, 0.45) for i, part in enumerate(NAMES)]
    absent = ClassRow("absent", 0, None, None, None)
    many = [ClassRow(f"class {i}", i, i / 40, i / 50, i / 45) for i in range(30)]
    return Classifier(
        name, Confusion(NAMES, counts.tolist()), [*rows, absent, *many],
        [reliability("As predicted"), reliability("Calibrated")],
        [classified(i, 1) for i in range(4)], [classified(i, 2 + i) for i in range(1, 5)],
        "Hits are selected at random.",
    )  # fmt: skip


def sound(number: int) -> ShownInput:
    """A silent sound with a player, or one without for lack of room."""
    data = wav_bytes(bytes(3200), 8000, 1, 16) if number != 3 else b""
    caption = f"a tone {number} {HOSTILE}"
    return ShownInput(caption, sound=SoundClip(data, "audio/wav", thumbnail(number), caption))


def modality_gallery(title: str) -> ModalityGallery:
    """Sounds as queries for texts, or as hits of images."""
    texts = [ShownInput(f"a tone {number} {LONG_WORD}") for number in range(5)]
    sounds, images = [sound(i) for i in range(5)], [ShownInput("", thumbnail(i)) for i in range(5)]
    queries, targets = (sounds, texts) if title == "Sound to text" else (images, sounds)
    hits = [InputHit(part, 0.5 - 0.1 * i, i == 1) for i, part in enumerate(targets)]
    shown = [InputQuery(part, hits, targets[1], (2, 90)[i % 2]) for i, part in enumerate(queries)]
    return ModalityGallery(title, shown)


def embedding_map(count: int = 9) -> EmbeddingMap:
    places = [(math.cos(i), math.sin(2.0 * i)) for i in range(count)]
    return EmbeddingMap(
        captions=[f"square {i} {HOSTILE}" for i in range(count)],
        projections=[Projection("PCA", places, "31 % of the variance"), Projection("UMAP", places)],
        sheet=ThumbnailSheet(thumbnail(0, "nine squares"), 3, 3),
        classes=[MapClass(name, 2, 0.5) for name in NAMES],
        class_of=[i % 5 if i < 8 else None for i in range(count)],
        note="All 9 images.",
    )


def explanation() -> Explanation:
    words = [("a", 0.05), ("red", 0.9), ("square", -0.4), (HOSTILE, 0.1)]
    return Explanation(thumbnail(0), thumbnail(1, "heat map"), words, 0.31, "Attention rollout.")


def match() -> Explanation:
    parts = [("red", thumbnail(2)), (LONG_WORD, thumbnail(3)), (HOSTILE, thumbnail(1))]
    return replace(explanation(), similarity=2.5, measure="Matching logit", parts=parts)


def recall_curve(direction: str) -> RecallCurve:
    points = [(1, 0.1), (2, 0.2), (5, 0.35), (10, 0.6), (100, 0.9), (1504, 1.0)]
    return RecallCurve(direction, points, 1504, 1504, 7.5, 60.25)


def curve(start: float, end: float, count: int = 600) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, count)
    return [(10.0 * i, end + (start - end) * math.exp(-i / 100) + noise[i]) for i in range(count)]


def full_report() -> ReportData:
    ranks = (1, 1, 3, 400, 1, 2, 12345, 1, 5, 7, 1, 1, 1, 6)
    metrics = {name: 0.1 * (i + 1) for i, name in enumerate(RECALLS)}
    return ReportData(
        title=f"A run {HOSTILE}",
        subtitle="Squares of four colours and their names.",
        results=[
            Result(
                "Unseen drawings",
                metrics | {"top1": 0.5, "l2": 0.001},
                "1,504 images",
                intervals={RECALLS[0]: (0.08, 0.125), "top1": (0.47, 0.53), "l2": (0.0, 0.01)},
            ),
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
            errors=Gallery([text_query(1, 9)], [image_query(1, 8)], "The worst of 20."),
            recalls=[recall_curve("Text to image"), recall_curve("Image to text")],
            classifiers=[classifier("zero-shot"), classifier("label-head")],
            map=embedding_map(),
            health=EmbeddingHealth(
                SimilarityHistogram([-0.2, 0.1, 0.4, 0.7], [0, 0.2, 0.8], [0.7, 0.3, 0]),
                [Fact("Modality gap", "0.31", "distance of the means")],
                Clouds([(0.0, 0.1), (0.2, 0.3)], [(2.0, 1.0)], "principal components"),
            ),
            explanations=[explanation()],
            matches=[match()],
            modalities=[modality_gallery("Sound to text"), modality_gallery("Image to sound")],
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
