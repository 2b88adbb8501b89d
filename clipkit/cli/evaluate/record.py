"""The JSON record of ``clipkit evaluate``, with intervals, and the outcomes next to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.atomic_files import write_json

if TYPE_CHECKING:
    from clipkit.evaluation import Evaluation, EvaluationDataset, Evaluator, Outcomes
    from clipkit.evaluation.comparison.intervals import Interval
    from clipkit.evaluation.datasets.associations import AssociationData
    from clipkit.evaluation.datasets.choices import ChoiceData


def write_record(
    path: Path,
    arguments: Mapping[str, Any],
    evaluators: Mapping[str, Evaluator],
    evaluation: Evaluation,
    intervals: Mapping[str, Interval],
) -> None:
    """Write the outcomes, if there are any, then the record that refers to them.

    Args:
        path: Path of the record.
        arguments: What was measured: model, data, weights and so on, in plain types.
        evaluators: Evaluators by the name of their task.
        evaluation: Metrics and outcomes of all of them.
        intervals: Lower and upper end of metrics.
    """
    from clipkit.evaluation.comparison.records import outcomes_path
    from clipkit.evaluation.hashes import data_hash
    from clipkit.evaluation.outcomes.files import save_outcomes

    outcomes = outcomes_path(path)
    if evaluation.outcomes:
        save_outcomes(outcomes, evaluation.outcomes)
    else:
        outcomes.unlink(missing_ok=True)  # those of an earlier record of that name
    several = len(evaluators) > 1
    record = {
        **arguments,
        "tasks": list(evaluators),
        "metrics": evaluation.metrics,
        "details": dict(evaluation.details),
        "reliability": _reliability(evaluation.outcomes),
        "modalities": _modalities(evaluation),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "primary_metrics": {
            task: f"{task}/" * several + evaluator.primary_metric
            for task, evaluator in evaluators.items()
            if f"{task}/" * several + evaluator.primary_metric in evaluation.metrics
        },
        "templates": {
            task: list(evaluator.templates)
            for task, evaluator in evaluators.items()
            if evaluator.templates
        },
        "data_hashes": {
            task: data_hash(data)
            for task, evaluator in evaluators.items()
            if (data := _measured_data(evaluator)) is not None
        },
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(path, record)


def _measured_data(
    evaluator: Evaluator,
) -> EvaluationDataset | ChoiceData | AssociationData | None:
    """Return the data that an evaluator measures on; for probes, the split that is not fitted."""
    from clipkit.evaluation import EvaluationDataset, ProbeSplits
    from clipkit.evaluation.datasets.associations import AssociationData
    from clipkit.evaluation.datasets.choices import ChoiceData

    splits = getattr(evaluator, "splits", None)
    data = splits.test if isinstance(splits, ProbeSplits) else getattr(evaluator, "data", None)
    return data if isinstance(data, EvaluationDataset | ChoiceData | AssociationData) else None


def _modalities(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return retrieval between modalities by measure, query and target; empty without any."""
    from clipkit.evaluation.modality_tables import compared_pairs, modality_tables

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
    from clipkit.evaluation import reliability_diagrams

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
