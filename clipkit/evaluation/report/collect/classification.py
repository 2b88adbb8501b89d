"""Collect what a classifier predicts: classes, confusions, reliability, hits and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from clipkit.evaluation.datasets.sample_source import ShownSamples
from clipkit.evaluation.outcomes.classification import reliability_diagrams
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.report.collect.sound_clips import SoundClips
from clipkit.evaluation.report.collect.thumbnails import Thumbnails
from clipkit.evaluation.report.content import (
    ClassifiedImage,
    Classifier,
    ClassRow,
    Confusion,
    ReliabilityBin,
    ReliabilityDiagram,
    SoundClip,
)
from clipkit.metrics.calibration import Reliability

_MAX_CONFUSION: Final = 1000
"""Largest number of classes of a confusion matrix; of more, those with the most errors are kept."""
_CONFIDENCES: Final = {
    "confidence": "As predicted",
    "calibrated_confidence": "With a temperature fitted on other images",
}


def classifier_content(
    name: str,
    outcomes: Outcomes,
    inputs: Thumbnails | SoundClips | None = None,
    *,
    num_images: int = 24,
    seed: int = 0,
    texts: ShownSamples | None = None,
) -> Classifier:
    """Collect the content of the sections about a classifier.

    Args:
        name: Name of the task.
        outcomes: Outcomes of kind "classification", in the order of the data.
        inputs: Thumbnails of the images, or clips of the sounds, in the same order; None to show
            none.
        num_images: Number of hits, and of errors.
        seed: Seed of the selection of hits.
        texts: Data whose texts are shown with the images, in the same order; None for none.

    Returns:
        The content for ``Examples``.
    """
    labels, chosen = outcomes.columns["label"], outcomes.columns["chosen"]
    is_right = outcomes.columns["rank"] == 0
    hits, errors = list[ClassifiedImage](), list[ClassifiedImage]()
    if inputs is not None:
        hits = _classified(outcomes, inputs, _random(is_right, num_images, seed), texts)
        errors = _classified(outcomes, inputs, _worst(outcomes, num_images), texts)
    kind = "sounds" if isinstance(inputs, SoundClips) else "images"
    return Classifier(
        name=name,
        confusion=confusion_content(chosen, labels, outcomes.class_names),
        classes=class_rows(chosen, labels, outcomes.class_names),
        reliabilities=[
            reliability_content(_CONFIDENCES[name], measured)
            for name, measured in reliability_diagrams(outcomes).items()
        ],
        hits=hits,
        errors=errors,
        note=f"{int(is_right.sum()):,} of {len(labels):,} {kind} are classified correctly. Hits "
        f"are selected at random (seed {seed}).",
    )


def multi_label_content(name: str, outcomes: Outcomes) -> Classifier:
    """Collect the metrics of each class of images that may have several classes.

    Args:
        name: Name of the task.
        outcomes: Outcomes of kind "multi-label".
    """
    target = outcomes.columns["target"]
    applies = target == 1
    taken = outcomes.columns.get("predicted")
    rows = []
    for number, of_class in enumerate(outcomes.class_names):
        support = int(applies[:, number].sum())
        if taken is None:
            rows.append(ClassRow(of_class, support, None, None, None))
            continue
        predicted = int((taken[:, number] & (target[:, number] >= 0)).sum())
        hits = int((taken[:, number] & applies[:, number]).sum())
        rows.append(_row(of_class, support, predicted, hits))
    return Classifier(name, classes=rows)


def with_average_precisions(classifier: Classifier, metrics: Mapping[str, float]) -> Classifier:
    """Add the average precision of each class from the metrics ``average_precision/NAME``."""
    rows = [
        replace(row, average_precision=metrics.get(f"average_precision/{row.name}"))
        for row in classifier.classes
    ]
    return replace(classifier, classes=rows)


def class_rows(
    chosen: Int64[Tensor, " N"], labels: Int64[Tensor, " N"], names: tuple[str, ...]
) -> list[ClassRow]:
    """Return recall, precision and F1 of each class."""
    support, predicted, hits = (
        torch.bincount(numbers, minlength=len(names)).tolist()
        for numbers in (labels, chosen, labels[chosen == labels])
    )
    return [_row(*counts) for counts in zip(names, support, predicted, hits, strict=True)]


def _row(name: str, support: int, predicted: int, hits: int) -> ClassRow:
    return ClassRow(
        name,
        support,
        hits / support if support else None,
        hits / predicted if predicted else None,
        2 * hits / (support + predicted) if support else None,
    )


def confusion_content(
    chosen: Int64[Tensor, " N"], labels: Int64[Tensor, " N"], names: tuple[str, ...]
) -> Confusion:
    """Count true classes by predicted class, of at most 1,000 classes."""
    wrong = chosen != labels
    errors = torch.bincount(torch.cat([labels[wrong], chosen[wrong]]), minlength=len(names))
    kept = errors.argsort(descending=True, stable=True)[:_MAX_CONFUSION].sort().values
    place = torch.full((len(names),), -1)
    place[kept] = torch.arange(len(kept))
    rows, columns = place[labels], place[chosen]
    inside = (rows >= 0) & (columns >= 0)
    flat = torch.bincount(rows[inside] * len(kept) + columns[inside], minlength=len(kept) ** 2)
    counts = flat.view(len(kept), len(kept)).tolist()
    return Confusion([names[number] for number in kept.tolist()], counts)


def reliability_content(name: str, measured: Reliability) -> ReliabilityDiagram:
    """Arrange the bins of a reliability diagram."""
    upper = measured.upper.tolist()
    columns = (measured.weight, measured.confidence, measured.accuracy)
    bins = [
        ReliabilityBin(low, high, round(count), confidence, accuracy)
        for low, high, count, confidence, accuracy in zip(
            [0.0, *upper[:-1]], upper, *(column.tolist() for column in columns), strict=True
        )
    ]
    return ReliabilityDiagram(name, bins, measured.error())


def _classified(
    outcomes: Outcomes,
    inputs: Thumbnails | SoundClips,
    rows: Int64[Tensor, " rows"],
    texts: ShownSamples | None,
) -> list[ClassifiedImage]:
    names, columns = outcomes.class_names, outcomes.columns
    confidence = columns.get("confidence")
    classified = []
    for row in rows.tolist():
        shown = inputs[row]
        sound = shown if isinstance(shown, SoundClip) else None
        item = ClassifiedImage(
            shown.spectrogram if isinstance(shown, SoundClip) else shown,
            names[int(columns["label"][row])],
            names[int(columns["chosen"][row])],
            1 + int(columns["rank"][row]),
            None if confidence is None else float(confidence[row]),
            sound,
            "" if texts is None else " ".join(texts.without_file(row).captions[:1]),
        )
        classified.append(item)
    return classified


def _random(is_right: Bool[Tensor, " N"], count: int, seed: int) -> Int64[Tensor, " rows"]:
    rows = is_right.nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]]


def _worst(outcomes: Outcomes, count: int) -> Int64[Tensor, " rows"]:
    """Return the most confident errors; without confidences those with the worst ranks."""
    rank = outcomes.columns["rank"]
    rows = (rank > 0).nonzero().flatten()
    badness = outcomes.columns.get("confidence", rank.double())
    return rows[badness[rows].argsort(descending=True, stable=True)[:count]]
