"""Embed the shards of a collection on the machines of a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch

from clipkit.addresses import has_scheme
from clipkit.collection.embedding.claim import start_collection
from clipkit.collection.embedding.plan import EmbedPlan
from clipkit.collection.embedding.run import (
    EmbedReport,
    Progress,
    missing_of_part,
    refuse_failures,
)
from clipkit.collection.embedding.shards import ShardReport, embed_shard
from clipkit.collection.info import INFO_FILE, CollectionInfo
from clipkit.collection.shard_files import ShardFiles
from clipkit.data.storage.urls import UNION
from clipkit.distributed.ray_actors import RayCluster, RayJob, Task, run_on_ray
from clipkit.errors import DataError

_AUTO: Final = "auto"


@final
@dataclass(frozen=True)
class EmbedJob(RayJob):
    """Embeds shards; each actor loads the model once.

    Args:
        plan: What to embed.
        device: "auto", or a type of device.
    """

    plan: EmbedPlan
    device: str = _AUTO

    def prepare(self) -> Task:
        """See ``RayJob.prepare``."""
        plan = self.plan
        if not (Path(plan.output) / INFO_FILE).exists():
            raise DataError(
                f"{plan.output}: this machine sees no {INFO_FILE} there; expected --output on "
                f"storage that all machines share"
            )
        data = plan.open_data()
        encoder, weights = plan.load_encoder(self.device, data)
        start_collection(plan, encoder, weights, data)  # refuses another model or other data

        def embed(number: int) -> dict[str, Any]:
            return dataclasses.asdict(embed_shard(plan, encoder, data, number))

        return embed


def embed_on_ray(
    plan: EmbedPlan,
    info: CollectionInfo,
    device: str = _AUTO,
    address: str | None = None,
    on_progress: Progress | None = None,
) -> EmbedReport:
    """Embed the missing shards of a collection on a Ray cluster; a shard is a task.

    Args:
        plan: What to embed. Model, data and output are on storage that all machines see under the
            same path, or are addresses.
        info: Record of the collection, as ``start_collection`` returns it.
        device: "cpu"; "cuda" for a GPU for each actor; or "auto" for a GPU if the cluster has any.
        address: Address of the cluster; see ``RayCluster``.
        on_progress: Called with the samples of complete shards; None for no call.

    Raises:
        ConfigError: If Ray is not installed, the cluster does not answer, or the disk has too
            little space from the start.
        DataError: If a machine does not see the folder, or has another model or other data; or if
            the process that embeds a shard ends again and again.
        FaultBudgetExceeded: If more shards cannot be embedded than ``plan.faults`` allows.
    """
    plan = _with_absolute_paths(plan)
    kind = device if device == _AUTO else torch.device(device).type
    numbers = range(len(info.shards))
    missing = missing_of_part(plan, info, numbers)
    total = sum(info.shards[number].num_samples for number in missing)
    cluster = RayCluster(address, use_gpus=None if kind == _AUTO else kind != "cpu")
    reports: list[ShardReport] = []
    done = 0
    named = lambda number: f"shard {info.shards[number].name}"  # noqa: E731
    for result in run_on_ray(EmbedJob(plan, kind), missing, cluster, named):
        reports.append(ShardReport(**result))
        refuse_failures(reports, plan.faults.max_bad_shards)
        done += info.shards[reports[-1].number].num_samples
        if on_progress is not None:
            on_progress(done, total)
    files = [ShardFiles(plan.output, shard, info.embedding_dim) for shard in info.shards]
    return EmbedReport(
        shards=tuple(sorted(reports, key=lambda report: report.number)),
        num_kept=len(numbers) - len(missing),
        num_missing=sum(not shard.is_complete() for shard in files),
    )


def _with_absolute_paths(plan: EmbedPlan) -> EmbedPlan:
    """Return a plan that does not depend on the working directory."""
    return dataclasses.replace(
        plan,
        model=_absolute(plan.model) if Path(plan.model).exists() else plan.model,
        data=UNION.join(
            source if has_scheme(source) else _absolute(source) for source in plan.data.split(UNION)
        ),
        output=_absolute(plan.output),
    )


def _absolute(path: Path | str) -> str:
    return os.path.abspath(path)  # noqa: PTH100
