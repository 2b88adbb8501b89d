"""The JSON record of an evaluation, with intervals, and the outcomes next to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from clipkit.atomic_files import write_json
from clipkit.evaluation.comparison.intervals import Interval
from clipkit.evaluation.comparison.records import outcomes_path
from clipkit.evaluation.datasets.associations import AssociationData
from clipkit.evaluation.datasets.choices import ChoiceData
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.hashes import data_hash
from clipkit.evaluation.modality_tables import compared_pairs, modality_tables
from clipkit.evaluation.outcomes.classification import reliability_diagrams
from clipkit.evaluation.outcomes.files import save_outcomes
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.probes.splits import ProbeSplits


def write_record(
    path: Path | str,
    evaluators: Mapping[str, Evaluator],
    evaluation: Evaluation,
    arguments: Mapping[str, Any],
    intervals: Mapping[str, Interval],
) -> None:
    """Write a record that ``clipkit compare`` and ``compare_records`` read, and the outcomes.

    The outcomes, if there are any, are written first, to ``NAME.outcomes.npz`` next to
    ``NAME.json``.

    Args:
        path: Path of the record.
        evaluators: Evaluators by the name of their task.
        evaluation: Metrics and outcomes of all of them, those of several after ``TASK/``, as
            ``EvaluationSuite`` returns them.
        arguments: What was measured, in plain types: "model", "data", and anything else.
        intervals: Lower and upper end of metrics by name; empty for none.

    Examples:
        >>> evaluator = ZeroShotClassification("data/val")
        >>> arguments = {"model": "mine", "data": "data/val"}
        >>> evaluation = evaluator.evaluate(encoder)
        >>> write_record("mine.json", {"zero-shot": evaluator}, evaluation, arguments, {})
        >>> sorted(path.name for path in Path().glob("mine.*"))
        ['mine.json', 'mine.outcomes.npz']
    """
    path = Path(path)
    outcomes = outcomes_path(path)
    if evaluation.outcomes:
        save_outcomes(outcomes, evaluation.outcomes)
    else:
        outcomes.unlink(missing_ok=True)  # those of an earlier record of that name
    record = {
        **arguments,
        "tasks": list(evaluators),
        "metrics": evaluation.metrics,
        "details": dict(evaluation.details),
        "reliability": _reliability(evaluation.outcomes),
        "modalities": _modalities(evaluation),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "primary_metrics": _primary_metrics(evaluators, evaluation),
        "templates": {
            task: list(evaluator.templates)
            for task, evaluator in evaluators.items()
            if evaluator.templates
        },
        "data_hashes": _hashes(evaluators),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(path, record)


def _primary_metrics(evaluators: Mapping[str, Evaluator], evaluation: Evaluation) -> dict[str, str]:
    """Return the metric of each task that models are compared by, if it was measured."""
    several = len(evaluators) > 1
    names = {task: f"{task}/" * several + e.primary_metric for task, e in evaluators.items()}
    return {task: name for task, name in names.items() if name in evaluation.metrics}


def _hashes(evaluators: Mapping[str, Evaluator]) -> dict[str, str]:
    """Return the hash of the data of each task."""
    by_task = {task: _measured_data(evaluator) for task, evaluator in evaluators.items()}
    return {task: data_hash(data) for task, data in by_task.items() if data is not None}


def _measured_data(
    evaluator: Evaluator,
) -> EvaluationDataset | ChoiceData | AssociationData | None:
    """Return the data that an evaluator measures on; for probes, the split that is not fitted."""
    splits = getattr(evaluator, "splits", None)
    data = splits.test if isinstance(splits, ProbeSplits) else getattr(evaluator, "data", None)
    return data if isinstance(data, EvaluationDataset | ChoiceData | AssociationData) else None


def _modalities(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return retrieval between modalities by measure, query and target; empty without any."""
    pairs = compared_pairs(evaluation.metrics, evaluation.details)
    return {
        measure: {
            query: {target: evaluation.metrics[key] for target, key in targets.items()}
            for query, targets in queries.items()
        }
        for measure, queries in modality_tables(evaluation.metrics, pairs).items()
    }


def _reliability(parts: Sequence[Outcomes]) -> dict[str, dict[str, list[float]]]:
    """Return the bins of the reliability diagrams of classifiers, by prefix and confidence."""
    return {
        f"{part.prefix}{name}": {
            "upper": diagram.upper.tolist(),
            "weight": diagram.weight.tolist(),
            "confidence": diagram.confidence.tolist(),
            "accuracy": diagram.accuracy.tolist(),
        }
        for part in parts
        if part.kind == "classification"
        for name, diagram in reliability_diagrams(part).items()
    }
