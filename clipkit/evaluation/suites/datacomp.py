"""Results in DataComp's format: one line per task, with its main metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_text
from clipkit.evaluation.suites.suite import DataCompTask

_MAIN: Final = "main_metric"
_FILE: Final = "eval_results.jsonl"
_OTHERS: Final = {
    "F1-macro_all": "macro_f1",
    "acc_wg": "worst_group/top1",
    "acc_worst_region": "worst_group/top1",
    "acc_top5_wg": "worst_group/top5",
}
"""Metrics of WILDS by DataComp's name, and ours."""


def datacomp_metrics(
    metrics: Mapping[str, float], all_metrics: Mapping[str, float]
) -> dict[str, float | None]:
    """Return the metrics of a result under DataComp's names.

    Args:
        metrics: Metrics under CLIP_benchmark's names.
        all_metrics: Metrics of the evaluator, for those that CLIP_benchmark lacks.

    Examples:
        >>> recalls = {"image_retrieval_recall@1": 0.5, "text_retrieval_recall@1": 0.7}
        >>> datacomp_metrics(recalls, {})["mean_recall@1"]
        0.6
    """
    values: dict[str, float | None] = dict(metrics)
    if "acc1" in metrics:
        values.setdefault("acc5", None)  # as DataComp writes it for fewer than five classes
    text, image = (metrics.get(f"{kind}_retrieval_recall@1") for kind in ("text", "image"))
    if text is not None and image is not None:
        values["mean_recall@1"] = 0.5 * (text + image)
    for name, key in _OTHERS.items():
        if key in all_metrics:
            values[name] = all_metrics[key]
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
        lines.append(json.dumps({**line, "metrics": {**metrics, _MAIN: value}}))
    write_text(folder / _FILE, "".join(f"{line}\n" for line in lines))
    return left_out
