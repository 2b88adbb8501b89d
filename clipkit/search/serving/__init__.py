"""The page and the HTTP interface of ``clipkit search serve``."""

from clipkit.errors import ConfigError

try:
    import fastapi as _fastapi  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as _error:
    raise ConfigError(
        "the search server needs fastapi and uvicorn, which are not installed; "
        "pip install 'clipkit[search]'"
    ) from _error

from clipkit.search.serving.application import create_app
from clipkit.search.serving.options import (
    Limits,
    ServeOptions,
    is_loopback,
    is_open,
    new_token,
)
from clipkit.search.serving.server import serve

__all__ = [
    "Limits",
    "ServeOptions",
    "create_app",
    "is_loopback",
    "is_open",
    "new_token",
    "serve",
]
