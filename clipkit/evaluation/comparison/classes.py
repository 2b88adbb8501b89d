"""Effect of another model on the recall of each class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.comparison.content import Change, Resampling, Test
from clipkit.evaluation.comparison.paired import estimate_of, mcnemar_p_value
from clipkit.evaluation.comparison.resampling import bootstrap_weights, group_numbers, random_swaps
from clipkit.evaluation.outcomes.outcomes import Outcomes


def class_changes(
    baseline: Outcomes, model: Outcomes, resampling: Resampling = Resampling()
) -> list[Change]:
    """Compare the recall of each class.

    Args:
        baseline: Outcomes of kind "classification" of the model that is compared with.
        model: Outcomes of the other model, with the same units in the same order.
        resampling: Confidence, number of samples and permutations, seed.

    Returns:
        One change per class that occurs, p-values not yet corrected. Tests are those of
        ``metric_changes``.

    Examples:
        >>> keys, names = tuple(map(str, range(16))), ("cat", "dog")
        >>> label = torch.tensor([0, 1]).repeat(8)
        >>> first, second = (
        ...     Outcomes("classification", keys, keys, {"label": label, "rank": rank}, "", names)
        ...     for rank in (label, 0 * label))
        >>> for change in class_changes(first, second):
        ...     print(change.name, change.difference.value, round(change.p_value, 3))
        cat 0.0 1.0
        dog 1.0 0.008
    """
    label, num_classes = baseline.columns["label"], len(baseline.class_names)
    hits = torch.stack([(part.columns["rank"] == 0).double() for part in (baseline, model)])
    counted = torch.cat([torch.ones_like(hits[:1]), hits])  # support, hits of both models
    sums = _by_class(counted, label, num_classes)
    drawn = torch.cat([
        _by_class(weights[:, None] * counted, label, num_classes)
        for weights in bootstrap_weights(baseline.groups, resampling.replicates, resampling.seed)
    ])  # fmt: skip
    recalls = (sums[1:] / sums[0]).T.tolist()
    samples = (drawn[:, 1:] / drawn[:, :1]).numpy()  # NaN where a class was not drawn
    p_values, test = _p_values(baseline, hits, resampling)
    num_groups = _groups_by_class(baseline)
    changes = []
    for number in (sums[0] > 0).nonzero().flatten().tolist():
        first, second = recalls[number]
        of_first, of_second = samples[:, 0, number], samples[:, 1, number]
        count = num_groups[number]
        changes.append(
            Change(
                baseline.class_names[number],
                estimate_of(first, of_first, count, resampling),
                estimate_of(second, of_second, count, resampling),
                estimate_of(second - first, of_second - of_first, count, resampling),
                test, p_values[number], p_values[number],
                not p_values[number] < 1 - resampling.confidence, int(sums[0, number]),
            )
        )  # fmt: skip
    return changes


def _p_values(
    baseline: Outcomes, hits: Float[Tensor, "2 N"], resampling: Resampling
) -> tuple[list[float], Test]:
    """Return the p-value of each class, and the name of the test."""
    label, num_classes = baseline.columns["label"], len(baseline.class_names)
    if len(set(baseline.groups)) == len(baseline):
        first, second = hits > 0
        of_class = [label == number for number in range(num_classes)]
        return [mcnemar_p_value(first[rows], second[rows]) for rows in of_class], "mcnemar"
    gained = hits[1] - hits[0]
    observed = _by_class(gained, label, num_classes).abs()
    extreme = torch.ones(num_classes, dtype=torch.float64)
    for swaps in random_swaps(baseline.groups, resampling.replicates, resampling.seed):
        sums = _by_class(gained * (1 - 2 * swaps), label, num_classes)
        extreme += (sums.abs() >= observed).sum(0)
    return (extreme / (resampling.replicates + 1)).tolist(), "permutation"


def _by_class(
    values: Float[Tensor, "*rows N"], label: Int64[Tensor, " N"], num_classes: int
) -> Float[Tensor, "*rows C"]:
    """Return the sums of values over the units of each class."""
    zeros = torch.zeros(*values.shape[:-1], num_classes, dtype=torch.float64)
    return zeros.index_add_(-1, label, values)


def _groups_by_class(outcomes: Outcomes) -> list[int]:
    """Return the number of groups with a unit of each class."""
    numbers, num_groups = group_numbers(outcomes.groups)
    pairs = torch.unique(outcomes.columns["label"] * num_groups + numbers)
    return torch.bincount(pairs // num_groups, minlength=len(outcomes.class_names)).tolist()
