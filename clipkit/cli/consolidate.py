"""``clipkit consolidate``: one file out of a checkpoint in parts."""

from __future__ import annotations

import argparse
from typing import Any

from clipkit.atomic_files import new_file
from clipkit.cli.arguments import given_path
from clipkit.cli.outputs import check_output_file
from clipkit.errors import CheckpointError


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "consolidate",
        help="turn a checkpoint in parts into one file",
        description="Read the folder that ShardedStrategy wrote with 'checkpoint: sharded', and "
        "write the same checkpoint as one file: weights, averages, optimizer, cursor and "
        "configuration. Every checksum is compared. Neither a GPU nor other processes are needed, "
        "but memory for all of it. clipkit itself reads either; this is for handing a file on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=given_path,
        metavar="DIR",
        help="such as runs/big/last.ckpt",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=given_path,
        metavar="FILE",
        help="such as runs/big/whole.ckpt",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the parts and write the file, all of it or nothing.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        CheckpointError: If the folder is no checkpoint in parts, or not whole.
        ConfigError: If the output is a folder.
    """
    from clipkit.models.files.sharded import is_sharded, read_sharded, why_incomplete
    from clipkit.models.files.state_dicts import save_plain

    folder, output = args.checkpoint, args.output
    if not is_sharded(folder):
        kind = "a file, which is whole already" if folder.is_file() else "nothing like it"
        raise CheckpointError(f"--checkpoint: expected a checkpoint in parts, {folder} is {kind}")
    if problem := why_incomplete(folder):
        raise CheckpointError(f"{folder}: {problem}")
    num_bytes = sum(part.stat().st_size for part in folder.iterdir())
    check_output_file("--output", output, num_bytes)
    checkpoint = read_sharded(folder)
    with new_file(output) as temporary:
        save_plain(checkpoint, temporary)
    step, size = checkpoint["global_step"], output.stat().st_size / 1e6
    print(f"{output}: step {step}, {size:.1f} MB")
    return 0
