"""``clipkit shards pack|index|verify|stats``: make shards, and find out what is in them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_text
from clipkit.cli.arguments import add_outside_argument, add_trust_argument, given_path, given_text
from clipkit.cli.outputs import check_output_file, check_output_folder
from clipkit.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from clipkit.data.packing.verify import ShardStats

_EXIT_BROKEN: Final = 1
_MOST_TOKENS: Final = 100_000
_LONG_CONTEXT: Final = 77


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``clipkit shards`` and its four commands."""
    parser = subparsers.add_parser(
        "shards", help="pack, index, verify and describe WebDataset shards"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_pack(commands)
    index = _add_reading(commands, "index", "write the index file beside each shard", run_index)
    index.add_argument(
        "--max-bad-shards", type=int, default=0, help="broken shards that are left out (default 0)"
    )
    verify = _add_reading(
        commands, "verify", "read everything; exit status 1 if anything is broken", run_verify
    )
    verify.add_argument(
        "--output", type=given_path, metavar="FILE.json", help="write what was found"
    )
    stats = _add_reading(commands, "stats", "count samples, sizes, captions, labels", run_stats)
    stats.add_argument(
        "--output", type=given_path, metavar="DIR", help="write stats.json and stats.html"
    )
    stats.add_argument(
        "--tokenizer",
        default="open_clip:ViT-B-32",
        help="counts the tokens of captions (default: open_clip:ViT-B-32)",
    )
    add_trust_argument(stats)


def _add_pack(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "pack",
        help="pack images and captions into shards",
        description="SOURCE is a CSV, TSV or Parquet table, a COCO-style JSON file, a folder that "
        "holds one, a folder of one folder for each class, or shards. The bytes of the shards "
        "depend on SOURCE and the options alone. The same command goes on where it was stopped.",
    )
    parser.add_argument("source", type=given_path, metavar="SOURCE")
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder for the shards")
    parser.add_argument("--images", type=given_path, help="folder that image paths are relative to")
    add_outside_argument(parser)
    parser.add_argument("--samples-per-shard", type=int, default=10_000, help="(default: 10000)")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="reduce longer shorter sides to this"
    )
    parser.add_argument(
        "--max-bad-samples", type=int, default=0, help="samples that are left out (default 0)"
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
        help="tars, folders, globs, braces, s3:// and others",
    )
    if name != "index":
        _add_workers(parser)
    parser.set_defaults(run=run)
    return parser


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers", type=int, default=os.cpu_count() or 1, help="threads (default: cores)"
    )


def run_pack(args: argparse.Namespace) -> int:
    """``clipkit shards pack``."""
    check_output_folder("OUT", args.out)

    from clipkit.data.packing.pack import pack

    with _progress("packing") as advance:
        report = pack(
            args.source,
            args.out,
            images=args.images,
            allow_outside=args.allow_outside,
            samples_per_shard=args.samples_per_shard,
            image_size=args.image_size,
            max_bad_samples=args.max_bad_samples,
            num_workers=args.num_workers,
            on_sample=advance,
        )
    for name, reason in report.faults:
        _say(f"left out: {name}: {reason}")
    _say(f"{report.num_samples} samples in {len(report.shards)} shards in {args.out}")
    return 0


def run_index(args: argparse.Namespace) -> int:
    """``clipkit shards index``."""
    from clipkit.data.shards.counts import named_shards
    from clipkit.data.shards.index import ShardIndex

    total, done = len(named_shards(args.urls)[0]), 0
    with _progress("indexing") as advance:

        def on_shard(_: object) -> None:
            nonlocal done
            done += 1
            advance(done, total)

        allowed = args.max_bad_shards
        index = ShardIndex.from_urls(args.urls, max_bad_shards=allowed, on_shard=on_shard)
    for _, reason in index.faults:
        _say(f"left out: {reason}")
    _say(f"{index.num_samples} samples in {len(index.shards)} shards")
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """``clipkit shards verify``: exit status 1 when something is broken."""
    _require_workers(args.num_workers)
    check_output_file("--output", args.output)

    from clipkit.data.packing.verify import verify_shards

    with _progress("verifying") as advance:
        report = verify_shards(args.urls, args.num_workers, advance)
    for fault in report.faults:
        _say(f"broken: {fault}")
    _say(
        f"{report.num_samples} samples in {report.num_shards} shards read, "
        f"{len(report.faults)} faults"
    )
    if args.output is not None:
        faults = [
            {"shard": f.shard, "index": f.index, "key": f.key, "reason": f.reason}
            for f in report.faults
        ]
        content = {
            "num_shards": report.num_shards,
            "num_samples": report.num_samples,
            "faults": faults,
        }
        write_text(args.output, json.dumps(content, indent=1))
    return _EXIT_BROKEN if report.faults else 0


def run_stats(args: argparse.Namespace) -> int:
    """``clipkit shards stats``: exit status 1 when something is broken.

    Raises:
        ShardError: If no shard can be read.
    """
    _require_workers(args.num_workers)
    check_output_folder("--output", args.output, ["stats.json", "stats.html"])

    from clipkit.cli.shards.page import render_page
    from clipkit.data.packing.verify import collect_stats
    from clipkit.data.text.tokenizers import tokenizer_from_name

    tokenizer = tokenizer_from_name(args.tokenizer, context_length=_MOST_TOKENS)
    with _progress("reading") as advance:
        stats = collect_stats(args.urls, tokenizer, args.num_workers, advance)
    if stats.num_samples == 0 and stats.faults:
        raise ShardError(stats.faults[0].reason)
    summary = summarise(stats, args.tokenizer)
    for fault in stats.faults:
        _say(f"broken: {fault}")
    print(json.dumps(summary, indent=1, ensure_ascii=False))
    if args.output is not None:
        charts = {
            "Image width, pixels": stats.widths,
            "Image height, pixels": stats.heights,
            "Caption length, tokens": stats.caption_lengths,
            "Class of labelled samples": list(stats.labels.elements()),
        }
        write_text(args.output / "stats.json", json.dumps(summary, indent=1, ensure_ascii=False))
        write_text(args.output / "stats.html", render_page(summary, charts))
        _say(f"page: {args.output / 'stats.html'}")
    return _EXIT_BROKEN if stats.faults else 0


def summarise(stats: ShardStats, tokenizer: str) -> dict[str, Any]:
    """The numbers of ``clipkit shards stats``, in plain types."""
    lengths = stats.caption_lengths
    return {
        "num_shards": stats.num_shards,
        "num_samples": stats.num_samples,
        "num_bytes": stats.num_bytes,
        "image_width_pixels": _spread(stats.widths),
        "image_height_pixels": _spread(stats.heights),
        "tokenizer": tokenizer,
        "caption_tokens": _spread(lengths),
        "captions_above_77_tokens_share": sum(n > _LONG_CONTEXT for n in lengths)
        / max(1, len(lengths)),
        "labelled_share": stats.labels.total() / max(1, stats.num_samples),
        "num_classes": len(stats.labels),
        "labels": {str(label): count for label, count in sorted(stats.labels.items())},
        "num_duplicate_keys": stats.num_duplicate_keys,
        "duplicate_keys": stats.duplicate_keys,
        "num_faults": len(stats.faults),
    }


def _spread(values: list[int]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "min": ordered[0],
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(0.95 * (len(ordered) - 1))],
        "max": ordered[-1],
        "mean": sum(ordered) / len(ordered),
    }


def _require_workers(num_workers: int) -> None:
    if num_workers < 1:
        raise ConfigError(f"--num-workers: expected at least 1, got {num_workers}")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on the terminal's error stream; nothing where that is a file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
