"""Paired differences of two models on the same units: intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from clipkit.errors import DataError
from clipkit.evaluation.comparison.content import Change, Estimate, Resampling
from clipkit.evaluation.comparison.intervals import Samples, metric_samples, percentile_interval
from clipkit.evaluation.comparison.resampling import random_swaps
from clipkit.evaluation.outcomes.metrics import outcome_metrics, sample_metrics
from clipkit.evaluation.outcomes.outcomes import Outcomes

_EQUAL = 1e-12
"""Differences that are this close are equal, whatever the order of their sums."""


def aligned(baseline: Outcomes, model: Outcomes, names: tuple[str, str]) -> Outcomes:
    """Return the outcomes of a model in the order of the baseline's units.

    Args:
        baseline: Outcomes of the model that is compared with.
        model: Outcomes of the other model.
        names: Names of both, for messages.

    Raises:
        DataError: If units, groups, true classes, names of classes or measures differ.
    """
    shared = len(set(baseline.keys) & set(model.keys))
    if not shared == len(baseline) == len(model):
        raise DataError(
            f"{names[1]}: expected the {len(baseline):,} images or queries of {names[0]}, got "
            f"{len(model):,}, of which {shared:,} are shared; evaluate both models on the same data"
        )
    if baseline.class_names != model.class_names:
        raise DataError(
            f"{names[1]}: expected the {len(baseline.class_names)} class names of {names[0]}, got "
            f"{_first_difference(baseline.class_names, model.class_names)}; evaluate both models "
            f"with the same classes"
        )
    if baseline.kind != model.kind or list(baseline.columns) != list(model.columns):
        raise DataError(
            f"{names[1]}: expected outcomes of the kind {baseline.kind!r} with "
            f"{', '.join(baseline.columns)} as {names[0]} has, got {model.kind!r} with "
            f"{', '.join(model.columns)}; evaluate both models with the same options"
        )
    place = {key: position for position, key in enumerate(model.keys)}
    order = torch.tensor([place[key] for key in baseline.keys])
    groups = tuple(model.groups[position] for position in order.tolist())
    columns = {name: column[order] for name, column in model.columns.items()}
    different = sum(a != b for a, b in zip(baseline.groups, groups, strict=True))
    of_what = "groups"
    if not different and "label" in columns:
        different = int((baseline.columns["label"] != columns["label"]).sum())
        of_what = "true classes"
    if different:
        raise DataError(
            f"{names[1]}: expected the {of_what} of {names[0]}, got others for {different:,} of "
            f"{len(baseline):,} images or queries; evaluate both models on the same data"
        )
    return Outcomes(model.kind, baseline.keys, groups, columns, model.prefix, model.class_names)


def _first_difference(expected: Sequence[str], got: Sequence[str]) -> str:
    if len(expected) != len(got):
        return f"{len(got)}"
    number = next(n for n, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b)
    return f"{got[number]!r} in place of {expected[number]!r}"


def metric_changes(
    baseline: Outcomes, model: Outcomes, resampling: Resampling = Resampling()
) -> list[Change]:
    """Compare every metric of two models on the same units.

    The interval of a difference is that of a bootstrap which draws the same groups for both models.
    The permutation test exchanges the outcomes of both models in random groups: under the
    hypothesis of no difference all exchanges are equally likely, and the p-value is the share of
    them, the observed one included, whose difference is at least as great. Where a metric is a
    share of independent units, McNemar's exact test takes its place, of which the permutation test
    is the approximation.

    Args:
        baseline: Outcomes of the model that is compared with.
        model: Outcomes of the other model, with the same units in the same order; see ``aligned``.
        resampling: Confidence, number of samples and permutations, seed.

    Returns:
        One change per metric, p-values not yet corrected.

    Examples:
        >>> keys = tuple(map(str, range(100)))
        >>> first, second = torch.arange(100) < 60, torch.arange(100) < 80
        >>> (change,) = metric_changes(
        ...     Outcomes("means", keys, keys, {"acc": first.double()}),
        ...     Outcomes("means", keys, keys, {"acc": second.double()}))
        >>> round(change.difference.value, 6), change.verdict, change.p_value < 1e-5
        (0.2, 'better', True)
    """
    values = [outcome_metrics(part) for part in (baseline, model)]
    samples = [metric_samples(part, resampling) for part in (baseline, model)]
    num_groups = len(set(baseline.groups))
    exact = exact_p_values(baseline, model)
    names = [name for name in values[0] if name in values[1]]
    differences = {name: values[1][name] - values[0][name] for name in names}
    permuted = permutation_p_values(baseline, model, differences, resampling)
    changes = []
    for name in names:
        estimates = [
            estimate_of(value[name], sample[name], num_groups, resampling)
            for value, sample in zip(values, samples, strict=True)
        ]
        of_difference = samples[1][name] - samples[0][name]
        p_value = exact.get(name, permuted[name])
        changes.append(
            Change(
                name, estimates[0], estimates[1],
                estimate_of(differences[name], of_difference, num_groups, resampling),
                "mcnemar" if name in exact else "permutation",
                p_value, p_value, not p_value < 1 - resampling.confidence, len(baseline),
            )
        )  # fmt: skip
    return changes


def estimate_of(
    value: float, samples: Samples, num_groups: int, resampling: Resampling
) -> Estimate:
    """Return a value with its interval; see ``percentile_interval``."""
    return Estimate(value, percentile_interval(value, samples, num_groups, resampling.confidence))


def permutation_p_values(
    baseline: Outcomes,
    model: Outcomes,
    differences: Mapping[str, float],
    resampling: Resampling,
) -> dict[str, float]:
    """Compute the p-value of the paired permutation test of each metric.

    Args:
        baseline: Outcomes of the model that is compared with.
        model: Outcomes of the other model, with the same units in the same order.
        differences: Observed difference of each metric.
        resampling: Number of permutations, and seed.

    Returns:
        p-value by the key of the metric; NaN if the difference is not defined.
    """
    # The outcomes of both models are one set of units, whose weights of 0 or 1 select those of one
    # model. Units without a difference are there once.
    unequal = [
        (column != model.columns[name]).reshape(len(baseline), -1).any(1)
        for name, column in baseline.columns.items()
    ]
    differs = torch.stack(unequal).any(0)
    rows = differs.nonzero().flatten()
    both = Outcomes(
        baseline.kind,
        tuple(map(str, range(len(baseline) + len(rows)))),
        (*baseline.groups, *(model.groups[row] for row in rows.tolist())),
        {name: torch.cat([c, model.columns[name][rows]]) for name, c in baseline.columns.items()},
        baseline.prefix,
        baseline.class_names,
    )
    extreme = dict.fromkeys(differences, 1)
    for swaps in random_swaps(baseline.groups, resampling.replicates, resampling.seed):
        first, second = (
            sample_metrics(both, torch.cat([1 - taken * differs, taken[:, rows]], 1))
            for taken in (swaps, 1 - swaps)
        )
        missing = torch.full((len(swaps),), math.nan)
        for name, observed in differences.items():
            difference = second.get(name, missing) - first.get(name, missing)
            extreme[name] += int((~(difference.abs() < abs(observed) - _EQUAL)).sum())
    return {
        name: math.nan if math.isnan(differences[name]) else count / (resampling.replicates + 1)
        for name, count in extreme.items()
    }


def exact_p_values(baseline: Outcomes, model: Outcomes) -> dict[str, float]:
    """Compute McNemar's exact test for the metrics that are shares of independent units.

    Returns:
        p-value by the key of the metric; empty if a group has several units.
    """
    if len(set(baseline.groups)) < len(baseline):
        return {}
    hits = [unit_hits(part) for part in (baseline, model)]
    return {
        name: mcnemar_p_value(hits[0][name], hits[1][name]) for name in hits[0] if name in hits[1]
    }


def unit_hits(outcomes: Outcomes) -> dict[str, Bool[Tensor, " N"]]:
    """Return the metrics that are shares of the units, and which units they count."""
    if outcomes.kind == "classification":
        rank, num_classes = outcomes.columns["rank"], len(outcomes.class_names)
        hits = {f"top{k}": rank < k for k in (1, 5) if k <= num_classes}
    else:
        hits = {
            name: column == 1
            for name, column in outcomes.columns.items()
            if column.ndim == 1 and bool(((column == 0) | (column == 1)).all())
        }
    metrics = outcome_metrics(outcomes)
    named = {f"{outcomes.prefix}{name}": column for name, column in hits.items()}
    return {
        name: column
        for name, column in named.items()
        if name in metrics and abs(metrics[name] - float(column.double().mean())) < _EQUAL
    }


def mcnemar_p_value(baseline: Bool[Tensor, " N"], model: Bool[Tensor, " N"]) -> float:
    """Compute the two-sided p-value of McNemar's exact test.

    Among the units that only one model gets right, each model is equally likely to be that one if
    there is no difference: the p-value is that of a binomial distribution (McNemar 1947).

    Args:
        baseline: Whether the first model is right, for each unit.
        model: The same of the second model.

    Examples:
        >>> first = torch.tensor([True] * 5 + [False] * 5)
        >>> mcnemar_p_value(first, ~first), mcnemar_p_value(first, torch.ones(10) > 0)
        (1.0, 0.0625)
    """
    only_first, only_second = int((baseline & ~model).sum()), int((model & ~baseline).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
        for k in range(fewer + 1)
    ]
    greatest = max(logs)
    tail = math.fsum(math.exp(value - greatest) for value in logs)
    return min(1.0, 2 * math.exp(greatest - total * math.log(2)) * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of a family of tests, so that any false alarm among them is rare.

    Args:
        p_values: One value per test; NaN for a test that could not be made, which is not counted.

    Returns:
        Corrected values (Holm 1979): a test is significant at a level if its value is below it.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    made = [number for number, value in enumerate(p_values) if not math.isnan(value)]
    corrected = list(p_values)
    previous = 0.0
    for place, number in enumerate(sorted(made, key=lambda n: p_values[n])):
        previous = max(previous, min(1.0, (len(made) - place) * p_values[number]))
        corrected[number] = previous
    return corrected
