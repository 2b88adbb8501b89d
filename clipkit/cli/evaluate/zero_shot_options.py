"""Options of zero-shot classification on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from clipkit.cli.arguments import given_text
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.evaluation import ZeroShotOptions

_ZERO_SHOT: Final = ("zero-shot", "zero-shot-multi-label", "corruptions", "fairness")
_SEVERAL: Final = ("multi-label", "zero-shot-multi-label")
_USED_BY: Final = {
    "--classnames": _ZERO_SHOT,
    "--templates": _ZERO_SHOT,
    "--group-field": ("zero-shot", "retrieval", "fairness", "translation"),
    "--calibration-split": ("zero-shot", *_SEVERAL),
    "--thresholds": _SEVERAL,
    "--facts": _ZERO_SHOT,
    "--hold-out-by": ("zero-shot", *_SEVERAL, "linear-probe", "nearest-neighbours", "few-shot"),
}
_PARSED: Final = {"thresholds": "global"}


def add_zero_shot_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of zero-shot classification; see ``zero_shot_options``."""
    group = parser.add_argument_group("zero-shot classification, and several classes per image")
    group.add_argument(
        "--classnames",
        type=given_text,
        metavar="NAME-or-FILE",
        help="imagenet, or a file with one name per line in the order of the class numbers, or a "
        "JSON or YAML file (FILE.json:KEY selects a data set); default: the names of the data; "
        "folders of WordNet ids (n01440764) get ImageNet's names",
    )
    group.add_argument(
        "--templates",
        type=given_text,
        metavar="NAME-or-FILE",
        help="openai (80), simple (7), generic (8), a file with one template per line, or a JSON "
        "or YAML file of templates or of the prompts of each class; default: those of the data, "
        "else generic",
    )
    group.add_argument(
        "--facts",
        type=given_text,
        metavar="FILE",
        help="a table of facts (CSV, TSV, JSON, Parquet; columns name and definition), whose "
        "definitions are added to the prompts of the classes",
    )
    _add_measured(group.add_argument)


def _add_measured(add: Callable[..., argparse.Action]) -> None:
    """Add what is measured in addition: groups, calibration, thresholds."""
    add(
        "--group-field",
        type=given_text,
        metavar="MEMBER",
        help="where the group of an image is, such as json:region; also measures each group and "
        "the worst one; for retrieval and translation also a list with the group of each caption, "
        "the captions by group, or caption:language for captions that --caption finds by language",
    )
    add(
        "--calibration-split",
        type=given_text,
        metavar="SPLIT",
        help="split of --data, other than --split, on which a temperature (zero-shot) or "
        "thresholds (several classes per image) are fitted",
    )
    add(
        "--thresholds",
        choices=("global", "per-class"),
        default="global",
        help="one fitted threshold, or one for each class (several classes per image)",
    )


def zero_shot_options(args: argparse.Namespace, tasks: Sequence[str]) -> ZeroShotOptions:
    """Return the options of ``add_zero_shot_arguments``; refuse them for other tasks.

    Args:
        args: Parsed arguments.
        tasks: Tasks that are measured.

    Raises:
        ConfigError: If an option is given that no task uses.
    """
    from clipkit.evaluation import ZeroShotOptions

    options = ZeroShotOptions(
        args.classnames,
        args.templates,
        args.group_field,
        args.calibration_split,
        args.thresholds,
        args.hold_out_by,
        args.facts,
    )
    for option, using in _USED_BY.items():
        name = option.removeprefix("--").replace("-", "_")
        if getattr(args, name) != _PARSED.get(name) and not set(tasks) & set(using):
            raise ConfigError(
                f"{option}: expected one of the tasks {', '.join(using)}, got {', '.join(tasks)}"
            )
    return options
