"""``clipkit interpolate``: measure and write mixtures of two models (WiSE-FT)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from clipkit.cli.arguments import (
    add_command,
    add_embed_arguments,
    add_sample_arguments,
    add_trust_argument,
    add_weights_argument,
    embed_options,
    given_path,
    given_text,
    sample_options,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError, check_at_least, check_range

if TYPE_CHECKING:
    from clipkit.evaluation import InterpolationPoint

TASKS: Final = ("retrieval", "zero-shot", "label-head")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "interpolate",
        "measure and write models between a base and a fine-tuned model (WiSE-FT)",
        "Mix the weights of a model before fine-tuning with those after it, "
        "(1 - alpha) * START + alpha * END, and measure every mixture. Writes curve.json and "
        "curve.svg to the output folder, and with --keep a model.",
    )  # fmt: skip
    for name, when in (("--start", "before"), ("--end", "after")):
        parser.add_argument(
            name,
            type=given_text,
            required=True,
            metavar="CKPT-or-NAME",
            help=f"the model {when} fine-tuning",
        )
    add_weights_argument(parser)
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="TASK=DATA",
        help=f"may be repeated; TASK is {', '.join(TASKS)}",
    )
    parser.add_argument("--split", default="test", help="folder inside DATA (default: test)")
    parser.add_argument("--points", type=int, default=11, help="number of alphas (default: 11)")
    parser.add_argument("--keep", type=float, metavar="ALPHA", help="alpha of a model to write")
    add_embed_arguments(parser)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …")
    parser.add_argument(
        "--output", required=True, type=given_path, metavar="DIR", help="output folder"
    )
    add_sample_arguments(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)

    from clipkit.evaluation import interpolation_curve, make_evaluator
    from clipkit.evaluation.report import write_curve
    from clipkit.models import interpolate, load_model, save_encoder

    samples, options = sample_options(args), embed_options(args, progress=False)
    evaluators = {}
    for word in dict.fromkeys(args.measure):
        task, _, data = word.partition("=")
        evaluators[word] = make_evaluator(task, data, args.split, options=options, **samples)
    (start, start_weights), (end, end_weights) = (
        load_model(name, args.device, args.weights) for name in (args.start, args.end)
    )
    for name, weights in ((args.start, start_weights), (args.end, end_weights)):
        print(f"{name}{shown_weights(weights)}", flush=True)
    if evaluators:
        points = interpolation_curve(start, end, evaluators, args.points, _print_point)
        details = {
            **{name: getattr(args, name) for name in ("start", "end", "split")},
            "weights": {"start": start_weights, "end": end_weights},
            "versions": versions(),
        }
        write_curve(points, args.output, details)
        print(f"{args.output}: curve.json, curve.svg")
    if args.keep is not None:
        save_encoder(interpolate(start, end, args.keep), args.output / "model")
        print(f"{args.output / 'model'}: alpha {args.keep:g}, for --model")
    return 0


def _print_point(point: InterpolationPoint) -> None:
    shown = "  ".join(f"{name} {100 * value:.1f} %" for name, value in point.drawn().items())
    print(f"alpha {point.alpha:.2f}  {shown}", flush=True)


def _check(args: argparse.Namespace) -> None:
    check_output_folder("--output", args.output, ["curve.json", "curve.svg"])
    if args.keep is not None:
        check_output_folder("--output", args.output / "model")
    check_at_least("--points", args.points, 2)
    check_range("--keep", args.keep or 0, 0, 1)
    if args.keep is None and not args.measure:
        raise ConfigError("interpolate: nothing to do; add --measure TASK=DATA, --keep ALPHA")
    for word in args.measure:
        task, _, data = word.partition("=")
        if task not in TASKS or not data:
            raise ConfigError(
                f"--measure: expected TASK=DATA with TASK one of {', '.join(TASKS)}, got {word!r}"
            )
