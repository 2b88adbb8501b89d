"""The parser of runs, which is built once in a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from clipkit.cli.fit.parse_errors import clipkit_error, explain
from clipkit.cli.fit.trainer_help import option_names
from clipkit.errors import ConfigError

_BUILT: Final[dict[str, dict[str, Any]]] = {}
"""What building its parser sets in a CLI, by subcommand."""


class Parser(LightningArgumentParser):
    """Parser that raises a ``ConfigError`` instead of printing the usage and exiting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an error as a ``ConfigError`` on one line, with close matches for a typo."""
        if (cause := clipkit_error(ex)) is not None:
            raise cause
        raise ConfigError(explain(message, ex, option_names(self), self.config_files))

    # Shared by the parsers of all subcommands, because an error does not name its file.
    config_files: tuple[str, ...] = ()


def build_once(cli: object, subcommand: str, build: Callable[[], None]) -> None:
    """Build the parser of a CLI, or give it that of the CLI before; a search checks many runs."""
    if subcommand not in _BUILT:
        before = set(vars(cli))
        build()
        _BUILT[subcommand] = {k: value for k, value in vars(cli).items() if k not in before}
    vars(cli).update(_BUILT[subcommand])


def forget(subcommand: str) -> None:
    """Build the next parser anew: after an error, this one would still print a configuration."""
    _BUILT.pop(subcommand, None)
