"""``clipkit search query``: print, or write to a file, the images that match a query."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipkit.cli.arguments import add_command, add_trust_argument, given_path, given_text
from clipkit.cli.outputs import check_output_file
from clipkit.cli.search.given_parts import GivenPart, add_part_arguments, given_parts
from clipkit.cli.search.results import check_result_file, print_results, write_results
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.search import Searcher


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        commands, run, "query", "find images by texts and images",
        "Find the images of a collection that are most similar to a query: the weighted sum of the "
        "embeddings of texts, image files and rows. 'clipkit search query DIR \"at night\" --image "
        "house.jpg --weight 2 --without people' finds images like house.jpg, but at night and "
        "without people.",
    )  # fmt: skip
    parser.add_argument("collection", type=given_path, metavar="DIR", help="the collection")
    add_part_arguments(parser)
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        type=given_text,
        metavar="CONDITION",
        help="a condition that images must meet, such as 'width_pixels>=256', 'captions~cat', "
        "label=dog, 'json:author!=Ann'; may be repeated",
    )
    parser.add_argument(
        "--num-results", type=int, default=20, metavar="N", help="number of images (default: 20)"
    )
    parser.add_argument(
        "--min-score", type=float, metavar="S", help="least cosine similarity (default: none)"
    )
    parser.add_argument(
        "--output", type=given_path, metavar="FILE", help="a .json or .csv file for the results"
    )
    add_model_of_collection(parser)


def add_model_of_collection(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--device`` and ``--trust-remote-code`` of a command on a collection."""
    parser.add_argument(
        "--model",
        type=given_text,
        metavar="CKPT-or-NAME",
        help="where the model is that embedded the collection (default: where it was then)",
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1 …; auto: a GPU if there is one"
    )
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    parts = given_parts(args)
    if not parts:
        raise ConfigError(
            "query: expected a TEXT, --text, --image or --row, got none, such as "
            'clipkit search query DIR "a dog"'
        )
    check_result_file("--output", args.output)
    check_output_file("--output", args.output)

    from clipkit.search import Searcher

    searcher = Searcher(args.collection, model=args.model, device=args.device)
    records = _found(searcher, parts, args)
    if args.output is not None:
        write_results(args.output, records)
        print(f"{len(records)} images: {args.output}")
    else:
        print_results(records)
    return 0


def _found(
    searcher: Searcher, parts: Sequence[GivenPart], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the records of the results, with their scores."""
    from clipkit.search import RowFilter

    result = searcher.search(
        [part.read() for part in parts],
        [RowFilter.parse(text) for text in args.where],
        args.num_results,
        min_score=args.min_score,
    )
    records = searcher.records([hit.row for hit in result.hits])
    return [
        {"row": record.pop("row"), "score": hit.score, **record}
        for hit, record in zip(result.hits, records, strict=True)
    ]
