"""Embed the shards of a collection that are missing: those of this rank and part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from clipkit.collection.embedding.missing import check_space, missing_shards, remove_old_temporaries
from clipkit.collection.embedding.plan import EmbedPlan
from clipkit.collection.embedding.shards import ShardReport, embed_shards
from clipkit.collection.info import CollectionInfo
from clipkit.collection.shard_files import ShardFiles
from clipkit.distributed.agreement import of_first_rank, same_errors
from clipkit.distributed.collectives import rank, world_size
from clipkit.errors import FaultBudgetExceeded
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.models import TowerEncoder
from clipkit.part import Part

Progress = Callable[[int, int | None], None]
"""Called with the number of samples so far, and their number in the end."""
_NAMED_FAILURES: Final = 3


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """Outcome of a part of a collection, over all ranks.

    Args:
        shards: Report of each shard that was embedded now, or that cannot be.
        num_kept: Number of shards of the part that were complete before.
        num_missing: Number of shards of the entire collection without files now.
    """

    shards: tuple[ShardReport, ...]
    num_kept: int
    num_missing: int

    @property
    def failures(self) -> tuple[ShardReport, ...]:
        """Reports of the shards that have no files."""
        return tuple(shard for shard in self.shards if shard.failure)

    def total(self, name: str) -> int:
        """Return the sum of a number over the shards, such as ``"num_images"``."""
        return sum(getattr(shard, name) for shard in self.shards)


def embed_collection(
    plan: EmbedPlan,
    info: CollectionInfo,
    encoder: TowerEncoder,
    data: EvaluationDataset,
    part: Part | None = None,
    on_progress: Progress | None = None,
) -> EmbedReport:
    """Embed the missing shards of a part; ranks share them.

    Ranks wait for each other at the start, and for the last one at the end.

    Args:
        plan: What to embed.
        info: Record of the collection, as ``start_collection`` returns it.
        encoder: The plan's model.
        data: The plan's data.
        part: Which shards; None for all.
        on_progress: Called with the samples of this rank after each batch; None for no call.

    Raises:
        ConfigError: If the disk has too little space from the start.
        FaultBudgetExceeded: If more than ``plan.faults.max_bad_shards`` shards of a rank cannot be
            embedded.
        NonFiniteError: If an embedding is not a unit vector.
        OSError: If the files cannot be written.

    Examples:
        >>> plan = EmbedPlan("tiny", "data/val", "embeddings")
        >>> info = start_collection(plan, encoder, None, plan.open_data())
        >>> embed_collection(plan, info, encoder, plan.open_data()).total("num_images")
        9
    """
    numbers = (part or Part(1, 1)).of(range(len(info.shards)))
    missing = of_first_rank(lambda: missing_of_part(plan, info, numbers))
    with same_errors():
        local = _embed_rank(plan, info, encoder, data, missing[rank() :: world_size()], on_progress)
    reports = _gathered(local)
    with_files = [_is_complete(plan, info, number) for number in range(len(info.shards))]
    return EmbedReport(
        shards=tuple(sorted(reports, key=lambda report: report.number)),
        num_kept=len(numbers) - len(missing),
        num_missing=with_files.count(False),
    )


def missing_of_part(plan: EmbedPlan, info: CollectionInfo, numbers: Sequence[int]) -> list[int]:
    """Return the shards to embed, after what killed processes left is removed.

    Args:
        plan: What to embed.
        info: Record of the collection.
        numbers: Numbers of the shards of the part.

    Raises:
        ConfigError: If the disk has too little space for them.
        DataError: If files of the collection cannot be read, but are not damaged.
    """
    remove_old_temporaries(plan.output)
    missing = missing_shards(info, plan.output, numbers)
    check_space(info, plan.output, missing)
    return missing


def _embed_rank(
    plan: EmbedPlan,
    info: CollectionInfo,
    encoder: TowerEncoder,
    data: EvaluationDataset,
    numbers: list[int],
    on_progress: Progress | None,
) -> list[ShardReport]:
    done, total = 0, sum(info.shards[number].num_samples for number in numbers)

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    reports = []
    is_wanted = lambda number: not _is_complete(plan, info, number)  # noqa: E731
    for report in embed_shards(plan, info, encoder, data, numbers, is_wanted, on_batch):
        reports.append(report)
        refuse_failures(reports, plan.faults.max_bad_shards)
    return reports


def refuse_failures(reports: Sequence[ShardReport], allowed: int) -> None:
    """Stop if too many shards have no files.

    Raises:
        FaultBudgetExceeded: If they are more than allowed.
    """
    failures = [report for report in reports if report.failure]
    if len(failures) > allowed:
        named = "; ".join(report.failure for report in failures[-_NAMED_FAILURES:])
        raise FaultBudgetExceeded(
            f"{len(failures)} bad shards, allowed max_bad_shards={allowed}: {named}"
        )


def _is_complete(plan: EmbedPlan, info: CollectionInfo, number: int) -> bool:
    return ShardFiles(Path(plan.output), info.shards[number], info.embedding_dim).is_complete()


def _gathered(reports: list[ShardReport]) -> list[ShardReport]:
    everyone: list[Any] = [reports]
    if world_size() > 1:
        everyone = [None] * world_size()
        dist.all_gather_object(everyone, reports)
    return [report for of_rank in everyone for report in of_rank]
