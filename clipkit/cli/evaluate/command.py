"""``clipkit evaluate``: measure a model on a data set, print a table, write JSON."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from clipkit.cli.arguments import (
    add_command,
    add_data_arguments,
    add_model_arguments,
    embed_options,
    given_path,
    sample_options,
    shown_weights,
    versions,
)
from clipkit.cli.evaluate.choice_options import add_choice_arguments, choice_columns
from clipkit.cli.evaluate.probe_options import add_probe_arguments, probe_options
from clipkit.cli.evaluate.retrieval_options import add_retrieval_arguments, retrieval_options
from clipkit.cli.evaluate.robustness_options import add_robustness_arguments, robustness_options
from clipkit.cli.evaluate.suite import (
    add_suite_arguments,
    check_suite_arguments,
    check_suite_output,
    run_suite_command,
)
from clipkit.cli.evaluate.tables import print_metrics
from clipkit.cli.evaluate.zero_shot_options import add_zero_shot_arguments, zero_shot_options
from clipkit.cli.outputs import check_output_file, check_output_folder

if TYPE_CHECKING:
    from clipkit.evaluation import Evaluator
    from clipkit.evaluation.comparison.intervals import Interval
    from clipkit.evaluation.report.evaluated import Measured
    from clipkit.models import DualEncoder

TASKS: Final = (
    "retrieval", "zero-shot", "label-head", "multi-label", "linear-probe", "nearest-neighbours",
    "few-shot", "pair-choice", "zero-shot-multi-label", "corruptions",
    "multi-label-probe", "fairness", "association", "translation",
    "joint-classification", "question-answering", "dialogue",
)  # fmt: skip
_OF_FUSION: Final = frozenset({"joint-classification", "question-answering", "dialogue"})
"""Tasks of the fusion of a joint encoder."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "evaluate", "measure a model: retrieval, classification, linear probe",
        "Measure a model on data in CLIP_benchmark's WebDataset layout, on shards, or on a table "
        "or folder of images.",
    )  # fmt: skip
    add_model_arguments(parser, several=True)
    add_data_arguments(parser, required=False)
    add_suite_arguments(parser)
    parser.add_argument(
        "--task",
        action="append",
        choices=TASKS,
        help="may be repeated; default: the task in dataset_type.txt next to the data",
    )
    add_retrieval_arguments(parser)
    add_zero_shot_arguments(parser)
    add_probe_arguments(parser)
    add_choice_arguments(parser)
    add_robustness_arguments(parser)
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="FILE.json",
        help="file for the metrics; with --suite, a folder",
    )
    parser.add_argument(
        "--report",
        type=given_path,
        metavar="DIR",
        help="folder for report.html and confusion matrices; also measures every class",
    )


def run(args: argparse.Namespace) -> int:
    check_suite_arguments(args)
    if args.suite is not None:
        check_suite_output(args)
    else:
        check_output_file("--output", args.output)
        check_output_folder("--report", args.report, ["report.html"])

    from clipkit.distributed.process_group import process_group

    with process_group(args.device) as device:
        if args.suite is not None:
            return run_suite_command(args, device)
        (args.model,) = args.model
        return _measure(args, device)


