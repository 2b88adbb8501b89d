"""``clipkit shards pack``: pack images and captions into shards, all or a part of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipkit.cli.arguments import (
    add_engine_arguments,
    add_outside_argument,
    check_engine,
    given_path,
    given_text,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.cli.printing import say
from clipkit.cli.progress import progress_bar
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.data.packing.partition.part_packer import PartPlan


def add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``clipkit shards pack``."""
    parser = commands.add_parser(
        "pack",
        help="pack images and captions into shards",
        description="SOURCE is a CSV, TSV or Parquet table, a COCO-style JSON file, a folder that "
        "contains one of them, a folder with one folder per class, the output of img2dataset, "
        "hf://datasets/OWNER/NAME[/CONFIG/SPLIT], or shards. The bytes of the shards depend on "
        "SOURCE and the options only. The same command continues packing that was stopped. "
        "Several processes pack one table together: --part.",
    )
    parser.add_argument("source", type=given_text, metavar="SOURCE")
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder for the shards")
    _add_table_arguments(parser)
    parser.add_argument("--samples-per-shard", type=int, default=10_000, help="default: 10000")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="length of the shorter side of larger images",
    )
    parser.add_argument(
        "--max-bad-samples", type=int, default=0, help="broken samples that may be skipped"
    )
    _add_part_arguments(parser)
    parser.set_defaults(run=run_pack)


def _add_table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=given_path, help="folder that image paths are relative to")
    parser.add_argument(
        "--image-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a table with images; the first is the image of a sample, the others are "
        "stored as further members (default: recognised by name)",
    )
    parser.add_argument(
        "--sound-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a table with sounds; as --image-columns",
    )
    parser.add_argument(
        "--caption-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a table with captions (default: recognised by name)",
    )
    add_outside_argument(parser)


def _add_part_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part",
        type=given_text,
        metavar="I/N",
        help="pack only part I of N of a CSV, TSV or Parquet table, a range of its shards; the "
        "parts may run at the same time, on machines that share OUT",
    )
    add_engine_arguments(parser)
    parser.add_argument(
        "--num-parts",
        type=int,
        metavar="N",
        help="with --engine ray: number of parts, the tasks of the cluster; each actor reads the "
        "table once",
    )
    parser.add_argument(
        "--num-workers",
        type=int,
        help="threads (default: one per CPU core; with --engine ray: 1 in each actor)",
    )


def add_workers_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--num-workers``."""
    parser.add_argument(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="threads (default: one per CPU core)",
    )


def run_pack(args: argparse.Namespace) -> int:
    check_output_folder("OUT", args.out)
    check_engine(args)
    if args.engine != "ray" and args.num_parts is not None:
        raise ConfigError("--num-parts: expected --engine ray with it; without Ray use --part I/N")
    if args.engine == "ray":
        return _pack_on_ray(args)
    if args.part is not None:
        return _pack_part(args)

    from clipkit.data import TableColumns, pack

    with progress_bar("packing") as advance:
        report = pack(
            args.source,
            args.out,
            images=args.images,
            allow_outside=args.allow_outside,
            columns=TableColumns(args.image_columns, args.caption_columns, args.sound_columns),
            samples_per_shard=args.samples_per_shard,
            image_size=args.image_size,
            max_bad_samples=args.max_bad_samples,
            num_workers=_num_threads(args),
            on_sample=advance,
        )
    _log_faults(report.faults)
    log(f"{report.num_samples} samples in {len(report.shards)} shards in {args.out}")
    return 0


def _pack_part(args: argparse.Namespace) -> int:
    from clipkit.data.packing.partition.part_files import merge_parts
    from clipkit.data.packing.partition.part_packer import PartPacker
    from clipkit.part import Part

    part = Part.parse(args.part)
    packer = PartPacker(_part_plan(args, part.count))
    with progress_bar(f"packing part {part}") as advance:
        report = packer.pack(part.number, advance)
    _log_faults(report.faults)
    missing = merge_parts(args.out)
    log(
        f"part {part}: {report.num_samples} samples in {len(report.shards)} shards in {args.out}; "
        f"{f'{len(missing)} of {part.count} parts to go' if missing else 'all parts are complete'}"
    )
    return 0


def _pack_on_ray(args: argparse.Namespace) -> int:
    from clipkit.data.packing.partition.ray_engine import pack_on_ray

    if args.num_parts is None:
        raise ConfigError(
            "--num-parts: expected the number of parts with --engine ray, some for each actor"
        )
    plan = _part_plan(args, args.num_parts)
    with progress_bar("packing parts") as advance:
        report = pack_on_ray(plan, args.address, advance)
    _log_faults(report.faults)
    log(f"{report.num_samples} samples in {len(report.shards)} shards in {args.out}")
    return 0


def _num_threads(args: argparse.Namespace) -> int:
    if args.num_workers is not None:
        return int(args.num_workers)
    return 1 if args.engine == "ray" else os.cpu_count() or 1


def _part_plan(args: argparse.Namespace, num_parts: int) -> PartPlan:
    from clipkit.data import TableColumns
    from clipkit.data.packing.partition.part_packer import PartPlan
    from clipkit.data.packing.shard_packer import PackOptions

    return PartPlan(
        args.source,
        args.out,
        num_parts,
        images=args.images,
        allow_outside=args.allow_outside,
        columns=TableColumns(args.image_columns, args.caption_columns, args.sound_columns),
        options=PackOptions(
            args.samples_per_shard, args.image_size, args.max_bad_samples, _num_threads(args)
        ),
    )


def _log_faults(faults: Sequence[tuple[str, str]]) -> None:
    for name, reason in faults:
        log(f"skipped: {name}: {reason}")


def log(text: str) -> None:
    """Print a line to standard error."""
    say(text, to_errors=True)
