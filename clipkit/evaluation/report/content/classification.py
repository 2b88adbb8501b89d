"""What a classifier predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipkit.evaluation.report.content.images import Thumbnail
from clipkit.evaluation.report.content.inputs import SoundClip


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
class ClassRow:
    """Metrics of one class.

    Args:
        name: Name of the class.
        support: Number of images of the class.
        recall: Share of the images of the class that were predicted as it; None if it does not
            occur.
        precision: Share of the images predicted as the class that belong to it; None if there are
            none.
        f1: Harmonic mean of recall and precision; None if the class does not occur.
        average_precision: Average precision of the class against all others; None if it was not
            measured.
    """

    name: str
    support: int
    recall: float | None
    precision: float | None
    f1: float | None
    average_precision: float | None = None


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions of similar confidence.

    Args:
        low: Lower border of the confidence, from 0 to 1.
        high: Upper border of the confidence.
        count: Number of images.
        confidence: Mean confidence of the images; 0 if there are none.
        accuracy: Share of the images that were classified correctly; 0 if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class ReliabilityDiagram:
    """Whether a classifier is right as often as it is confident.

    Args:
        name: What was measured, such as "before calibration".
        bins: Bins of confidence, from low to high.
        error: Expected calibration error: mean distance of confidence and accuracy, weighted by
            the number of images.
    """

    name: str
    bins: Sequence[ReliabilityBin]
    error: float


@dataclass(frozen=True, slots=True)
class ClassifiedImage:
    """An image and the class that a classifier gave it.

    Args:
        image: The image; of a sound, its spectrogram.
        true: Name of its class.
        predicted: Name of the most likely class.
        rank: Rank of the true class, from 1.
        confidence: Probability of the predicted class; None if the classifier has none.
        sound: The sound, if sounds were classified; None for images.
        text: Text that was classified with the image, such as a question; empty without one.
    """

    image: Thumbnail
    true: str
    predicted: str
    rank: int
    confidence: float | None = None
    sound: SoundClip | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Classifier:
    """Behaviour of one classifier on a data set.

    Args:
        name: Name of the task, such as "zero-shot".
        confusion: Confusion matrix; None to omit it.
        classes: Metrics of each class.
        reliabilities: Confidence and accuracy, before and after calibration; empty to omit them.
        hits: Correctly classified images.
        errors: Incorrectly classified images, most confident first.
        note: How the images were selected.
    """

    name: str
    confusion: Confusion | None = None
    classes: Sequence[ClassRow] = ()
    reliabilities: Sequence[ReliabilityDiagram] = ()
    hits: Sequence[ClassifiedImage] = ()
    errors: Sequence[ClassifiedImage] = ()
    note: str = ""
