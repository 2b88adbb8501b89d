"""``clipkit evaluate build``: an evaluation set out of one's own pairs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from clipkit.cli.arguments import (
    MODEL_HELP,
    add_command,
    add_outside_argument,
    add_trust_argument,
    add_weights_argument,
    caption_picker,
    given_path,
    given_text,
)
from clipkit.cli.outputs import check_new_folder
from clipkit.cli.printing import say
from clipkit.cli.progress import progress_bar

if TYPE_CHECKING:
    from clipkit.evaluation.building import (
        DuplicateOptions,
        SampleFields,
        SourceOptions,
        SplitOptions,
        WriteOptions,
    )

NAME: Final = "evaluate build"
"""Two words that ``clipkit.cli.main`` joins: the first is a command itself."""


class _Options(TypedDict):
    reading: SourceOptions
    fields: SampleFields
    split: SplitOptions
    duplicates: DuplicateOptions
    writing: WriteOptions


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, NAME, "build an evaluation set out of one's own pairs",
        "Split images with captions or classes into training and test data without leakage, find "
        "hard negatives, and write CLIP_benchmark's layout with a data card. SOURCE is a table, a "
        "folder of images, shards, hf://datasets/OWNER/NAME or a URL.",
    )  # fmt: skip
    parser.add_argument("source", type=given_text, metavar="SOURCE")
    parser.add_argument("out", type=given_path, metavar="OUT", help="folder for the evaluation set")
    _add_source(parser)
    _add_split(parser)
    _add_duplicates(parser)
    _add_model(parser)
    _add_output(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("source")
    group.add_argument("--source-split", metavar="NAME", help="folder inside SOURCE, such as train")
    group.add_argument("--image-columns", nargs="+", metavar="NAME", help="columns with images")
    group.add_argument("--caption-columns", nargs="+", metavar="NAME", help="columns with captions")
    group.add_argument(
        "--caption",
        type=given_text,
        metavar="MEMBER-or-PICKER",
        help="where captions are, as for clipkit evaluate; default: the lines of txt",
    )
    group.add_argument("--label-field", default="cls", metavar="MEMBER", help="cls or json:FIELD")
    group.add_argument(
        "--language-field", metavar="MEMBER", help="language of the captions, json:FIELD"
    )
    group.add_argument("--license-field", metavar="MEMBER", help="licence of the image, json:FIELD")
    add_outside_argument(parser)
    group.add_argument(
        "--max-bad-samples", type=int, default=0, help="broken samples that may be left out"
    )


def _add_split(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("split")
    group.add_argument(
        "--test-size",
        type=_size,
        default=0.2,
        metavar="SHARE-or-NUMBER",
        help="share of test samples with a point (0.2; 1.0: test data only), or their number "
        "(default: 0.2)",
    )
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--stratify",
        default="auto",
        metavar="FIELD",
        help="what has equal shares in both splits: class, language, json:FIELD or none; default: "
        "the class if there are classes, else the language if --language-field names it",
    )
    group.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="FIELD",
        help="samples with one value of this field, such as json:patient, stay in one split; may "
        "be repeated",
    )


def _add_duplicates(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("duplicates, which stay in one split")
    group.add_argument(
        "--image-distance",
        type=_or_none(int),
        default=24,
        metavar="BITS",
        help="bits of a perceptual hash, of 128, in which copies of an image may differ; none: do "
        "not compare images (default: 24)",
    )
    group.add_argument(
        "--caption-similarity",
        type=_or_none(float),
        default=0.9,
        metavar="SHARE",
        help="share of common words of near-duplicate captions; none: do not compare captions "
        "(default: 0.9)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=given_text, metavar="CKPT-or-NAME", help=MODEL_HELP)
    add_weights_argument(parser)
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; auto: a GPU if any")
    add_trust_argument(parser)
    group.add_argument(
        "--embedding-similarity",
        type=_or_none(float),
        default=0.95,
        metavar="COSINE",
        help="cosine similarity of the embeddings of near-duplicate images; none: do not compare "
        "embeddings (default: 0.95, with --model)",
    )
    group.add_argument("--batch-size", type=int, default=64, help="images per batch of the model")
    group.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--title", help="title of the data card; default: the name of OUT")
    group.add_argument("--license", help="licence of the data, such as cc-by-4.0")
    group.add_argument(
        "--negatives",
        type=int,
        default=5,
        metavar="N",
        help="hard negative captions, and images, of each test sample (default: 5)",
    )
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="reduce larger images")
    group.add_argument("--samples-per-shard", type=int, default=10_000, help="default: 10000")
    group.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    group.add_argument(
        "--num-workers",
        type=int,
        default=os.cpu_count() or 1,
        help="threads that read and write (default: one per CPU core)",
    )


def run(args: argparse.Namespace) -> int:
    if not args.overwrite:
        check_new_folder("OUT", args.out)

    from clipkit.evaluation import EmbedOptions
    from clipkit.evaluation.building import build_evaluation_set
    from clipkit.models import load_model

    encoder = load_model(args.model, args.device, args.weights)[0] if args.model else None
    with stage_bars() as advance:
        built = build_evaluation_set(
            args.source,
            args.out,
            **_options(args),
            encoder=encoder,
            embed=EmbedOptions(args.batch_size, precision=args.precision),
            on_progress=advance,
        )
    _report(built.facts["splits"], args.out)
    return 0


def _options(args: argparse.Namespace) -> _Options:
    """Return how the set is built, by the names of arguments of ``build_evaluation_set``."""
    from clipkit.data import TableColumns
    from clipkit.evaluation.building import (
        DuplicateOptions,
        SampleFields,
        SourceOptions,
        SplitOptions,
        WriteOptions,
    )

    reading = SourceOptions(
        args.source_split,
        TableColumns(args.image_columns, args.caption_columns),
        args.allow_outside,
        args.max_bad_samples,
        args.num_workers,
    )
    fields = SampleFields(
        caption_picker(args.caption), args.label_field, args.language_field, args.license_field
    )
    duplicates = DuplicateOptions(
        args.image_distance, args.caption_similarity, args.embedding_similarity
    )
    writing = WriteOptions(
        args.title, args.license, args.negatives, args.image_size, args.samples_per_shard,
        args.overwrite,
    )  # fmt: skip
    split = SplitOptions(args.test_size, args.seed, args.stratify, tuple(args.group))
    return {
        "reading": reading, "fields": fields, "split": split, "duplicates": duplicates,
        "writing": writing,
    }  # fmt: skip


def _report(splits: Mapping[str, Any], folder: Path) -> None:
    for name, split in splits.items():
        _log(f"{name}: {split['num_samples']} images, {split['num_captions']} captions")
    _log(f"data card: {folder / 'data_card.html'}")


@contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int | None], None]]:
    """Provide a function that shows a progress bar for each stage."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int, int | None], None]] = {}

        def advance(stage: str, done: int, total: int | None) -> None:
            if stage not in bars:
                stack.close()
                bars[stage] = stack.enter_context(progress_bar(stage))
            bars[stage](done, total)

        yield advance


def _size(text: str) -> float:
    """Parse a share (with a point) or a number of samples."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a share such as 0.2 or a number such as 500, got {text!r}"
        ) from None


def _or_none(kind: Callable[[str], float]) -> Callable[[str], float | None]:
    """Return a parser of a number or the word none."""

    def parse(text: str) -> float | None:
        if text == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number or none, got {text!r}") from None

    return parse


def _log(text: str) -> None:
    say(text, to_errors=True)
