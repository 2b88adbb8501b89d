"""Evaluate a model and write a page, and an image of the confusion matrix of each classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clipkit.atomic_files import write_bytes
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_report import ClassReport, PerClass
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
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


def evaluate_with_report(
    encoder: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    folder: Path | str,
    *,
    title: str,
    versions: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float]]:
    """Run evaluators, measure every class of classifiers, and write a report.

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
    folder = Path(folder)
    metrics: dict[str, dict[str, float]] = {}
    reports: dict[str, ClassReport] = {}
    for name, evaluator in evaluators.items():
        if isinstance(evaluator, ZeroShotClassification | LabelHeadClassification):
            reports[name] = PerClass(evaluator).measure(encoder)
            metrics[name] = reports[name].metrics()
        else:
            metrics[name] = evaluator.run(encoder)
    confusions = {name: _confusion(report) for name, report in reports.items()}
    for name, confusion in confusions.items():
        write_bytes(folder / f"confusion-{name}.png", confusion_png(confusion))
    # The page lists metrics of single classes as facts, because the tables would be too wide.
    results = [
        Result(name, {k: v for k, v in values.items() if not _is_of_class(k)})
        for name, values in metrics.items()
    ]
    facts = _facts(next(iter(reports.values()), None))
    data = ReportData(
        title=title,
        results=results,
        examples=Examples(confusion=next(iter(confusions.values()), None)),
        run=RunDetails(facts=facts, versions=versions or {}),
    )
    write_report(folder / "report.html", data)
    return metrics


def _is_of_class(key: str) -> bool:
    return key.startswith(("precision/", "recall/", "f1/", "average_precision/"))


def _confusion(report: ClassReport) -> Confusion:
    return Confusion(report.class_names, report.confusion.tolist())


def _facts(report: ClassReport | None) -> list[Fact]:
    return [] if report is None else [_fact(report, n) for n in range(len(report.class_names))]


def _fact(report: ClassReport, number: int) -> Fact:
    scores = report.scores
    recall, precision = float(scores.recall[number]), float(scores.precision[number])
    support = int(scores.support[number])
    if not support:
        return Fact(report.class_names[number], "–", "does not occur")
    return Fact(
        report.class_names[number],
        f"{100 * float(scores.f1[number]):.1f} %",
        f"F1; recall {100 * recall:.1f} %, precision {100 * precision:.1f} % of {support}",
    )
