"""``clipkit shards pack|index|verify|stats|filter``: pack, describe and filter shards."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable
from typing import Final

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import given_path, given_text
from clipkit.cli.outputs import check_output_file
from clipkit.cli.progress import progress_bar
from clipkit.cli.shards.filter import add_filter
from clipkit.cli.shards.packing import add_pack, add_workers_argument, log
from clipkit.cli.shards.stats import add_stats_options, run_stats

_EXIT_BROKEN: Final = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "shards", help="pack, index, verify, describe and filter WebDataset shards"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_pack(commands)
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
    add_filter(commands)


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
        add_workers_argument(parser)
    parser.set_defaults(run=run)
    return parser


def run_index(args: argparse.Namespace) -> int:
    from clipkit.addresses import is_local, local_path
    from clipkit.data import ShardIndex
    from clipkit.data.packing.partition.part_files import check_parts
    from clipkit.data.shards.index_files import check_index_name, write_index_file
    from clipkit.data.shards.named import named_shards

    check_output_file("--output", args.output)
    if args.output is not None:
        check_index_name(args.output)
    for url in args.urls:
        if is_local(url):
            check_parts(local_path(url))
    total, done = len(named_shards(args.urls).addresses), itertools.count(1)
    with progress_bar("indexing") as advance:
        index = ShardIndex.from_urls(
            args.urls,
            max_bad_shards=args.max_bad_shards,
            read_tables=True,
            on_shard=lambda _: advance(next(done), total),
        )
    for _, reason in index.faults:
        log(f"skipped: {reason}")
    if unknown := [shard.url for shard in index.shards if not shard.digest]:
        log(
            f"{len(unknown)} shards, such as {unknown[0]}: the number of samples is that of a "
            f"counts file, and no index file next to the shard tells which samples they are"
        )
    if args.output is not None:
        write_index_file(index.shards, args.output)
    log(f"{index.num_samples} samples in {len(index.shards)} shards")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    check_output_file("--output", args.output)

    from clipkit.data import verify_shards

    with progress_bar("verifying") as advance:
        report = verify_shards(args.urls, args.num_workers, advance)
    for fault in report.faults:
        log(f"broken: {fault}")
    totals = f"{report.num_samples} samples in {report.num_shards} shards"
    log(f"{totals} read, {len(report.faults)} faults")
    if args.output is not None:
        write_json(args.output, dataclasses.asdict(report))
    return _EXIT_BROKEN if report.faults else 0
