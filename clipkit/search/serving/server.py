"""Serve a collection with uvicorn until a signal."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from clipkit.errors import ConfigError
from clipkit.search.serving.application import create_app
from clipkit.search.serving.connections import TimedConnection
from clipkit.search.serving.options import ServeOptions

_BACKLOG: Final = 2048
_MOST_CONNECTIONS: Final = 1000
_GRACE_SECONDS: Final = 10
_IDLE_SECONDS: Final = 15


def serve(folder: Path | str, options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Serve a collection until SIGINT or SIGTERM, which is raised again after the last answers.

    If the collection cannot be loaded, the server stays and says why.

    Args:
        folder: A folder that ``clipkit embed`` wrote.
        options: Address, access and limits.
        announce: Called with the address of the page once the port is open.

    Raises:
        ConfigError: If the address cannot be used.
        DataError: If the folder is no collection.
    """
    app = create_app(folder, options)
    with open_socket(options.host, options.port) as listening:
        announce(page_address(options.host, listening.getsockname()[1]))
        make_server(app).run(sockets=[listening])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return the HTTP server of an application.

    It keeps no log of requests: the lines would contain the token of ``/?token=``.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=TimedConnection,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: If the address is unknown or in use, or the port is not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host: {host!r} is no address of this machine: {error}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"--port: {host}:{port} cannot be opened: {error.strerror}; choose another port, or 0 "
            "for a free one"
        ) from error
    return listening


def page_address(host: str, port: int) -> str:
    """Return the address of the page as a browser on this machine opens it.

    Examples:
        >>> page_address("0.0.0.0", 8000), page_address("::1", 80)
        ('http://127.0.0.1:8000/', 'http://[::1]:80/')
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}/"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{shown}:{port}/"
