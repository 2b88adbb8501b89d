"""Refuse Python code that a model brings along, unless the user allows it.

transformers loads models and tokenizers that contain Python files. Checkpoints and configurations
name the models, and they are data, so the permission is not part of them:
``--trust-remote-code`` allows it for one command, ``trust_remote_code`` for a block of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar

from clipkit.errors import ConfigError

OPTION: Final = "trust_remote_code"
"""Name of the permission in transformers."""
FLAG: Final = "--trust-remote-code"
"""Option that allows it for one command."""

_TRUSTED: Final[ContextVar[bool]] = ContextVar(OPTION, default=False)
T = TypeVar("T")


@contextmanager
def trust_remote_code(trusted: bool = True) -> Iterator[None]:
    """Let models that are loaded in the block run Python code that they bring along.

    Examples:
        >>> with trust_remote_code():
        ...     is_trusted()
        True
    """
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def is_trusted() -> bool:
    """Return whether the calling block trusts the code of models."""
    return _TRUSTED.get()


def refuse_remote_code(what: str) -> ConfigError:
    """Return the error for a model that contains code."""
    return ConfigError(
        f"{what}: contains Python code, which loading it would run; if you have read that "
        f"code and trust it, allow it: {FLAG}, or clipkit.remote_code."
        f"trust_remote_code() in Python"
    )


def load_trusted(what: str, load: Callable[[bool], T]) -> T:
    """Load a part of transformers, without code that is not trusted and without a question."""
    try:
        return load(is_trusted())
    except ValueError as error:
        if OPTION not in str(error):
            raise
        raise refuse_remote_code(what) from error
