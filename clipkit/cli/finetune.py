"""``clipkit finetune``: look at the data, choose a starting point, write the YAML, run it."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_text
from clipkit.cli.arguments import (
    add_outside_argument,
    add_trust_argument,
    add_weights_argument,
    given_path,
    given_text,
    shown_weights,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError, DataError, SampleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clipkit.training.finetune.facts import Start, TuningData

_SHOWN_CLASSES: Final = 20
_TEMPLATES: Final = ("a photo of a {}", "a picture of a {}", "{}")


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a model on a table or folder, with a starting point chosen by its size",
        description="Look at the data, choose what learns, how fast and for how long, say why, "
        "write OUTPUT/finetune.yaml, and run it: clipkit fit -c OUTPUT/finetune.yaml is the same "
        "run. Change the file, not this command, to go on from there.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--train",
        type=given_text,
        required=True,
        metavar="DATA",
        help="a CSV, TSV or Parquet table, a folder of one folder a class, or shards",
    )
    parser.add_argument(
        "--val", type=given_text, metavar="DATA", help="the same, to validate on and stop early"
    )
    parser.add_argument(
        "--model",
        type=given_text,
        default="ViT-B-32@laion2b_s34b_b79k",
        metavar="CKPT-or-NAME",
        help="a checkpoint of clipkit, or NAME@WEIGHTS of open_clip (default: %(default)s)",
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="a sentence with {} for the class name; may be given several times",
    )
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR", help="the run's folder"
    )
    parser.add_argument("--print", action="store_true", help="write the YAML, print it, and stop")
    add_outside_argument(parser)
    add_trust_argument(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the run that the folder holds"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the configuration and run it.

    Args:
        args: What ``add_parser`` declares.

    Returns:
        The exit status of the run.

    Raises:
        ClipkitError: If the data or the model cannot be used.
    """
    check_output_folder("--output", args.output, ["finetune.yaml"])

    import yaml

    from clipkit.cli.fit import command as fit
    from clipkit.training.callbacks.run_folder import refusal, traces_of_a_run
    from clipkit.training.finetune.presets import tuning_config

    path: Path = args.output / "finetune.yaml"
    if not args.overwrite and (traces := traces_of_a_run(str(args.output))):
        resume = f"clipkit fit -c {path} --ckpt_path last"
        raise ConfigError(refusal("--output", str(args.output), traces, resume, "--output"))
    data = look_at(args.train, args.val, args.allow_outside)
    templates = args.template or list(_TEMPLATES)
    start, weights = _start(args.model, args.weights)
    config, reasons = tuning_config(data, start, str(args.output), templates)
    if args.allow_outside:
        config["data"]["allow_outside"] = True
    num_classes = len(data.class_counts) or "no"
    facts = [f"{data.num_samples:,} samples, {num_classes} classes"]
    facts += [f"classes: {_numbered(data.class_names)}"] if any(data.class_names) else []
    facts += [f"starts from {args.model}{shown_weights(weights)}"] if weights else []
    lines = [*facts, *reasons]
    head = "".join(f"# {line}\n" for line in [f"clipkit fit -c {path}", *lines])
    text = head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(path, text)
    print(text if args.print else head, end="", flush=True)
    if args.print:
        return 0
    trust = [fit.TRUST_OPTION] if args.trust_remote_code else []
    replace = ["--overwrite"] if args.overwrite else []
    status = fit.run(["fit", f"--config={path}", *trust, *replace])
    if status == 0:
        print(_what_next(args, data))
    return status


