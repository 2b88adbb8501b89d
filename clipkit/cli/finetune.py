"""``clipkit finetune``: choose a configuration from the data, write it as YAML, and run it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from clipkit.cli.arguments import (
    MODEL_HELP,
    add_command,
    add_outside_argument,
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError
from clipkit.remote_code import FLAG

if TYPE_CHECKING:
    from clipkit.training.finetune import FinetunePlan


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "finetune",
        "fine-tune a model on a table or folder, with options chosen from its size",
        "Inspect the data, choose the trainable layers, learning rates and epochs, explain the "
        "choice, write OUTPUT/finetune.yaml, and run it: clipkit fit -c OUTPUT/finetune.yaml is "
        "the same run. Edit that file to change an option.",
    )  # fmt: skip
    parser.add_argument(
        "--train",
        type=given_text,
        required=True,
        metavar="DATA",
        help="a CSV, TSV or Parquet table, a folder with one folder per class, shards, or "
        "hf://datasets/OWNER/NAME",
    )
    parser.add_argument(
        "--val",
        type=given_text,
        metavar="DATA",
        help="validation data of the same kinds; the run stops early",
    )
    parser.add_argument(
        "--model",
        type=given_text,
        metavar="CKPT-or-NAME",
        help=f"{MODEL_HELP}; default: ViT-B-32@laion2b_s34b_b79k",
    )
    add_weights_argument(parser)
    _add_task_arguments(parser)
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="a sentence with {} for the class name; may be repeated",
    )
    _add_output_arguments(parser)
    add_outside_argument(parser)
    add_trust_argument(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR", help="folder of the run"
    )
    parser.add_argument("--print", action="store_true", help="write and print the YAML only")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run that the folder contains"
    )


def _add_task_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images with texts")
    group.add_argument(
        "--task",
        choices=("vqa", "entailment", "classification", "dialogue"),
        help="train a fusion of image and text: vqa for a table with image, question and answer or "
        "answers; entailment and classification for one with image, hypothesis or caption, and "
        "label; dialogue for one with image, history, question, candidates and correct",
    )
    group.add_argument(
        "--num-answers",
        type=int,
        metavar="N",
        help="with --task vqa: learn the N most frequent answers (default: 1000)",
    )
    group.add_argument(
        "--per-class",
        type=int,
        metavar="N",
        help="with --task vqa, entailment or classification: train on N questions with each most "
        "frequent answer, or N samples of each class",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="with --task: seed of the run and of the selection of --per-class (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    check_output_folder("--output", args.output, ["finetune.yaml"])

    from clipkit.cli.fit import command as fit

    plan = _plan(args)
    plan.write()
    print(plan.text() if args.print else plan.head, end="", flush=True)
    if args.print:
        return 0
    trust = [FLAG] if args.trust_remote_code else []
    replace = ["--overwrite"] if args.overwrite else []
    status = fit.run(["fit", f"--config={plan.path}", *trust, *replace])
    if status == 0:
        print(_next_command(plan, args.allow_outside))
    return status


def _plan(args: argparse.Namespace) -> FinetunePlan:
    from clipkit.training.finetune import TaskOptions, plan_finetune, plan_task
    from clipkit.training.finetune.run import DEFAULT_MODEL, DEFAULT_TEMPLATES

    model = args.model or DEFAULT_MODEL
    given = {
        name: value
        for name in ("num_answers", "per_class", "seed")
        if (value := getattr(args, name)) is not None
    }
    if args.task is None:
        if given:
            raise ConfigError(f"--{next(iter(given)).replace('_', '-')}: expected --task with it")
        return plan_finetune(
            args.train,
            args.output,
            val=args.val,
            model=model,
            weights=args.weights,
            templates=args.template or DEFAULT_TEMPLATES,
            allow_outside=args.allow_outside,
            overwrite=args.overwrite,
        )
    if args.template is not None:
        raise ConfigError("--template: expected no --task with it, whose data have texts")
    return plan_task(
        args.task,
        args.train,
        args.output,
        val=args.val,
        model=model,
        weights=args.weights,
        options=TaskOptions(**given),
        allow_outside=args.allow_outside,
        overwrite=args.overwrite,
    )


def _next_command(plan: FinetunePlan, allow_outside: bool) -> str:
    """Return the checkpoint, and the command that evaluates it."""
    data = plan.data
    task = "multi-label" if data.multi_label else "label-head" if data.class_counts else "retrieval"
    task = plan.task or task
    measure = f"clipkit evaluate --model {plan.weights} --data {data.val or 'DATA'} --task {task}"
    measure += " --allow-outside" * allow_outside
    return f"{plan.weights}: the fine-tuned model; evaluate it with\n  {measure}"
