"""``clipkit search query``: print, or write to a file, the images that match a query."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipkit.cli.arguments import add_command, add_trust_argument, given_path, given_text
from clipkit.cli.outputs import check_output_file
from clipkit.cli.progress import progress_bar
from clipkit.cli.search.given_parts import GivenPart, add_part_arguments, given_parts
from clipkit.cli.search.results import check_result_file, show, with_scores
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.search import ExactEngine, Hit, Searcher


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        commands, run, "query", "find images or sounds by texts, images and sounds",
        "Find the images or the sounds of a collection that are most similar to a query: the "
        "weighted sum of the embeddings of texts, image files, sound files and rows. 'clipkit "
        "search query DIR \"at night\" --image house.jpg --weight 2 --without people' finds images "
        "like house.jpg, but at night and without people.",
    )  # fmt: skip
    parser.add_argument("collection", type=given_path, metavar="DIR", help="the collection")
    add_part_arguments(parser)
    _add_filters(parser)
    _add_ways(parser)
    parser.add_argument(
        "--output", type=given_path, metavar="FILE", help="a .json or .csv file for the results"
    )
    parser.add_argument(
        "--html",
        type=given_path,
        metavar="FILE.html",
        help="a page with the images, and with players for sounds",
    )
    add_model_of_collection(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Add what is found, and how many of it."""
    parser.add_argument(
        "--modality",
        type=given_text,
        metavar="NAME",
        help="what is found: image, or a further modality of the collection, such as sound "
        "(default: the first of which a sample has an embedding)",
    )
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
        "--num-results",
        type=int,
        default=20,
        metavar="N",
        help="number of images, or of groups of near duplicates on screen and page (default: 20)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="least cosine similarity (default: none; of near duplicates 0.95)",
    )


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """Add how images are compared and ordered."""
    parser.add_argument(
        "--near-duplicates",
        action="store_true",
        help="find groups of nearly equal images by comparing all pairs; with a query, only images "
        "that nearly equal it",
    )
    parser.add_argument(
        "--exact", action="store_true", help="compare with all images, even if there is an index"
    )
    parser.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="let a joint encoder look at the K best images or sounds, and order them by whether "
        "they match the text",
    )
    parser.add_argument(
        "--reranker",
        type=given_text,
        metavar="CKPT",
        help="the joint encoder of --rerank (default: the model of the collection)",
    )


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
    if not parts and not args.near_duplicates:
        raise ConfigError(
            "query: expected a TEXT, --text, --image, --sound or --row, got none, such as "
            'clipkit search query DIR "a dog"'
        )
    if args.modality not in (None, "image") and not parts:
        raise ConfigError(
            f"--modality: expected a query, got --near-duplicates without one, which compares "
            f"images; leave out --modality {args.modality}"
        )
    _check_rerank(args, parts)
    check_result_file("--output", args.output)
    for option, path in (("--output", args.output), ("--html", args.html)):
        check_output_file(option, path)

    from clipkit.search import Searcher
    from clipkit.search.near_duplicates import DEFAULT_MIN_SCORE

    if args.near_duplicates and args.min_score is None:
        args.min_score = DEFAULT_MIN_SCORE
    searcher = Searcher(
        args.collection, model=args.model, device=args.device,
        engine=_exact_engine(args) if args.exact else None, modality=args.modality,
    )  # fmt: skip
    if parts:
        _show_query(searcher, parts, args)
    elif searcher.modality != "image":
        raise ConfigError(
            f"--near-duplicates: compares images, but {args.collection} has embeddings of "
            f"{searcher.modality}s alone; with a query it finds what nearly equals it"
        )
    else:
        _show_duplicates(searcher, args)
    return 0


def _exact_engine(args: argparse.Namespace) -> ExactEngine:
    from clipkit.collection import Collection
    from clipkit.search import ExactEngine
    from clipkit.search.modalities import searched_modality

    collection = Collection(args.collection)
    return ExactEngine(collection, modality=searched_modality(collection, args.modality))


