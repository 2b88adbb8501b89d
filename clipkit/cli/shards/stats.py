"""``clipkit shards stats``: describe the content of shards."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import add_trust_argument, given_path
from clipkit.cli.outputs import check_output_folder
from clipkit.cli.printing import say
from clipkit.cli.progress import progress_bar
from clipkit.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from clipkit.collection import CollectionImages
    from clipkit.curation.overview import DataFacts

_EXIT_BROKEN: Final = 1
_MAX_TOKENS: Final = 100_000


def add_stats_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--output", type=given_path, metavar="DIR", help="folder for stats.json and stats.html"
    )
    parser.add_argument(
        "--tokenizer",
        default="open_clip:ViT-B-32",
        help="tokenizer that counts the tokens of captions (default: open_clip:ViT-B-32)",
    )
    parser.add_argument(
        "--embeddings",
        type=given_path,
        metavar="DIR",
        help="folder that clipkit embed wrote for these shards: also describe clusters, scores of "
        "images and captions, duplicates, and captions",
    )
    parser.add_argument(
        "--num-clusters",
        type=int,
        metavar="NUMBER",
        help="clusters of the images (default: root of half their number, at most 64)",
    )
    add_trust_argument(parser)


def run_stats(args: argparse.Namespace) -> int:
    """Count, print the numbers, and write the page."""
    check_output_folder("--output", args.output, ["stats.json", "stats.html"])
    if args.num_clusters is not None and args.embeddings is None:
        raise ConfigError("--num-clusters: expected --embeddings DIR with it, got none; add it")

    from clipkit.curation.overview import write_stats_page
    from clipkit.data import collect_stats, tokenizer_from_name

    data = None if args.embeddings is None else _describe(args)
    tokenizer = tokenizer_from_name(args.tokenizer, context_length=_MAX_TOKENS)
    with progress_bar("reading") as advance:
        stats = collect_stats(args.urls, tokenizer, args.num_workers, advance)
    if stats.num_samples == 0 and stats.faults:
        raise ShardError(stats.faults[0].reason)
    summary = {**stats.summary(), "tokenizer": args.tokenizer}
    for fault in stats.faults:
        _log(f"broken: {fault}")
    content = summary if data is None else {**summary, "collection": data[0].as_json()}
    say(json.dumps(content, indent=1, ensure_ascii=False))
    if args.output is not None:
        write_json(args.output / "stats.json", content)
        page = None
        if data is not None:
            from clipkit.curation.overview import data_page

            with progress_bar("images of the page") as advance:
                page = data_page(*data, advance)
        write_stats_page(args.output / "stats.html", stats, summary, page)
        _log(f"page: {args.output / 'stats.html'}")
    return _EXIT_BROKEN if stats.faults else 0


def _describe(args: argparse.Namespace) -> tuple[DataFacts, CollectionImages]:
    """Describe the collection, whose rows have to be the samples of the shards."""
    from clipkit.collection import Collection, CollectionImages, check_same_shards
    from clipkit.curation.overview import describe_data
    from clipkit.data import ShardIndex

    collection = Collection(args.embeddings)
    index = ShardIndex.from_urls(args.urls)
    check_same_shards(collection, index)
    images = CollectionImages(collection, [shard.address for shard in index.shards])
    return describe_data(collection, args.num_clusters, progress=progress_bar), images


def _log(text: str) -> None:
    say(text, to_errors=True)
