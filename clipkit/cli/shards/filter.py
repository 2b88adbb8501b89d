"""``clipkit shards filter``: write which samples a run trains on."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import given_path, given_text
from clipkit.cli.outputs import check_output_file
from clipkit.cli.printing import cell, say
from clipkit.cli.progress import progress_bar
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.curation.filters import Filter

_MASK_SUFFIX: Final = ".npz"
_PAGE_NAME: Final = "filter.html"


class _Option(NamedTuple):
    """An option that adds a filter."""

    name: str
    nargs: int | str
    metavar: str | tuple[str, ...]
    help: str


OPTIONS: Final = (
    _Option("min-score", 1, "COSINE", "least image-text score: cosine of image and caption"),
    _Option("best-scores", 1, "SHARE", "keep this share of the samples with the best scores"),
    _Option("min-side", 1, "PIXELS", "least length of the shorter side"),
    _Option("min-pixels", 1, "PIXELS", "least product of width and height"),
    _Option("max-aspect", 1, "RATIO", "largest ratio of the longer to the shorter side"),
    _Option("caption-words", 2, ("LEAST", "MOST"), "mean number of words of the captions"),
    _Option(
        "caption-characters", 2, ("LEAST", "MOST"), "mean number of characters of the captions"
    ),
    _Option("scripts", "+", "SCRIPT", "scripts of captions, such as Latin, Cyrillic or Han"),
    _Option(
        "languages", "+", "CODE",
        "languages of captions, such as en; needs the extra languages",
    ),
    _Option("file-duplicates", 0, "", "keep one of equal image files"),
    _Option(
        "image-duplicates", "?", "BITS",
        "keep one of images that look alike: whose perceptual hashes differ in at most 24 of 128 "
        "bits",
    ),
    _Option(
        "embedding-duplicates", "?", "COSINE",
        "keep one of images whose embeddings have a cosine similarity of at least 0.95",
    ),
    _Option(
        "not-in", 1, "COLLECTION",
        "remove images that look like one of another collection, such as evaluation data (24 bits)",
    ),
    _Option(
        "not-near", 1, "COLLECTION",
        "remove images whose embeddings are similar to one of another collection (0.95)",
    ),
    _Option("max-per-class", 1, "NUMBER", "keep at most this number per class"),
    _Option(
        "balance-metadata", 2, ("FILE", "LIMIT"),
        "keep about LIMIT samples per entry of FILE that occurs in captions, as MetaCLIP does",
    ),
    _Option(
        "predicate", 1, "MODULE:FUNCTION",
        "keep samples for which your Python function returns True; it is imported, also from the "
        "current folder, and runs with all your rights",
    ),
)  # fmt: skip


def add_filter(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "filter",
        help="write a mask of the samples that a run trains on",
        description="Filters are applied in the order in which they are written, each to the "
        "samples that those before it kept. Samples that could not be embedded are removed first. "
        "The shards stay as they are: give the mask to a run as data.samples.mask.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "collection", type=given_path, metavar="COLLECTION", help="folder of `clipkit embed`"
    )
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="MASK.npz", help="file of the mask"
    )
    parser.add_argument(
        "--shards",
        type=given_text,
        nargs="+",
        metavar="URL",
        help="where the shards are now; default: where they were when they were embedded",
    )
    parser.add_argument(
        "--summary", type=given_path, metavar="FILE.json", help="file for the numbers"
    )
    parser.add_argument(
        "--page",
        type=given_path,
        metavar="DIR-or-FILE.html",
        help="page that shows what was removed, with images",
    )
    _add_filters(parser)
    parser.set_defaults(run=run, chain=[])


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that append a filter to the chain."""
    group = parser.add_argument_group("filters")
    group.add_argument(
        "--filters",
        dest="chain",
        action=_AddFilter,
        nargs=1,
        metavar="FILE.yaml",
        help="a list of filters with all their options, such as '- not_in: {collection: DIR, "
        "max_distance: 16}'",
    )
    for option in OPTIONS:
        group.add_argument(
            f"--{option.name}",
            dest="chain",
            action=_AddFilter,
            nargs=option.nargs,
            metavar=option.metavar or None,
            help=option.help,
        )


class _AddFilter(argparse.Action):
    """Appends a filter to those before it on the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 (the interface of argparse)
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = [] if values is None else [values] if isinstance(values, str) else list(values)
        name = (option_string or "").removeprefix("--").replace("-", "_")
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), (name, given)])


def run(args: argparse.Namespace) -> int:
    """Write the mask."""
    if args.output.suffix != _MASK_SUFFIX:
        raise ConfigError(f"--output: expected a file ending in .npz, got {args.output}")
    page = _page_file(args.page)
    for option, path in (("--output", args.output), ("--summary", args.summary), ("--page", page)):
        check_output_file(option, path)

    from clipkit.collection import Collection, CollectionImages
    from clipkit.curation.collection_index import collection_index
    from clipkit.curation.filter_page import Evidence, write_filter_page
    from clipkit.curation.filters import apply_filters
    from clipkit.curation.summary import mask_of, summary_of

    filters = _filters(args.chain)
    collection = Collection(args.collection)
    index, is_checked = collection_index(collection, args.shards)
    if not is_checked:
        _log(
            f"shards: such as {index.shards[0].url} are not on this machine; the mask is for the "
            "shards as they were embedded, and a run compares them"
        )
    evidence = Evidence()
    with progress_bar("filtering") as advance:
        on_decision = None if page is None else evidence.collect
        filtered = apply_filters(collection, filters, advance, on_decision)
    mask = mask_of(index, filtered)
    summary = summary_of(collection, filtered, mask)
    mask.save(args.output)
    if args.summary is not None:
        write_json(args.summary, summary)
    _print(summary)
    print(f"{mask.num_kept:,} of {mask.num_samples:,} samples kept: {args.output}")
    if page is not None:
        images = CollectionImages(collection, [shard.address for shard in index.shards])
        with progress_bar("images of the page") as advance:
            write_filter_page(page, collection, images, evidence, summary, advance)
        _log(f"page: {page}")
    return 0


def _page_file(path: Path | None) -> Path | None:
    """Return the file of the page, which has a fixed name in a folder."""
    is_file = path is None or path.suffix == ".html"
    return path if is_file or path is None else path / _PAGE_NAME


def _filters(chain: Sequence[tuple[str, list[str]]]) -> list[Filter]:
    """Return the filters of a command line, in their order."""
    from clipkit.curation.filters.named import make_filter, read_filters

    if not chain:
        raise ConfigError(
            "filters: expected at least one, such as --min-score 0.25 or --filters FILE.yaml, got "
            "none"
        )
    filters: list[Filter] = []
    for name, given in chain:
        if name == "filters":
            filters += read_filters(Path(given[0]))
        else:
            filters.append(make_filter(name, given))
    return filters


def _print(summary: Mapping[str, Any]) -> None:
    """Print what each filter removed."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("Filter", overflow="fold")
    for name in ("Removed", "%", "Kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in summary["filters"]:
        numbers = (
            f"{each['num_removed']:,}",
            f"{100 * each['share_removed']:.1f}",
            f"{each['num_kept']:,}",
        )
        table.add_row(cell(each["description"]), *numbers)
    Console().print(table)
    for each in summary["filters"]:
        for note in each["notes"]:
            say(f"{each['description']}: {note}")


def _log(text: str) -> None:
    say(text, to_errors=True)
