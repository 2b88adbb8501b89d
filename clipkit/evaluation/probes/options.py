"""Probes by the name of a task, with their options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.probes.few_shot import FewShotProbe
from clipkit.evaluation.probes.linear import LinearProbe
from clipkit.evaluation.probes.multi_label import MultiLabelProbe
from clipkit.evaluation.probes.neighbours import NearestNeighbours
from clipkit.evaluation.probes.splits import ProbeSplits

PROBES: Final = ("linear-probe", "multi-label-probe", "nearest-neighbours", "few-shot")
"""Names of the tasks that fit a classifier on a training split."""


@dataclass(frozen=True)
class ProbeOptions:
    """Options of the tasks that fit a classifier on a training split; see ``ProbeSplits``.

    Args:
        train_split: Split to fit on.
        validation_split: Split that options are selected on; None holds out a part of the training
            split.
        group_field: Field that names the group of a sample, such as "json:patient_id".
        allow_overlap: Whether the same image or group may be in two splits.
        neighbours: Numbers of neighbours of the task "nearest-neighbours".
        shots: Images of each class of the task "few-shot".
        seeds: Number of draws of the task "few-shot".

    Examples:
        >>> make_evaluator("few-shot", "data", "val", probe=ProbeOptions(shots=(1, 2)))
        <clipkit.evaluation.probes.few_shot.FewShotProbe object at ...>
    """

    train_split: str = "train"
    validation_split: str | None = None
    group_field: str | None = None
    allow_overlap: bool = False
    neighbours: Sequence[int] = (10, 20, 100, 200)
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    seeds: int = 5


def make_probe(
    task: str,
    splits: ProbeSplits,
    probe: ProbeOptions,
    options: EmbedOptions,
    positives: str | None = None,
) -> Evaluator:
    """Create the evaluator of one of ``PROBES``; ``positives`` is that of ``MultiLabelProbe``."""
    if task == "multi-label-probe":
        return MultiLabelProbe(splits, positives, options=options)
    if task == "nearest-neighbours":
        return NearestNeighbours(splits, probe.neighbours, options=options)
    if task == "few-shot":
        return FewShotProbe(splits, probe.shots, probe.seeds, options)
    return LinearProbe(splits, options=options)
