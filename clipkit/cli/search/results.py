"""Show results of a search: a table on the terminal, a JSON or CSV file."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_json, write_text
from clipkit.cli.printing import cell
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.search import Searcher

Records = Sequence[dict[str, Any]]
_FILE_WIDTH: Final = 200
_ENDINGS: Final = (".json", ".csv")


def check_result_file(option: str, path: Path | None) -> None:
    """Check that a file's ending says how it is written.

    Raises:
        ConfigError: If it does not.
    """
    if path is not None and path.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"{option}: expected a name that ends in .json or .csv, got {path}")


def with_scores(searcher: Searcher, scores: Mapping[int, float]) -> list[dict[str, Any]]:
    """Return the records of some rows, with their scores, in the same order."""
    records = searcher.records(list(scores))
    return [
        {"row": record.pop("row"), "score": scores[row], **record}
        for row, record in zip(scores, records, strict=True)
    ]


def show(records: Records, args: argparse.Namespace, named: str = "images") -> None:
    """Write results to ``--output``, or print them if there is neither a file nor a page."""
    if args.output is not None:
        write_results(args.output, records)
        print(f"{len(records):,} {named}: {args.output}")
    if args.html is not None:
        print(f"page: {args.html}")
    if args.output is None and args.html is None:
        print_results(records)


def write_results(path: Path, records: Records) -> None:
    """Write results as a list of objects in JSON, or as lines of CSV with captions joined."""
    if path.suffix.lower() == ".json":
        write_json(path, list(records))
        return
    stream = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in record.items()})
    write_text(path, stream.getvalue())


def print_results(records: Records) -> None:
    """Print results as a table."""
    from rich.console import Console
    from rich.table import Table

    from clipkit.search.records import cut_text

    table = Table()
    has_groups = any("group" in record for record in records)
    for title in (*(["Group"] if has_groups else []), "Score", "Row"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("Key", "Class", "Size", "Caption"):
        table.add_column(title, overflow="fold")
    for record in records:
        width, height = record["width_pixels"], record["height_pixels"]
        label = record["class_name"] or ("" if record["label"] is None else str(record["label"]))
        captions = record["captions"] or [""]
        group = [str(record["group"])] if has_groups else []
        cells = (
            *group, f"{record['score']:.4f}", str(record["row"]), cell(record["key"]),
            cell(label), "" if width is None else f"{width} x {height}",
            cell(cut_text(captions[0])),
        )  # fmt: skip
        table.add_row(*cells)
    console = Console()
    (console if console.is_terminal else Console(width=_FILE_WIDTH)).print(table)


def _cell(value: Any) -> str:
    """Return the text of a value; lists have one item per line."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return "" if value is None else str(value)
