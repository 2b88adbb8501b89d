"""Options of the probes of ``clipkit evaluate``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipkit.evaluation import ProbeOptions


def add_probe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of probes; see ``probe_options``."""
    group = parser.add_argument_group(
        "probes (linear-probe, multi-label-probe, nearest-neighbours, few-shot)"
    )
    group.add_argument("--train-split", default="train", help="split to fit on (default: train)")
    group.add_argument(
        "--validation-split",
        metavar="SPLIT",
        help="split that selects the penalty; default: a fifth of the training split",
    )
    group.add_argument(
        "--hold-out-by",
        metavar="FIELD",
        help="field with the group of a sample, such as json:patient_id: groups are held out "
        "completely, and must not occur in two splits; also used with --calibration-split, and "
        "for the intervals of zero-shot and multi-label tasks",
    )
    group.add_argument(
        "--allow-overlap",
        action="store_true",
        help="measure although the same image or group is in two splits",
    )
    group.add_argument(
        "--neighbours", type=int, nargs="+", default=[10, 20, 100, 200], metavar="K",
        help="numbers of nearest neighbours",
    )  # fmt: skip
    group.add_argument(
        "--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N",
        help="training images of each class (few-shot)",
    )  # fmt: skip
    group.add_argument("--seeds", type=int, default=5, help="draws of few-shot (default: 5)")


def probe_options(args: argparse.Namespace) -> ProbeOptions:
    """Return the options of ``add_probe_arguments``."""
    from clipkit.evaluation import ProbeOptions

    return ProbeOptions(
        args.train_split,
        args.validation_split,
        args.hold_out_by,
        args.allow_overlap,
        tuple(args.neighbours),
        tuple(args.shots),
        args.seeds,
    )
