"""Compare the outcomes of models, and correct the p-values of all tests together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clipkit.errors import DataError
from clipkit.evaluation.comparison.classes import class_changes
from clipkit.evaluation.comparison.content import Change, PairComparison, Resampling
from clipkit.evaluation.comparison.paired import aligned, holm, metric_changes
from clipkit.evaluation.outcomes.outcomes import Outcomes

_OF_GROUP = "group/"
"""Start of the names of metrics of one compared group, such as a region."""


def compare_outcomes(
    baseline: Sequence[Outcomes],
    model: Sequence[Outcomes],
    names: tuple[str, str],
    *,
    data: str = "",
    task: str = "",
    primary_metric: str = "",
    resampling: Resampling = Resampling(),
) -> PairComparison:
    """Compare two models on one data set.

    Args:
        baseline: Outcomes of the model that is compared with.
        model: Outcomes of the other model for the same units, in any order.
        names: Names of both models.
        data: Name of the data.
        task: Name of the task.
        primary_metric: Key of the metric that models are compared by; empty for the first one.
        resampling: Confidence, number of samples and permutations, seed.

    Returns:
        The comparison; p-values are not yet corrected. See ``corrected``.

    Raises:
        DataError: If the outcomes are not those of the same data and classes.
    """
    if [part.prefix for part in baseline] != [part.prefix for part in model]:
        wanted, got = ([part.prefix + part.kind for part in parts] for parts in (baseline, model))
        raise DataError(
            f"{names[1]}: expected outcomes of {', '.join(wanted)} as {names[0]} has, got "
            f"{', '.join(got)}; evaluate both models with the same options"
        )
    changes, classes = list[Change](), list[Change]()
    for first, unordered in zip(baseline, model, strict=True):
        second = aligned(first, unordered, names)
        changes += metric_changes(first, second, resampling)
        if first.kind == "classification":
            classes += class_changes(first, second, resampling)
    class_names = {name for part in baseline for name in part.class_names}
    single = [c for c in changes if _is_of_class(c.name, class_names)]
    changes = [change for change in changes if change not in single]
    changes.sort(key=lambda change: change.name != primary_metric)  # stable
    units = {key for part in baseline for key in part.keys}
    groups = {group for part in baseline for group in part.groups}
    return PairComparison(
        data, task, names[0], names[1], tuple(changes), (*classes, *single), len(units), len(groups)
    )


def corrected(pairs: Sequence[PairComparison], resampling: Resampling) -> list[PairComparison]:
    """Correct p-values by Holm's method, and put the greatest changes of classes first.

    The primary metrics of all data sets and models are one family of tests. The other metrics of a
    pair of models on a data set are another one, and so are its classes.

    Args:
        pairs: Comparisons with p-values that are not corrected.
        resampling: Its confidence decides what is noise.
    """
    primary = _correct([pair.metrics[0] for pair in pairs if pair.metrics], resampling)
    first = iter(primary)
    result = []
    for pair in pairs:
        metrics = (next(first), *_correct(pair.metrics[1:], resampling)) if pair.metrics else ()
        classes = _correct(pair.classes, resampling)
        classes.sort(key=lambda change: (change.is_noise, -abs(change.difference.value)))
        result.append(replace(pair, metrics=metrics, classes=tuple(classes)))
    return result


def _correct(changes: Sequence[Change], resampling: Resampling) -> list[Change]:
    values = holm([change.p_value for change in changes])
    return [
        replace(change, corrected_p_value=value, is_noise=not value < 1 - resampling.confidence)
        for change, value in zip(changes, values, strict=True)
    ]


def _is_of_class(metric: str, class_names: set[str]) -> bool:
    """Return whether a metric is that of one class or compared group."""
    return metric.startswith(_OF_GROUP) or metric.rpartition("/")[2] in class_names
