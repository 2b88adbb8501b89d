"""``clipkit consolidate``: convert a sharded checkpoint into one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from clipkit.cli.arguments import add_command, given_path
from clipkit.cli.outputs import check_output_file


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "consolidate", "convert a sharded checkpoint into one file",
        "Read the folder that ShardedStrategy wrote with 'checkpoint: sharded', and write the same "
        "checkpoint as one file: weights, averages, optimizer, cursor and configuration. All "
        "checksums are compared. No GPU and no other process is needed, but memory for the "
        "complete checkpoint. clipkit reads both kinds.",
    )  # fmt: skip
    for name, kind, example in (
        ("--checkpoint", "DIR", "runs/big/last.ckpt"),
        ("--output", "FILE", "runs/big/one_file.ckpt"),
    ):
        parser.add_argument(
            name, required=True, type=given_path, metavar=kind, help=f"such as {example}"
        )


def run(args: argparse.Namespace) -> int:
    folder: Path = args.checkpoint
    num_bytes = sum(part.stat().st_size for part in folder.iterdir()) if folder.is_dir() else 0
    check_output_file("--output", args.output, num_bytes)

    from clipkit.models import consolidate_checkpoint

    step = consolidate_checkpoint(folder, args.output)
    print(f"{args.output}: step {step}, {args.output.stat().st_size / 1e6:.1f} MB")
    return 0
