"""``clipkit search build``: build an index of a large collection."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clipkit.cli.arguments import add_command, given_path, given_text
from clipkit.cli.progress import progress_bar

if TYPE_CHECKING:
    from clipkit.search.index import IndexInfo


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        commands, run, "build", "build an index of a large collection",
        "Build an index of a collection with FAISS, in its folder 'index'; a previous one is "
        "replaced. Up to two million images, exact search needs no index, and none is built unless "
        "--factory asks for it. The recall is measured against exact search.",
    )  # fmt: skip
    parser.add_argument("collection", type=given_path, metavar="DIR", help="the collection")
    parser.add_argument(
        "--factory",
        type=given_text,
        metavar="STRING",
        help="factory string of FAISS with IVF, HNSW or Flat, such as IVF2048,SQ8 (default: by the "
        "number of images)",
    )
    parser.add_argument(
        "--modality",
        type=given_text,
        metavar="NAME",
        help="what the index finds: image, or a further modality of the collection, such as sound "
        "(default: the first of which a sample has an embedding)",
    )
    parser.add_argument(
        "--num-probes",
        type=int,
        metavar="N",
        help="inverted lists that a query searches (default: the fewest with a recall@10 of 0.95)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of samples and training (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    from clipkit.collection import Collection
    from clipkit.search.index import EXACT_ROWS, BuildOptions, build_index, index_factory
    from clipkit.search.modalities import plural_of, searched_modality

    collection = Collection(args.collection)
    modality = searched_modality(collection, args.modality)
    factory, named = args.factory, plural_of(modality)
    if factory is None:
        if len(collection) <= EXACT_ROWS:
            print(
                f"{len(collection):,} {named}: exact search needs no index up to {EXACT_ROWS:,}; "
                "--factory builds one nevertheless"
            )
            return 0
        factory = index_factory(len(collection), collection.info.embedding_dim)
        print(f"{len(collection):,} {named}: index {factory}")
    with progress_bar("rows in the index") as progress:
        options = BuildOptions(factory, args.num_probes, args.seed, modality)
        info = build_index(collection, options, progress)
    print(_summary(info))
    return 0


def _summary(info: IndexInfo) -> str:
    """Return one line about an index that was built, and what to do if it finds too little."""
    from clipkit.search.index.build import TARGET_RECALL

    recall = ", ".join(f"{value:.3f} for {kind}" for kind, value in info.recall_at_10.items())
    probes = f", {info.num_probes} lists per query" if info.num_probes else ""
    built = (
        f"{info.factory}{probes}: recall@10 {recall} ({info.num_queries} queries), built in "
        f"{sum(info.seconds.values()):.0f} s"
    )
    if info.least_recall >= TARGET_RECALL:
        return built
    return (
        f"{built}\nrecall@10 is below {TARGET_RECALL}; more lists (--num-probes) or a --factory "
        "with more bytes per component, such as IVF2048,SQfp16, find more"
    )
