"""``clipkit evaluate``: measure a model on a data set, print a table, write JSON."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING, Any

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import (
    add_data_arguments,
    add_model_arguments,
    given_path,
    open_data,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_output_file, check_output_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clipkit.evaluation import Evaluator
    from clipkit.models import DualEncoder

TASKS = ("retrieval", "zero-shot", "label-head", "multi-label", "linear-probe")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model: retrieval, classification, linear probe",
        description="Measure a model on data in CLIP_benchmark's WebDataset layout, on shards, or "
        "on a table or folder of pictures.",
        allow_abbrev=False,
    )
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument(
        "--task",
        action="append",
        choices=TASKS,
        help="may be given several times; default: what dataset_type.txt beside the data says",
    )
    parser.add_argument("--train-split", default="train", help="split a linear probe is fitted on")
    parser.add_argument(
        "--output", type=given_path, metavar="FILE.json", help="where the numbers go"
    )
    parser.add_argument(
        "--report",
        type=given_path,
        metavar="DIR",
        help="also measure every class, and write report.html and confusion pictures there",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        0.

    Raises:
        ClipkitError: If the model, the data or an option cannot be used; nothing is written then.
    """
    check_output_file("--output", args.output)
    check_output_folder("--report", args.report, ["report.html"])

    from clipkit.evaluation import EvaluationSuite
    from clipkit.models import load_model

    tasks = list(dict.fromkeys(args.task or [open_data(args.data, args).task]))
    evaluators = {task: _evaluator(task, args) for task in tasks}
    encoder, weights = load_model(args.model, args.device, args.weights)
    if args.report is not None:
        from clipkit.cli.evaluate.report import measure_and_report

        found = measure_and_report(args, evaluators, encoder, weights)
        metrics = found[tasks[0]] if len(found) == 1 else _prefixed(found)
    elif len(evaluators) == 1:
        metrics = evaluators[tasks[0]].run(encoder)
    else:
        metrics = EvaluationSuite(evaluators).run(encoder)
    _print_table(args, weights, metrics)
    if args.output is not None:
        _write(args, tasks, weights, metrics, _class_names(evaluators.values(), encoder))
    return 0


def _class_names(evaluators: Iterable[Evaluator], encoder: DualEncoder) -> dict[str, list[str]]:
    """Names in the order of the class numbers: of the data, and of the model's label head."""
    of_data = next((e.class_names for e in evaluators if e.class_names), ())
    of_model = () if encoder.label_head is None else encoder.label_head.class_names
    return {"data": list(of_data), "model": list(of_model)}


def _prefixed(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{task}/{k}": value for task, values in found.items() for k, value in values.items()}


def _evaluator(task: str, args: argparse.Namespace) -> Evaluator:
    from clipkit.evaluation import (
        EmbedOptions,
        LabelHeadClassification,
        LinearProbe,
        MultiLabelClassification,
        Retrieval,
        ZeroShotClassification,
    )

    options = EmbedOptions(
        args.batch_size, args.num_workers, args.limit, args.precision, progress=True
    )
    if task == "linear-probe":
        return LinearProbe(
            args.data,
            args.split,
            args.train_split,
            label_field=args.label_field,
            options=options,
            allow_outside=args.allow_outside,
        )
    data = open_data(args.data, args)
    if task == "multi-label":
        field = "json:labels" if args.label_field == "cls" else args.label_field
        return MultiLabelClassification(data, positives=field, options=options)
    kinds = {
        "retrieval": Retrieval,
        "zero-shot": ZeroShotClassification,
        "label-head": LabelHeadClassification,
    }
    evaluator: Evaluator = kinds[task](data, options=options)
    return evaluator


def _print_table(args: argparse.Namespace, weights: str | None, metrics: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    model = f"{args.model}{shown_weights(weights)}"
    console.print(f"{model} on {args.data}", markup=False, soft_wrap=True)
    table = Table()
    table.add_column("Metric")
    table.add_column("Value", justify="right")
    for name, value in metrics.items():
        is_share = 0 <= value <= 1 and not name.endswith("l2")
        table.add_row(name, f"{100 * value:.2f} %" if is_share else f"{value:g}")
    console.print(table)


def _write(
    args: argparse.Namespace,
    tasks: list[str],
    weights: str | None,
    metrics: dict[str, float],
    class_names: dict[str, list[str]],
) -> None:
    record = {
        "model": args.model,
        "weights": weights,
        "data": args.data,
        "split": args.split,
        "limit": args.limit,
        "precision": args.precision,
        "tasks": tasks,
        "metrics": metrics,
        "class_names": class_names,
        "versions": versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    write_json(args.output, record)
