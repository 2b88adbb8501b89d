"""Evaluate a model and write a page, and an image of the confusion matrix of each classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipkit.atomic_files import write_bytes
from clipkit.distributed.collectives import rank
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_report import ClassReport, PerClass
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.report.content import (
    Confusion,
    Examples,
    Fact,
    ReportData,
    Result,
    RunDetails,
)
from clipkit.evaluation.report.page import write_report
from clipkit.evaluation.report.sections.confusion_image import confusion_png
from clipkit.models import DualEncoder

_OF_CLASS = ("precision/", "recall/", "f1/", "average_precision/")


def evaluate_with_report(
    encoder: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    folder: Path | str,
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Run evaluators, measure every class of classifiers, and write a report.

    See ``report_evaluations``, which returns the outcomes too.

    The report consists of ``report.html`` and one ``confusion-NAME.png`` per classifier.

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
    evaluations = report_evaluations(encoder, evaluators, folder, title=title, versions=versions)
    return {name: evaluation.metrics for name, evaluation in evaluations.items()}


def report_evaluations(
    encoder: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    folder: Path | str,
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Evaluation]:
    """Return what ``evaluate_with_report`` measures, with the outcome of each image or query."""
    folder = Path(folder)
    evaluations: dict[str, Evaluation] = {}
    reports: dict[str, ClassReport] = {}
    for name, evaluator in evaluators.items():
        if isinstance(evaluator, ZeroShotClassification | LabelHeadClassification):
            reports[name] = PerClass(evaluator).measure(encoder)
            evaluations[name] = reports[name].evaluation()
        else:
            evaluations[name] = evaluator.evaluate(encoder)
    if rank() > 0:
        return evaluations
    confusions = {
        name: Confusion(report.class_names, report.confusion.tolist())
        for name, report in reports.items()
    }
    for name, confusion in confusions.items():
        write_bytes(folder / f"confusion-{name}.png", confusion_png(confusion))
    # The page lists metrics of single classes as facts, because the tables would be too wide.
    results = [
        Result(name, {k: v for k, v in evaluation.metrics.items() if not k.startswith(_OF_CLASS)})
        for name, evaluation in evaluations.items()
    ]
    first = next(iter(reports.values()), None)
    facts = [] if first is None else [_fact(first, n) for n in range(len(first.class_names))]
    examples = Examples(confusion=next(iter(confusions.values()), None))
    run = RunDetails(facts=facts, versions=versions or {})
    write_report(folder / "report.html", ReportData(title, "", results, (), examples, run))
    return evaluations


def _fact(report: ClassReport, number: int) -> Fact:
    scores, name = report.scores, report.class_names[number]
    support = int(scores.support[number])
    if not support:
        return Fact(name, "–", "does not occur")
    f1, recall, precision = (
        f"{100 * float(values[number]):.1f} %"
        for values in (scores.f1, scores.recall, scores.precision)
    )
    return Fact(name, f1, f"F1; recall {recall}, precision {precision} of {support}")
