"""Options of the robustness to corruptions of ``clipkit evaluate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipkit.evaluation import RobustnessOptions


def add_robustness_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of robustness; see ``robustness_options``."""
    group = parser.add_argument_group("robustness (corruptions, fairness)")
    group.add_argument(
        "--classifier",
        default="zero-shot",
        choices=("zero-shot", "label-head"),
        help="task whose predictions are measured",
    )
    group.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="corruptions, such as fog; default: all 12"
    )
    group.add_argument(
        "--strengths", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N",
        help="strengths of the corruptions, 1 to 5",
    )  # fmt: skip


def robustness_options(args: argparse.Namespace) -> RobustnessOptions:
    """Return the options of ``add_robustness_arguments``."""
    from clipkit.evaluation import CORRUPTIONS, RobustnessOptions

    corruptions = tuple(args.corruptions or CORRUPTIONS)
    return RobustnessOptions(args.classifier, corruptions, tuple(args.strengths))
