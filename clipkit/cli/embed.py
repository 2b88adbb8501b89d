"""``clipkit embed``: write the embeddings of a data set, shard by shard."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from clipkit.cli.arguments import (
    add_command,
    add_embed_arguments,
    add_engine_arguments,
    add_model_arguments,
    add_sample_arguments,
    caption_picker,
    check_engine,
    given_path,
    given_text,
    shown_weights,
    versions,
)
from clipkit.cli.outputs import check_output_folder
from clipkit.cli.printing import say
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.collection import CollectionInfo
    from clipkit.collection.embedding import EmbedPlan, EmbedReport, Part

_BROKEN_SHARDS: Final = 1
_LONGEST_DAYS: Final = 365
"""A rank waits this long for the others at the end; one that is lost is noticed at once."""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "embed", "write the embeddings of a data set",
        "Write float16 embeddings of images and captions, of sounds if the model has a tower for "
        "them, and a table with one row per sample, for each shard of SOURCE. The same command "
        "continues after a stop: complete shards are kept. torchrun shares the shards among ranks, "
        "--part among the tasks of a SLURM array, --engine ray among the machines of a cluster.",
    )  # fmt: skip
    parser.add_argument(
        "source",
        nargs="?",
        type=given_text,
        metavar="SOURCE",
        help="a folder, URL or pattern of shards, a table or folder of images, or "
        "hf://datasets/OWNER/NAME/CONFIG/SPLIT",
    )
    parser.add_argument("--data", type=given_text, help=argparse.SUPPRESS)  # as in version 0.1
    add_model_arguments(parser)
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="DIR",
        help="a new folder, or that of the same command before",
    )  # fmt: skip
    parser.add_argument("--split", default="test", help="folder inside SOURCE (default: test)")
    add_sample_arguments(parser)
    parser.add_argument(
        "--columns", nargs="+", default=[], type=given_text, metavar="FIELD",
        help="fields of the samples that become columns of the tables: members (txt) or fields of "
        "a JSON member (json:author)",
    )  # fmt: skip
    parser.add_argument(
        "--images-only", action="store_true", help="do not embed captions; tables contain them"
    )
    add_embed_arguments(parser, by_cores=True)
    parser.add_argument(
        "--part", metavar="I/N", help="embed every N-th shard, from the I-th on: 1/8 to 8/8"
    )
    add_engine_arguments(parser)
    _add_faults(parser)


def _add_faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-bad-fraction", type=float, default=0.05, metavar="SHARE",
        help="largest share of a shard's samples that may have no embedding, such as images that "
        "cannot be decoded (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--max-bad-shards", type=int, default=0, metavar="NUMBER",
        help="number of shards that may be left out, because they cannot be read or have more bad "
        "samples, before a process stops (default: 0)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    source = _source(args)
    check_engine(args)
    check_output_folder("--output", args.output.absolute())

    from datetime import timedelta

    from clipkit.collection.arrow import arrow
    from clipkit.collection.embedding import Part
    from clipkit.distributed.process_group import process_group

    arrow()
    plan, part = _plan(args, source), Part.parse(args.part or "1/1")
    if args.engine == "ray":
        return _embed_on_ray(plan, args)
    with process_group(args.device, timedelta(days=_LONGEST_DAYS)) as device:
        return _embed(plan, part, device)


def _source(args: argparse.Namespace) -> str:
    if (args.source is None) == (args.data is None):
        found = "none" if args.source is None else f"{args.source} and --data {args.data}"
        raise ConfigError(
            f"SOURCE: expected one source of the data, got {found}; write it first: "
            f"clipkit embed SOURCE --model M --output DIR"
        )
    return str(args.source or args.data)


def _plan(args: argparse.Namespace, source: str) -> EmbedPlan:
    from clipkit.collection.embedding import EmbedPlan
    from clipkit.data import FaultOptions

    return EmbedPlan(
        model=args.model,
        data=source,
        output=args.output.absolute(),
        weights=args.weights,
        split=args.split,
        caption=caption_picker(args.caption),
        label_field=args.label_field,
        allow_outside=args.allow_outside,
        images_only=args.images_only,
        columns=tuple(args.columns),
        limit=args.limit,
        precision=args.precision,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        faults=FaultOptions(args.max_bad_fraction, args.max_bad_shards),
    )


def _embed(plan: EmbedPlan, part: Part, device: str) -> int:
    from clipkit.cli.progress import progress_bar
    from clipkit.collection.embedding import embed_collection, start_collection
    from clipkit.distributed.agreement import of_first_rank, same_errors
    from clipkit.distributed.collectives import rank

    with same_errors():
        data = plan.open_data()
        encoder, weights = plan.load_encoder(device, data)
    info = of_first_rank(lambda: start_collection(plan, encoder, weights, data, versions()))
    with ExitStack() as stack:
        on_progress = None
        if rank() == 0:
            on_progress = stack.enter_context(progress_bar(f"Embedding {data.name}"))
        report = embed_collection(plan, info, encoder, data, part, on_progress)
    _print(report, info, plan, weights)
    return _BROKEN_SHARDS if report.failures else 0


def _embed_on_ray(plan: EmbedPlan, args: argparse.Namespace) -> int:
    from clipkit.cli.progress import progress_bar
    from clipkit.collection.embedding import start_collection
    from clipkit.collection.ray_engine import embed_on_ray
    from clipkit.distributed.world import current_world

    if (size := current_world().size) > 1:
        raise ConfigError(f"--engine ray: expected one process, got {size} ranks of a launcher")
    data = plan.open_data()
    encoder, weights = plan.load_encoder("cpu", data)  # the actors have the GPUs
    info = start_collection(plan, encoder, weights, data, versions())
    del encoder
    with progress_bar(f"Embedding {data.name}") as advance:
        report = embed_on_ray(plan, info, args.device, args.address, advance)
    _print(report, info, plan, weights)
    return _BROKEN_SHARDS if report.failures else 0


def _print(report: EmbedReport, info: CollectionInfo, plan: EmbedPlan, weights: str | None) -> None:
    num_failed, num_sounds = len(report.failures), report.total("num_sounds")
    sounds = f", {num_sounds} sounds" if num_sounds else ""
    print(
        f"{report.total('num_images')} images{sounds} and {report.total('num_texts')} texts of "
        f"{len(report.shards) - num_failed} shards embedded, {report.num_kept} shards were "
        f"complete{shown_weights(weights)}: {plan.output}"
    )
    if num_bad := report.total("num_bad"):
        columns = " and ".join(["'error'", *(f"'{name}_error'" for name in info.modalities)])
        named = f"the columns {columns}" if info.modalities else f"the column {columns}"
        print(f"{num_bad} samples have no embedding, or not all; {named} of the tables says why")
    if num_others := report.num_missing - num_failed:
        print(f"{num_others} shards of other parts are missing")
    for shard in report.failures:
        say(f"not embedded: {shard.failure}", to_errors=True)
