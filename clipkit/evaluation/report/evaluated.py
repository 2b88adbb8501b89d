"""Evaluate a model and write a page, and an image of the confusion matrix of each classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.atomic_files import write_bytes
from clipkit.distributed.collectives import rank
from clipkit.evaluation.comparison.intervals import metric_intervals
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.embedding import EmbeddedPairs, known_pairs
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_report import PerClass
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.suite import joined
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.memory import remembering
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.report.collect.classification import classifier_content
from clipkit.evaluation.report.collect.examples import examples_of
from clipkit.evaluation.report.content import Examples, ReportData, Result, RunDetails
from clipkit.evaluation.report.page import write_report
from clipkit.evaluation.report.sections.confusion_image import confusion_png
from clipkit.models import DualEncoder

_OF_CLASS: Final = ("precision/", "recall/", "f1/", "average_precision/")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of a data set that an evaluator has computed."""

    data: EvaluationDataset
    pairs: EmbeddedPairs


@dataclass(frozen=True, slots=True)
class Measured:
    """What a page is written from.

    Args:
        evaluations: Result of each evaluator by its name.
        embedded: Embeddings of the data whose examples are shown; None if no evaluator embedded
            images.
    """

    evaluations: dict[str, Evaluation]
    embedded: Embedded | None


def evaluate_with_report(
    encoder: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    folder: Path | str,
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Run evaluators, measure every class of classifiers, and write a report.

    The report consists of ``report.html`` and one ``confusion-NAME.png`` per classifier. Evaluators
    of the same data share one pass over the images.

    Args:
        encoder: Model to evaluate.
        evaluators: Evaluators by name.
        folder: Folder for the files.
        title: Title of the page.
        versions: Versions of packages by name, for the page; None for none.

    Returns:
        Metrics by name of the evaluator. Those of classifiers include every class.

    Examples:
        >>> evaluators = {"zero-shot": ZeroShotClassification("data/val")}
        >>> metrics = evaluate_with_report(encoder, evaluators, "report", title="Colours")
        >>> "recall/red" in metrics["zero-shot"], Path("report/report.html").is_file()
        (True, True)
    """
    measured = measure(encoder, evaluators)
    evaluations = measured.evaluations
    if rank() == 0:
        intervals = metric_intervals(joined(evaluations).outcomes)
        write_evaluations(folder, measured, intervals, title=title, versions=versions)
    return {name: evaluation.metrics for name, evaluation in evaluations.items()}


def measure(encoder: DualEncoder, evaluators: Mapping[str, Evaluator]) -> Measured:
    """Run evaluators, those of classifiers class by class, with one pass over the images.

    Args:
        encoder: Model to evaluate.
        evaluators: Evaluators by name.

    Returns:
        Results and embeddings, for ``write_evaluations``.
    """
    # Those that embed captions are first, because others can use their images.
    order = sorted(evaluators, key=lambda name: not isinstance(evaluators[name], Retrieval))
    with remembering():
        evaluations = {name: _with_classes(evaluators[name]).evaluate(encoder) for name in order}
        parts = (_embedded(encoder, evaluators[name]) for name in order)
        embedded = next(filter(None, parts), None)
    return Measured({name: evaluations[name] for name in evaluators}, embedded)


def write_evaluations(
    folder: Path | str,
    measured: Measured,
    intervals: Mapping[str, tuple[float, float]],
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> None:
    """Write ``report.html`` and one ``confusion-NAME.png`` per classifier.

    Args:
        folder: Folder for the files.
        measured: Results of ``measure``.
        intervals: Lower and upper limit of each metric by ``NAME/METRIC``.
        title: Title of the page.
        versions: Versions of packages by name; None for none.
    """
    evaluations, embedded = measured.evaluations, measured.embedded
    if embedded is None:
        classifiers = [
            classifier_content(name, part)
            for name, evaluation in evaluations.items()
            for part in evaluation.outcomes
            if part.kind == "classification"
        ]
        examples = Examples(classifiers=classifiers)
    else:
        examples = examples_of(embedded.data, embedded.pairs, evaluations)
    for part in examples.classifiers:
        if part.confusion is not None:
            path = Path(folder) / f"confusion-{part.name}.png"
            write_bytes(path, confusion_png(part.confusion))
    results = [
        _result(name, evaluation.metrics, intervals) for name, evaluation in evaluations.items()
    ]
    run = RunDetails(versions=versions or {})
    write_report(Path(folder) / "report.html", ReportData(title, "", results, (), examples, run))


def _result(
    name: str, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> Result:
    # Metrics of single classes are in the table of classes.
    shown = {key: value for key, value in metrics.items() if not key.startswith(_OF_CLASS)}
    prefix = f"{name}/"
    of_shown = {
        key.removeprefix(prefix): limits
        for key, limits in intervals.items()
        if key.startswith(prefix) and key.removeprefix(prefix) in shown
    }
    return Result(name, shown, intervals=of_shown)


def _with_classes(evaluator: Evaluator) -> Evaluator:
    if isinstance(evaluator, ZeroShotClassification | LabelHeadClassification):
        return PerClass(evaluator)
    return evaluator


def _embedded(encoder: DualEncoder, evaluator: Evaluator) -> Embedded | None:
    if isinstance(evaluator, Retrieval):
        return Embedded(evaluator.data, evaluator.embed(encoder))
    if not isinstance(evaluator, ZeroShotClassification | LabelHeadClassification):
        return None
    pairs = known_pairs(encoder, evaluator.data, evaluator.options)
    return None if pairs is None else Embedded(evaluator.data, pairs)
