"""``clipkit search serve``: a page and a JSON API for a collection."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final

from clipkit.cli.arguments import add_command, given_path, given_text
from clipkit.cli.search.query import add_model_of_collection
from clipkit.errors import ConfigError

TOKEN_VARIABLE: Final = "CLIPKIT_SEARCH_TOKEN"  # noqa: S105
_MEGABYTE: Final = 1_000_000


def add_parser(commands: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        commands, run, "serve", "search in a browser, and by a JSON API",
        "Serve a page and a JSON API (described at /api/openapi.json) that search a folder that "
        "'clipkit embed' wrote. Only this machine can reach it, unless --host or --allowed-host is "
        f"given; then every request needs a token, which is read from --token-file or "
        f"{TOKEN_VARIABLE}, or is made and printed.",
    )  # fmt: skip
    parser.add_argument("collection", type=given_path, metavar="DIR", help="the collection")
    _add_address(parser)
    parser.add_argument(
        "--max-upload-mb",
        type=float,
        default=20.0,
        metavar="MB",
        help="largest image file that may be uploaded, in megabytes (default: 20)",
    )
    add_model_of_collection(parser)


def _add_address(parser: argparse.ArgumentParser) -> None:
    """Add where the server is reached, and by whom."""
    parser.add_argument(
        "--host",
        type=given_text,
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 for all of this machine (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="0 for a free port, which is printed (default: 8000)"
    )
    parser.add_argument(
        "--token-file",
        type=given_path,
        metavar="FILE",
        help="file with the token that every request must bring",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        type=given_text,
        metavar="NAME",
        help="a name under which browsers reach the server, such as that of a reverse proxy, in "
        "addition to localhost and IP addresses; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    given = given_token(args.token_file)

    from clipkit.search.serving import Limits, ServeOptions, is_open, new_token, serve

    made = new_token() if given is None and is_open(args.host, args.allowed_host) else None
    if not args.max_upload_mb > 0:
        raise ConfigError(f"--max-upload-mb: expected more than 0, got {args.max_upload_mb}")
    options = ServeOptions(
        host=args.host,
        port=args.port,
        token=given or made,
        allowed_hosts=tuple(args.allowed_host),
        model=args.model,
        device=args.device,
        limits=Limits(upload_bytes=round(args.max_upload_mb * _MEGABYTE)),
    )

    def announce(address: str) -> None:
        shown = address if made is None else f"{address}?token={made}"
        needs = " (with its token)" if given is not None else ""
        print(f"serving {args.collection}{needs}: {shown}", flush=True)

    serve(args.collection, options, announce)
    return 0


def given_token(path: Path | None) -> str | None:
    """Return the token of the file, or else of the environment; None without both.

    Raises:
        ConfigError: If the file cannot be read, or the token is empty.
    """
    where, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if path is not None:
        where = f"--token-file: {path}"
        try:
            token = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
            raise ConfigError(f"{where}: cannot be read: {reason}") from error
    if token is not None and not token.strip():
        raise ConfigError(f"{where}: expected a token, got an empty text")
    return None if token is None else token.strip()