def _show_query(searcher: Searcher, parts: Sequence[GivenPart], args: argparse.Namespace) -> None:
    """Search, and print or write the images."""
    from clipkit.search import RowFilter
    from clipkit.search.modalities import plural_of
    from clipkit.search.result_page import ResultGroup, write_result_page

    result = searcher.search(
        [part.read() for part in parts],
        [RowFilter.parse(text) for text in args.where],
        max(args.num_results, args.rerank or 0),
        min_score=args.min_score,
    )
    hits = list(result.hits)
    if args.rerank is not None:
        hits = _reranked(searcher, hits, parts, args)
    scores = {hit.row: hit.score for hit in hits[: args.num_results]}
    records, named = with_scores(searcher, scores), plural_of(searcher.modality)
    if args.html is not None:
        title = ", ".join(("" if part.sign > 0 else "without ") + part.name for part in parts)
        found = f"of {result.num_candidates:,} {named} (search: {searcher.engine.description})"
        explanation = (
            f"{_chosen(len(records), len(hits), args)} {found}; numbers in bold are cosine "
            f"similarities."
        )
        write_result_page(
            args.html, searcher.collection, [ResultGroup("", records)], title, explanation
        )
    show(records, args, named)


def _chosen(num_shown: int, num_hits: int, args: argparse.Namespace) -> str:
    """Say which hits a page shows, and in which order."""
    if args.rerank is None:
        return f"The {num_shown} most similar"
    best = min(args.rerank, num_hits)
    if num_shown <= best:
        return (
            f"The first {num_shown} of the {best} most similar, in the order in which a joint "
            f"encoder finds that they match the text,"
        )
    return (
        f"The {num_shown} most similar, of which the first {best} are in the order in which a "
        f"joint encoder finds that they match the text,"
    )


def _check_rerank(args: argparse.Namespace, parts: Sequence[GivenPart]) -> None:
    """Refuse to re-rank what is no single text."""
    if args.rerank is None:
        if args.reranker is not None:
            raise ConfigError("--reranker: expected --rerank K, too, got none")
        return
    if args.rerank < 1:
        raise ConfigError(f"--rerank: expected at least 1, got {args.rerank}")
    if len(parts) != 1 or parts[0].text is None or parts[0].sign < 0 or args.near_duplicates:
        raise ConfigError(
            "--rerank: expected a query of one text, which a joint encoder compares with what is "
            "found"
        )


def _reranked(
    searcher: Searcher, hits: Sequence[Hit], parts: Sequence[GivenPart], args: argparse.Namespace
) -> list[Hit]:
    """Order the best hits by a joint encoder, and print how long that took."""
    from clipkit.models import JointEncoder, load_towers
    from clipkit.search import reranked_hits
    from clipkit.search.modalities import plural_of

    path = args.reranker or args.model or searcher.collection.info.model
    joint = load_towers(path, args.device).encoder
    if not isinstance(joint, JointEncoder):
        raise ConfigError(
            f"--reranker: expected a joint encoder, got a {type(joint).__name__}: {path}; train "
            f"one with clipkit.models.with_fusion"
        )
    (part,) = parts
    assert part.text is not None, "checked before"
    begin = time.perf_counter()
    named, best = searcher.modality, min(args.rerank, len(hits))
    ordered = reranked_hits(joint, searcher.collection, part.text, hits, args.rerank, named)
    seconds = time.perf_counter() - begin
    print(f"re-ranked {best} {plural_of(named)} in {seconds:.2f} s", file=sys.stderr)
    return ordered


def _show_duplicates(searcher: Searcher, args: argparse.Namespace) -> None:
    """Find groups of near duplicates, and print or write them."""
    from clipkit.search import RowFilter
    from clipkit.search.near_duplicates import near_duplicates
    from clipkit.search.result_page import ResultGroup, write_result_page

    mask = searcher.masks.mask([RowFilter.parse(text) for text in args.where])
    with progress_bar("rows compared") as progress:
        groups = near_duplicates(searcher.collection, args.min_score, mask, progress)
    num_shown = len(groups) if args.output is not None else args.num_results
    found = []
    for number, group in enumerate(groups[:num_shown]):
        scores = dict(zip(group.rows, group.scores, strict=True))
        found.append([{"group": number, **each} for each in with_scores(searcher, scores)])
    if args.html is not None:
        titles = [f"{len(group):,} images" for group in found]
        shown = list(map(ResultGroup, titles, found))[: args.num_results]
        explanation = (
            f"The largest of {len(groups):,} groups of images that pairs with a cosine similarity "
            f"of at least {args.min_score:g} connect; numbers in bold are similarities with the "
            "first image of the group."
        )
        write_result_page(args.html, searcher.collection, shown, "Near duplicates", explanation)
    num_images = sum(len(group.rows) for group in groups)
    print(f"{len(groups):,} groups of near duplicates, {num_images:,} images in them")
    show([record for group in found for record in group], args)
