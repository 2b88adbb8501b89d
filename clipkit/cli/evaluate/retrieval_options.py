"""Options of retrieval on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipkit.cli.arguments import given_text
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.evaluation import RetrievalOptions


def add_retrieval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of retrieval; see ``retrieval_options``."""
    group = parser.add_argument_group("retrieval")
    group.add_argument(
        "--width",
        type=int,
        nargs="+",
        default=[],
        metavar="W",
        help="also measure retrieval with the first W components of the embeddings",
    )
    group.add_argument(
        "--positives",
        type=given_text,
        metavar="FILE.json",
        help="correct pairs in addition to those of the data: "
        '{"text_to_image": {"KEY#2": ["KEY", ...]}, "image_to_text": {"KEY": ["KEY#2", ...]}}; '
        "KEY#2 is the second caption of sample KEY",
    )
    group.add_argument(
        "--merge-captions",
        action="store_true",
        help="make equal captions of several images one text, for which all of them are correct",
    )
    group.add_argument(
        "--rerank",
        type=int,
        metavar="K",
        help="let the fusion of a joint encoder order the K best candidates of each query, and "
        "also measure retrieval after that",
    )


def retrieval_options(args: argparse.Namespace, tasks: Sequence[str]) -> RetrievalOptions:
    """Return the options of ``add_retrieval_arguments``; refuse them for other tasks.

    Args:
        args: Parsed arguments.
        tasks: Tasks that are measured.

    Raises:
        ConfigError: If an option is given and retrieval is not measured.
    """
    from clipkit.evaluation import RetrievalOptions

    given = {
        "--width": (args.width, ("retrieval",)),
        "--positives": (args.positives, ("retrieval",)),
        "--rerank": (args.rerank is not None, ("retrieval",)),
        "--merge-captions": (args.merge_captions, ("retrieval", "translation")),
    }
    for name, (value, using) in given.items():
        if value and not set(tasks) & set(using):
            raise ConfigError(
                f"{name}: expected the task {' or '.join(using)}, got {', '.join(tasks)}"
            )
    return RetrievalOptions(args.positives, args.merge_captions, args.group_field, args.width)
