"""Pack one part of a table; all parts together are what ``pack`` makes of the complete table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from clipkit.atomic_files import write_text
from clipkit.data.packing.pack import PackReport, claim_folder, report_of
from clipkit.data.packing.partition.part_files import (
    NUM_PARTS,
    claim_part,
    complete_part,
    merge_parts,
)
from clipkit.data.packing.partition.table_files import find_table
from clipkit.data.packing.roots import refuse_outside
from clipkit.data.packing.shard_packer import PackOptions, ShardPacker
from clipkit.data.packing.sources import source_of_table
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.packing.tables.parts import open_parts
from clipkit.data.packing.tables.survey import TableSurvey
from clipkit.data.packing.tables.table import Table
from clipkit.errors import DataError, check_at_least
from clipkit.part import Part


@dataclass(frozen=True, slots=True)
class PartPlan:
    """A table that is packed in parts, with the options that all parts have in common.

    Args:
        source: CSV, TSV or Parquet table, a folder or glob of Parquet files that are one table, or
            ``hf://datasets/OWNER/NAME[/CONFIG/SPLIT]``.
        out: Folder for the shards of all parts.
        num_parts: Number of parts.
        images: Folder that image names are relative to; None for the folder of the table.
        class_names: Names in the order of class numbers; None as for ``pack``.
        allow_outside: Whether images may be outside of that folder.
        columns: Columns of the table, if their names are not recognised.
        options: Sizes of shards and images, and number of threads.
    """

    source: str | Path
    out: str | Path
    num_parts: int
    images: str | Path | None = None
    class_names: Sequence[str] | None = None
    allow_outside: bool = False
    columns: TableColumns = TableColumns()
    options: PackOptions = field(default_factory=PackOptions)

    def __post_init__(self) -> None:
        check_at_least("num_parts", self.num_parts, 1)


@final
class PartPacker:
    """Packs parts of a table.

    Shards have the names, the samples and the bytes that ``pack`` gives them, whatever the number
    of parts: a part is a range of shards. Parts may be packed at the same time, on several machines
    that share the folder. Which rows are one image, and the numbers of classes, follow from the
    complete table, which every process reads once, without captions and bytes of images if it is
    Parquet.

    Args:
        plan: The table and the options.

    Raises:
        DataError: If the source is no table, is empty or damaged.

    Examples:
        >>> packer = PartPacker(PartPlan("photos/captions.csv", "shards", num_parts=2))
        >>> packer.pack(1).num_samples + packer.pack(2).num_samples
        4
    """

    def __init__(self, plan: PartPlan) -> None:
        self.plan = plan
        table = find_table(plan.source)
        self._root = table.folder if plan.images is None else Path(plan.images)
        files = open_parts(table.files, table.versions)
        self._survey = TableSurvey(files, plan.class_names, plan.columns)
        if not len(self._survey.groups):
            raise DataError(f"{plan.source}: no samples found")
        self._recipe = _recipe(plan, self._survey, table.digest())

    def pack(self, number: int, on_sample: Callable[[int, int], None] | None = None) -> PackReport:
        """Pack one part, or what is missing of it.

        Args:
            number: Number of the part, from 1.
            on_sample: Called with the numbers of completed and of all samples of the part, from any
                thread; None for no call.

        Returns:
            The shards of the part, none if there are fewer shards than parts, and the samples that
            were skipped.

        Raises:
            ConfigError: If there is no such part.
            DataError: If images are outside of their folder, or the folder contains something else.
            FaultBudgetExceeded: If more samples of the part are broken than allowed.
        """
        part = Part(number, self.plan.num_parts)
        folder, size = Path(self.plan.out), self.plan.options.samples_per_shard
        num_images = len(self._survey.groups)
        shards = part.range_of(-(-num_images // size))
        images = range(num_images)[shards.start * size : shards.stop * size]
        table = Table.of_images(self._survey, self._root, images)
        source = replace(source_of_table(table), items=[table[image] for image in images])
        if not self.plan.allow_outside:
            files = (file for item in source.items for file in item.files)
            refuse_outside(files, self._root, self.plan.source)
        fingerprint = source.fingerprint()
        claim_folder(folder, self._recipe)
        claim_part(folder, part, fingerprint)
        packer = ShardPacker(folder, table, self.plan.options, on_sample)
        sizes = packer.pack(shards)
        for name, text in source.files.items():
            write_text(folder / name, text)
        report = report_of(folder, packer, sizes)
        complete_part(folder, part, fingerprint, sizes)
        merge_parts(folder)
        return report


def _recipe(plan: PartPlan, survey: TableSurvey, digest: str) -> dict[str, Any]:
    content = hashlib.sha256(survey.hashes.tobytes())
    content.update("\n".join(survey.numbers.names).encode("utf-8", "surrogatepass"))
    return {
        "table": digest,
        "images_and_classes": content.hexdigest(),
        "columns": [*survey.columns.files, *survey.columns.captions],
        "num_samples": len(survey.groups),
        "samples_per_shard": plan.options.samples_per_shard,
        "image_size": plan.options.image_size,
        NUM_PARTS: plan.num_parts,
    }
