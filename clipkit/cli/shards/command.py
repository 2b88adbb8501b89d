"""``clipkit shards pack|index|verify|stats``: pack shards and describe their content."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from typing import Final

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import add_outside_argument, given_path, given_text
from clipkit.cli.outputs import check_output_file, check_output_folder
from clipkit.cli.progress import progress_bar
from clipkit.cli.shards.stats import add_stats_options, run_stats

_EXIT_BROKEN: Final = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "shards", help="pack, index, verify and describe WebDataset shards"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_pack(commands)
    index = _add_reading(commands, "index", "write an index file next to each shard", run_index)
    index.add_argument(
        "--max-bad-shards", type=int, default=0, help="broken shards that may be skipped"
    )
    index.add_argument(
        "--output",
        type=given_path,
        metavar="FILE.npz",
        help="also write one index file for all shards, which a run opens in their place",
    )
    verify = _add_reading(
        commands, "verify", "read all samples; exit status 1 if anything is broken", run_verify
    )
    verify.add_argument(
        "--output", type=given_path, metavar="FILE.json", help="file for the result"
    )
    stats = _add_reading(
        commands,
        "stats",
        "count samples, sizes, captions, labels; with embeddings, describe what the data hold",
        run_stats,
    )
    add_stats_options(stats)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pack",
        help="pack images and captions into shards",
        description="SOURCE is a CSV, TSV or Parquet table, a COCO-style JSON file, a folder that "
        "contains one of them, a folder with one folder per class, the output of img2dataset, "
        "hf://datasets/OWNER/NAME[/CONFIG/SPLIT], or shards. The bytes of the shards depend on "
        "SOURCE and the options only. The same command continues packing that was stopped.",
    )
    parser.add_argument("source", type=given_text, metavar="SOURCE")
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder for the shards")
    parser.add_argument("--images", type=given_path, help="folder that image paths are relative to")
    parser.add_argument(
        "--image-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a table with images; the first is the image of a sample, the others are "
        "stored as further members (default: recognised by name)",
    )
    parser.add_argument(
        "--caption-columns",
        nargs="+",
        metavar="NAME",
        help="columns of a table with captions (default: recognised by name)",
    )
    add_outside_argument(parser)
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
    _add_workers(parser)
    parser.set_defaults(run=run_pack)


def _add_reading(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "urls",
        type=given_text,
        nargs="+",
        metavar="URL",
        help="tar files, folders, glob or brace patterns, s3:// and other URLs",
    )
    if name != "index":
        _add_workers(parser)
    parser.set_defaults(run=run)
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="threads (default: one per CPU core)",
    )


def run_pack(args: argparse.Namespace) -> int:
    check_output_folder("OUT", args.out)

    from clipkit.data import TableColumns, pack

    with progress_bar("packing") as advance:
        report = pack(
            args.source,
            args.out,
            images=args.images,
            allow_outside=args.allow_outside,
            columns=TableColumns(args.image_columns, args.caption_columns),
            samples_per_shard=args.samples_per_shard,
            image_size=args.image_size,
            max_bad_samples=args.max_bad_samples,
            num_workers=args.num_workers,
            on_sample=advance,
        )
    for name, reason in report.faults:
        _log(f"skipped: {name}: {reason}")
    _log(f"{report.num_samples} samples in {len(report.shards)} shards in {args.out}")
    return 0


def run_index(args: argparse.Namespace) -> int:
    from clipkit.data import ShardIndex
    from clipkit.data.shards.index_files import check_index_name, write_index_file
    from clipkit.data.shards.named import named_shards

    check_output_file("--output", args.output)
    if args.output is not None:
        check_index_name(args.output)
    total, done = len(named_shards(args.urls).addresses), itertools.count(1)
    with progress_bar("indexing") as advance:
        index = ShardIndex.from_urls(
            args.urls,
            max_bad_shards=args.max_bad_shards,
            on_shard=lambda _: advance(next(done), total),
        )
    for _, reason in index.faults:
        _log(f"skipped: {reason}")
    if args.output is not None:
        write_index_file(index.shards, args.output)
    _log(f"{index.num_samples} samples in {len(index.shards)} shards")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    check_output_file("--output", args.output)

    from clipkit.data import verify_shards

    with progress_bar("verifying") as advance:
        report = verify_shards(args.urls, args.num_workers, advance)
    for fault in report.faults:
        _log(f"broken: {fault}")
    totals = f"{report.num_samples} samples in {report.num_shards} shards"
    _log(f"{totals} read, {len(report.faults)} faults")
    if args.output is not None:
        write_json(args.output, dataclasses.asdict(report))
    return _EXIT_BROKEN if report.faults else 0


def _log(text: str) -> None:
    print(text, file=sys.stderr)
