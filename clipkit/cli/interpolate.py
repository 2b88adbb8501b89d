"""``clipkit interpolate``: WiSE-FT, the models between one and its fine-tuned successor."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_json, write_text
from clipkit.cli.arguments import (
    add_sample_arguments,
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
    open_data,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clipkit.evaluation import Evaluator
    from clipkit.evaluation.report import Chart

TASKS: Final = ("retrieval", "zero-shot", "label-head")
_DRAWN: Final = {
    "retrieval": ("text_to_image/recall_at_1", "image_to_text/recall_at_1"),
    "zero-shot": ("top1",),
    "label-head": ("top1",),
}
"""What the picture shows of each task."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "interpolate",
        help="measure and write models between one and its fine-tuned successor (WiSE-FT)",
        description="Mix the weights of a model before fine-tuning with those after it, "
        "(1 - alpha) * START + alpha * END, and measure every mixture. Leaves curve.json and "
        "curve.svg in the output folder, and with --keep a model.",
        allow_abbrev=False,
    )
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
        help=f"may be given several times; TASK is {', '.join(TASKS)}",
    )
    parser.add_argument("--split", default="test", help="folder inside DATA (default: test)")
    parser.add_argument("--points", type=int, default=11, help="alphas from 0 to 1 (default: 11)")
    parser.add_argument("--keep", type=float, metavar="ALPHA", help="write this mixture's weights")
    parser.add_argument("--batch-size", type=int, default=64, help="samples in one pass")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode pictures")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …")
    parser.add_argument(
        "--output", required=True, type=given_path, metavar="DIR", help="for the files"
    )
    add_sample_arguments(parser)
    add_trust_argument(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure the curve, draw it, and keep a mixture.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        ClipkitError: If the models do not fit together, or the data or an option cannot be used.
    """
    _check(args)

    from clipkit.evaluation import EvaluationSuite
    from clipkit.models import interpolate, load_model, save_encoder

    evaluators = {word: _evaluator(word, args) for word in dict.fromkeys(args.measure)}
    (start, of_start), (end, of_end) = (
        load_model(name, args.device, args.weights) for name in (args.start, args.end)
    )
    for name, weights in ((args.start, of_start), (args.end, of_end)):
        print(f"{name}{shown_weights(weights)}", flush=True)
    alphas = [number / (args.points - 1) for number in range(args.points)]
    curve = []
    for alpha in alphas if evaluators else []:
        mixed = interpolate(start, end, alpha)
        metrics = EvaluationSuite(evaluators).run(mixed)
        curve.append({"alpha": alpha, "metrics": metrics})
        shown = "  ".join(f"{k} {100 * metrics[k]:.1f} %" for k in _drawn_keys(evaluators))
        print(f"alpha {alpha:.2f}  {shown}", flush=True)
    if curve:
        _write(args, {"start": of_start, "end": of_end}, curve, _drawn_keys(evaluators))
    if args.keep is not None:
        save_encoder(interpolate(start, end, args.keep), args.output / "model")
        print(f"{args.output / 'model'}: alpha {args.keep:g}; --model takes it")
    return 0


def _check(args: argparse.Namespace) -> None:
    check_output_folder("--output", args.output, ["curve.json", "curve.svg"])
    if args.keep is not None:
        check_output_folder("--output", args.output / "model")
    if args.points < 2:
        raise ConfigError(f"--points: expected at least 2, got {args.points}")
    if args.keep is not None and not 0 <= args.keep <= 1:
        raise ConfigError(f"--keep: expected 0 to 1, got {args.keep}")
    if args.keep is None and not args.measure:
        raise ConfigError("interpolate: nothing to do; give --measure TASK=DATA, --keep ALPHA")
    for word in args.measure:
        task, _, data = word.partition("=")
        if task not in TASKS or not data:
            raise ConfigError(
                f"--measure: expected TASK=DATA with TASK one of {', '.join(TASKS)}, got {word!r}"
            )


def _evaluator(word: str, args: argparse.Namespace) -> Evaluator:
    from clipkit.evaluation import (
        EmbedOptions,
        LabelHeadClassification,
        Retrieval,
        ZeroShotClassification,
    )

    kinds = {
        "retrieval": Retrieval,
        "zero-shot": ZeroShotClassification,
        "label-head": LabelHeadClassification,
    }
    task, _, name = word.partition("=")
    evaluator: Evaluator = kinds[task](
        open_data(name, args), options=EmbedOptions(args.batch_size, args.num_workers)
    )
    return evaluator


def _drawn_keys(words: Mapping[str, Any]) -> list[str]:
    return [f"{word}/{key}" for word in words for key in _DRAWN[word.partition("=")[0]]]


def _chart(curve: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Chart:
    from clipkit.evaluation.report import Chart, Series

    series = [
        Series(key, [(point["alpha"], point["metrics"][key]) for point in curve]) for key in keys
    ]
    return Chart("Between start (0) and end (1)", series, is_share=True, note="%")


def _write(
    args: argparse.Namespace,
    weights: Mapping[str, str | None],
    curve: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
) -> None:
    from clipkit.evaluation.report import chart_svg

    record = {
        "start": args.start,
        "end": args.end,
        "weights": weights,
        "split": args.split,
        "curve": curve,
        "versions": versions(),
    }
    write_json(args.output / "curve.json", record)
    write_text(args.output / "curve.svg", chart_svg(_chart(curve, keys), "alpha"))
    print(f"{args.output}: curve.json, curve.svg")
