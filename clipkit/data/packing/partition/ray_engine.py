"""Pack the parts of a table on the machines of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from clipkit.atomic_files import temporary_path
from clipkit.data.packing.hub import hub_address
from clipkit.data.packing.pack import PackReport
from clipkit.data.packing.partition.part_files import check_parts
from clipkit.data.packing.partition.part_packer import PartPacker, PartPlan
from clipkit.distributed.ray_actors import RayCluster, RayJob, Task, run_on_ray
from clipkit.errors import DataError


@final
@dataclass(frozen=True)
class PackPartsJob(RayJob):
    """Packs parts of a table; each actor reads the table once.

    Args:
        plan: The table and the options.
        marker: File that the driver wrote to the folder of the shards.
    """

    plan: PartPlan
    marker: Path

    def prepare(self) -> Task:
        """See ``RayJob.prepare``."""
        if not self.marker.exists():
            raise DataError(
                f"{self.plan.out}: this machine does not see what the machine that started the job "
                f"wrote there; expected a folder on storage that all machines share"
            )
        packer = PartPacker(self.plan)

        def pack_part(number: int) -> dict[str, Any]:
            report = packer.pack(number)
            return {
                "shards": [str(shard) for shard in report.shards],
                "num_samples": report.num_samples,
                "faults": report.faults,
            }

        return pack_part


def pack_on_ray(
    plan: PartPlan, address: str | None = None, on_part: Callable[[int, int], None] | None = None
) -> PackReport:
    """Pack all parts of a table on a Ray cluster; parts that are complete are checked only.

    Args:
        plan: The table and the options; each actor uses ``num_workers`` CPU cores. Its files are on
            storage that all machines see under the same path.
        address: Address of the cluster; see ``RayCluster``.
        on_part: Called with the numbers of completed and of all parts; None for no call.

    Raises:
        ConfigError: If Ray is not installed, or the cluster does not answer.
        DataError: If a part cannot be packed, a machine does not see the folder, or the process
            that packs a part ends again and again.
    """
    plan = _with_absolute_paths(plan)
    folder = Path(plan.out)
    folder.mkdir(parents=True, exist_ok=True)
    marker = temporary_path(folder / "ray")
    marker.touch()
    cluster = RayCluster(address, num_cpus=plan.options.num_workers)
    numbers = range(1, plan.num_parts + 1)
    shards: list[Path] = []
    faults: list[tuple[str, str]] = []
    num_samples = 0
    try:
        parts = run_on_ray(PackPartsJob(plan, marker), numbers, cluster, "part {}".format)
        for done, part in enumerate(parts, 1):
            shards += map(Path, part["shards"])
            faults += [(name, reason) for name, reason in part["faults"]]
            num_samples += part["num_samples"]
            if on_part is not None:
                on_part(done, plan.num_parts)
    finally:
        marker.unlink(missing_ok=True)
    check_parts(folder)
    return PackReport(tuple(sorted(shards)), num_samples, tuple(faults))


def _with_absolute_paths(plan: PartPlan) -> PartPlan:
    """Return a plan that does not depend on the working directory."""
    is_hub = hub_address(plan.source) is not None
    return replace(
        plan,
        source=plan.source if is_hub else os.path.abspath(plan.source),  # noqa: PTH100
        out=os.path.abspath(plan.out),  # noqa: PTH100
        images=None if plan.images is None else os.path.abspath(plan.images),  # noqa: PTH100
    )
