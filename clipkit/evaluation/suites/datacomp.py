"""Results in DataComp's format: one line per task, with its main metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clipkit.atomic_files import write_text
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.suites.suite import DataCompTask

MAIN_METRIC = "main_metric"
_FILE = "eval_results.jsonl"


def datacomp_metrics(
    metrics: Mapping[str, float], outcomes: Sequence[Outcomes]
) -> dict[str, float | None]:
    """Return the metrics of a result under DataComp's names.

    Args:
        metrics: Metrics under CLIP_benchmark's names.
        outcomes: Outcome of each image, for those that CLIP_benchmark lacks.

    Examples:
        >>> recalls = {"image_retrieval_recall@1": 0.5, "text_retrieval_recall@1": 0.7}
        >>> datacomp_metrics(recalls, ())["mean_recall@1"]
        0.6
    """
    values: dict[str, float | None] = dict(metrics)
    if "acc1" in metrics:
        values.setdefault("acc5", None)  # as DataComp writes it for fewer than five classes
    directions = [metrics.get(f"{kind}_retrieval_recall@1") for kind in ("text", "image")]
    if None not in directions:
        values["mean_recall@1"] = 0.5 * sum(value for value in directions if value is not None)
    for part in outcomes:
        if part.kind == "classification":
            values["F1-macro_all"] = _macro_f1(part)
    return values


def write_datacomp(
    folder: Path, results: Sequence[tuple[DataCompTask, Mapping[str, float | None]]]
) -> list[str]:
    """Write ``eval_results.jsonl`` of a model; tasks without their main metric are left out.

    Args:
        folder: Folder of the file.
        results: Tasks and their metrics; see ``datacomp_metrics``.

    Returns:
        Keys of the tasks that were left out.
    """
    lines, left_out = [], []
    for task, metrics in results:
        value = metrics.get(task.main_metric)
        if value is None:
            left_out.append(task.key)
            continue
        line: dict[str, Any] = {"key": task.key, "dataset": task.name}
        lines.append(json.dumps({**line, "metrics": {**metrics, MAIN_METRIC: value}}))
    write_text(folder / _FILE, "".join(f"{line}\n" for line in lines))
    return left_out


def _macro_f1(outcomes: Outcomes) -> float:
    """Return the mean F1 of the classes that occur, as WILDS computes it."""
    label, chosen = outcomes.columns["label"].long(), outcomes.columns["chosen"].long()
    size = int(max(label.max(), chosen.max())) + 1
    support, predicted, hits = (
        torch.bincount(rows, minlength=size).double()
        for rows in (label, chosen, label[label == chosen])
    )
    occurs = support > 0
    return float((2 * hits / (support + predicted))[occurs].mean())
