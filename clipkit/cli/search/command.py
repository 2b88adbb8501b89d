"""``clipkit search build|query|serve|export``: search in an embedded collection."""

from __future__ import annotations

import argparse
from typing import Any

from clipkit.cli.search import build, export, query, serve


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "search",
        help="search in embedded images and sounds, by texts, images and sounds",
        description="Search in a folder that 'clipkit embed' wrote.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (build, query, serve, export):
        command.add_parser(commands)
