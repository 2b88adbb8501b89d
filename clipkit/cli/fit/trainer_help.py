"""List the options of a parser, and render the help of functions."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import pairwise

from jsonargparse import ArgumentParser


def function_help(words: Sequence[str]) -> str | None:
    """Render the options of a function that ``--KEY.help`` names; jsonargparse supports classes."""
    for word, value in pairwise([*words, ""]):
        if not (word.startswith("--") and word.endswith(".help")) or "." not in value:
            continue
        module, _, name = value.rpartition(".")
        try:
            function = getattr(import_module(module), name, None)
        except ImportError:
            return None  # the parser reports it
        if inspect.isfunction(function):
            parser = ArgumentParser(prog=value, add_help=False, usage=SUPPRESS)
            parser.add_function_arguments(function, word[2 : -len(".help")])
            return str(parser.format_help())
    return None


def option_names(parser: ArgumentParser) -> Iterator[str]:
    """Yield every option of a parser and its subcommands, by dotted name."""
    for action in parser._actions:
        if action.dest:
            yield action.dest
        choices = getattr(action, "choices", None)
        if isinstance(choices, dict):
            for child in choices.values():
                if isinstance(child, ArgumentParser):
                    yield from option_names(child)