def look_at(train: str, val: str | None, allow_outside: bool = False) -> TuningData:
    """Count samples and classes, and find out whether there are captions.

    Args:
        train: Training data.
        val: Validation data.
        allow_outside: Whether images may be outside of the folder of their table.

    Returns:
        What a preset needs to know.

    Raises:
        DataError: If the data cannot be read, or only some samples have a class name for a caption.
    """
    from clipkit.data.packing.class_numbers import MOST_CLASSES
    from clipkit.data.packing.packed_cache import class_names_in
    from clipkit.data.packing.sources import open_source
    from clipkit.data.shards.members import read_label
    from clipkit.training.finetune.facts import TuningData
    from clipkit.types import IGNORE_LABEL

    for option, given in (("--train", train), ("--val", val)):
        if given is not None and not Path(given).exists():
            raise DataError(f"{option}: {given}: no such file or folder")
    source = open_source(Path(train), allow_outside=allow_outside)
    names = class_names_in(source.files)
    counts: Counter[int] = Counter()
    num_captions = num_own_captions = num_lists = 0
    for item in source.items:
        texts = item.texts()
        label, several = read_label(texts, "cls"), _classes(texts)
        classes = several or ([] if label == IGNORE_LABEL else [label])
        counts.update(classes)
        num_lists += several is not None
        caption = texts.get("txt", b"").decode("utf-8", "replace").strip()
        num_captions += bool(caption)
        is_name = caption == ", ".join(names[n] for n in classes if n < len(names))
        num_own_captions += bool(caption) and not is_name
    if counts and max(counts) >= MOST_CLASSES:
        raise DataError(
            f"{train}: class number {max(counts)}: expected less than {MOST_CLASSES}, because a "
            f"label head has a score for every number; number the classes from 0, or name them"
        )
    multi_label = num_lists > 0
    if num_captions < len(source.items) and not (multi_label and not num_own_captions):
        raise DataError(
            f"{train}: {len(source.items) - num_captions} of {len(source.items)} samples have "
            f"neither a caption nor the name of a class; give the table a column caption or "
            f"class_name"
        )
    return TuningData(
        train=train,
        val=val,
        num_samples=len(source.items),
        class_counts=[counts[n] for n in range(max(len(names), max(counts, default=-1) + 1))],
        class_names=names,
        has_captions=num_own_captions > 0,
        multi_label=multi_label,
    )


def _numbered(names: Sequence[str]) -> str:
    """The first classes, each with its number."""
    known = [f"{number} {name}" for number, name in enumerate(names) if name]
    more = [f"... ({len(known)} names)"] if len(known) > _SHOWN_CLASSES else []
    return ", ".join([*known[:_SHOWN_CLASSES], *more])


def _classes(texts: Mapping[str, bytes]) -> list[int] | None:
    """A sample's list of classes; None where its JSON has none, or other things of that name."""
    from clipkit.data.shards.members import read_classes

    try:
        return read_classes(texts)
    except SampleError:
        return None


def _what_next(args: argparse.Namespace, data: TuningData) -> str:
    """The weights to take, and the command that measures them."""
    weights = args.output / ("last.ckpt" if data.val is None else "best.ckpt")
    task = "multi-label" if data.multi_label else "label-head" if data.class_counts else "retrieval"
    measure = f"clipkit evaluate --model {weights} --data {data.val or 'DATA'} --task {task}"
    measure += " --allow-outside" * args.allow_outside
    return f"{weights}: the fine-tuned model; measure it, and the start too, with\n  {measure}"


def _start(model: str, weights: str | None) -> tuple[Start, str | None]:
    """What a configuration has to know of the model to start from, and which weights it has."""
    from clipkit.cli.arguments import load_model
    from clipkit.training.finetune.facts import Start

    encoder, weights = load_model(model, "cpu", weights)
    towers = {"image_tower": encoder.image_tower, "text_tower": encoder.text_tower}
    start = Start(
        encoder=_named(model, weights),
        embedding_dim=encoder.embedding_dim,
        image_size=encoder.image_tower.image_size,
        interpolation=encoder.image_tower.interpolation,
        num_groups={name: len(tower.layer_groups()) for name, tower in towers.items()},
    )
    return start, weights


def _named(model: str, weights: str | None) -> dict[str, Any]:
    """The model, as a configuration names it."""
    from clipkit.models.checkpoints.encoder import PREFIXES

    if Path(model).exists() and not model.endswith(".json"):
        init_args = {"path": model} | ({"prefix": PREFIXES[weights]} if weights else {})
        return {"class_path": "clipkit.models.from_checkpoint", "init_args": init_args}
    name, _, pretrained = model.partition("@")
    options = {"name": name, "pretrained": pretrained or None}
    return {"class_path": "clipkit.models.from_open_clip", "init_args": options}