def _measure(args: argparse.Namespace, device: str) -> int:
    from clipkit.distributed.agreement import of_first_rank, same_errors
    from clipkit.evaluation import cached_embeddings
    from clipkit.evaluation.comparison import metric_intervals
    from clipkit.evaluation.evaluators.suite import joined
    from clipkit.evaluation.memory import remembering
    from clipkit.evaluation.report.evaluated import measure

    with same_errors():
        evaluators = _evaluators(args)
        encoder, weights = _load(args, evaluators, device)
    with cached_embeddings(encoder, args.embedding_cache):
        if args.report is None:
            with remembering():
                by_task = {task: e.evaluate(encoder) for task, e in evaluators.items()}
        else:
            measured = measure(encoder, evaluators)
            by_task = measured.evaluations
    every = joined(by_task)
    intervals = of_first_rank(lambda: metric_intervals(every.outcomes))
    if args.report is not None:
        of_first_rank(lambda: _write_page(args, measured, intervals, weights))
    if len(by_task) == 1:
        ((task, every),) = by_task.items()
        intervals = {name.removeprefix(f"{task}/"): ends for name, ends in intervals.items()}
    title = f"{args.model}{shown_weights(weights)} on {args.data}"
    print_metrics(title, every.metrics, intervals, every.details)
    if args.output is not None:
        from clipkit.evaluation import write_record

        arguments = _arguments(args, evaluators, encoder, weights)
        of_first_rank(lambda: write_record(args.output, evaluators, every, arguments, intervals))
    return 0


def _load(
    args: argparse.Namespace, evaluators: Mapping[str, Evaluator], device: str
) -> tuple[DualEncoder, str | None]:
    """Load a model, with all of its towers if those of image and text are not enough."""
    from clipkit.models import JointEncoder, load_model, load_towers

    needs_fusion = args.rerank is not None or not _OF_FUSION.isdisjoint(evaluators)
    if args.modality == "image" and "retrieval" not in evaluators and not needs_fusion:
        return load_model(args.model, device, args.weights)
    encoder, weights = load_towers(args.model, device, args.weights)
    uses_fusion = needs_fusion or args.report is not None
    if isinstance(encoder, JointEncoder) and not uses_fusion and not encoder.modalities:
        return encoder.dual(), weights
    # an evaluator refuses an encoder that lacks one of its towers
    return cast("DualEncoder", encoder), weights


def _evaluators(args: argparse.Namespace) -> dict[str, Evaluator]:
    """Return the evaluator of each task."""
    from clipkit.evaluation import RerankedRetrieval, Retrieval, make_evaluator, open_dataset

    samples, modality = sample_options(args), args.modality
    tasks = args.task or [open_dataset(args.data, args.split, modality=modality, **samples).task]
    tasks = list(dict.fromkeys(tasks))
    zero_shot, correct = zero_shot_options(args, tasks), retrieval_options(args, tasks)
    evaluators = {
        task: make_evaluator(
            task,
            args.data,
            args.split,
            probe=probe_options(args),
            choice=choice_columns(args),
            robustness=robustness_options(args),
            correct=correct,
            zero_shot=zero_shot,
            options=embed_options(args),
            modality=modality,
            **samples,
        )
        for task in tasks
    }
    retrieval = evaluators.get("retrieval")
    if args.rerank is not None and isinstance(retrieval, Retrieval):
        evaluators["retrieval"] = RerankedRetrieval(retrieval, args.rerank)
    return evaluators


def _write_page(
    args: argparse.Namespace,
    measured: Measured,
    intervals: Mapping[str, Interval],
    weights: str | None,
) -> None:
    from clipkit.evaluation.report.evaluated import write_evaluations

    title = f"{Path(args.model).name}{shown_weights(weights)} on {Path(args.data).name}"
    write_evaluations(args.report, measured, intervals, title=title, versions=versions())


def _arguments(
    args: argparse.Namespace,
    evaluators: Mapping[str, Evaluator],
    encoder: DualEncoder,
    weights: str | None,
) -> dict[str, Any]:
    """Return what the record tells about the measurement."""
    of_data = next((e.class_names for e in evaluators.values() if e.class_names), ())
    head = encoder.heads.get(args.modality if _OF_FUSION.isdisjoint(evaluators) else "fused")
    of_model = () if head is None else head.class_names
    facts = ("model", "data", "split", "modality", "limit", "precision")
    return {
        **{name: getattr(args, name) for name in facts},
        "weights": weights,
        "group_field": args.group_field,
        "calibration_split": args.calibration_split,
        "class_names": {"data": list(of_data), "model": list(of_model)},
        "versions": versions(),
    }
