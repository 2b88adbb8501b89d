"""``clipkit search export``: give a collection to clip-retrieval or Qdrant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from clipkit.cli.arguments import add_command, given_path, given_text
from clipkit.cli.outputs import check_new_folder
from clipkit.cli.progress import progress_bar
from clipkit.errors import ConfigError


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        commands, run, "export", "give a collection to clip-retrieval or Qdrant",
        "Write the embeddings of a collection in the layout of clip-retrieval, or into a database "
        "of Qdrant. Samples without an embedding are left out.",
    )  # fmt: skip
    parser.add_argument("collection", type=given_path, metavar="DIR", help="the collection")
    parser.add_argument("--format", required=True, choices=("clip-retrieval", "qdrant"))
    parser.add_argument(
        "--output", type=given_path, metavar="DIR", help="new folder, for clip-retrieval"
    )
    parser.add_argument(
        "--url",
        type=given_text,
        help="address of the server, for Qdrant, such as http://localhost:6333; its key is read "
        "from the environment variable QDRANT_API_KEY",
    )
    parser.add_argument(
        "--name",
        type=given_text,
        help="name of the collection in Qdrant (default: that of the folder DIR)",
    )


def run(args: argparse.Namespace) -> int:
    if args.format == "qdrant":
        _check_options(args, needed="url", others=("output",))
        return _to_qdrant(args)
    _check_options(args, needed="output", others=("url", "name"))
    return _to_clip_retrieval(args)


def _check_options(args: argparse.Namespace, needed: str, others: Sequence[str]) -> None:
    if getattr(args, needed) is None:
        raise ConfigError(f"--{needed}: expected with --format {args.format}, got none")
    for name in others:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}: expected without --format {args.format}")


def _to_clip_retrieval(args: argparse.Namespace) -> int:
    check_new_folder("--output", args.output)

    from clipkit.collection import Collection
    from clipkit.search.export.clip_retrieval import export_clip_retrieval

    collection = Collection(args.collection)
    with progress_bar("exporting") as advance:
        num_samples = export_clip_retrieval(collection, args.output, advance)
    print(f"{num_samples} of {len(collection)} samples: {args.output}")
    return 0


def _to_qdrant(args: argparse.Namespace) -> int:
    from clipkit.collection import Collection
    from clipkit.search.export.qdrant import export_qdrant, qdrant_client

    collection = Collection(args.collection)
    name = args.name or args.collection.resolve().name
    with progress_bar("exporting") as advance, qdrant_client(args.url) as client:
        report = export_qdrant(collection, client, name, advance)
    print(
        f"{report.num_points} of {len(collection)} samples, {report.num_kept} of them before: "
        f"collection {name} of {args.url}"
    )
    return 0
