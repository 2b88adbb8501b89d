"""Write the page of ``clipkit evaluate --report``, and a confusion matrix per classifier."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from clipkit.atomic_files import write_bytes
from clipkit.cli.arguments import shown_weights, versions
from clipkit.evaluation import (
    ClassReport,
    Evaluator,
    LabelHeadClassification,
    PerClass,
    ZeroShotClassification,
)
from clipkit.evaluation.report import (
    Confusion,
    Examples,
    Fact,
    ReportData,
    Result,
    RunDetails,
    confusion_png,
    write_report,
)
from clipkit.models import DualEncoder


def measure_and_report(
    args: argparse.Namespace,
    evaluators: Mapping[str, Evaluator],
    encoder: DualEncoder,
    weights: str | None,
) -> dict[str, dict[str, float]]:
    """Run evaluators, classifiers with metrics of every class, and write the report.

    Args:
        args: Arguments of ``clipkit evaluate``; ``report`` is the output folder.
        evaluators: Evaluators by task.
        encoder: Model to evaluate.
        weights: Name of the checkpoint's weights in use; None if the checkpoint has one set.

    Returns:
        Metrics by task.
    """
    metrics: dict[str, dict[str, float]] = {}
    reports: dict[str, ClassReport] = {}
    for task, evaluator in evaluators.items():
        if isinstance(evaluator, ZeroShotClassification | LabelHeadClassification):
            reports[task] = PerClass(evaluator).measure(encoder)
            metrics[task] = reports[task].metrics()
        else:
            metrics[task] = evaluator.run(encoder)
    folder: Path = args.report
    confusions = {task: _confusion(report) for task, report in reports.items()}
    for task, confusion in confusions.items():
        write_bytes(folder / f"confusion-{task}.png", confusion_png(confusion))
    # The page lists metrics of single classes as facts, because the tables would be too wide.
    results = [
        Result(task, {k: v for k, v in values.items() if not _is_of_class(k)})
        for task, values in metrics.items()
    ]
    data = ReportData(
        title=f"{Path(args.model).name}{shown_weights(weights)} on {Path(args.data).name}",
        results=results,
        examples=Examples(confusion=next(iter(confusions.values()), None)),
        run=RunDetails(facts=_facts(next(iter(reports.values()), None)), versions=versions()),
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
