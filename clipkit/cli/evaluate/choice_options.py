"""Options of the pair choice of ``clipkit evaluate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.evaluation import ChoiceColumns


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of pair choice; see ``choice_columns``."""
    group = parser.add_argument_group("pair choice (pair-choice)")
    group.add_argument(
        "--choice-images", nargs="+", metavar="COLUMN",
        help="columns of a table with the images; the i-th belongs to the i-th text",
    )  # fmt: skip
    group.add_argument(
        "--choice-texts", nargs="+", metavar="COLUMN",
        help="columns with the texts, the right ones first; default: recognised by their names",
    )  # fmt: skip
    group.add_argument(
        "--choice-category", metavar="COLUMN", help="column with the kind of an instance"
    )


def choice_columns(args: argparse.Namespace) -> ChoiceColumns | None:
    """Return the columns, or None to recognise them.

    Raises:
        ConfigError: If images are named without texts, or the reverse.
    """
    from clipkit.evaluation import ChoiceColumns

    images, texts, category = args.choice_images, args.choice_texts, args.choice_category
    if (images is None) != (texts is None):
        raise ConfigError("--choice-images, --choice-texts: expected both or neither")
    if images is None and category is None:
        return None
    return ChoiceColumns(images or (), texts or (), category)
