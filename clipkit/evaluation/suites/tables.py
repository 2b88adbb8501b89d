"""All results of a folder as tables: CLIP_benchmark's CSV, and a manifest with hashes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import new_file, write_text

_FIRST_COLUMNS: Final = (
    "acc1", "acc5", "mean_per_class_recall", "dataset", "model", "pretrained", "task",
    "mean_average_precision", "image_retrieval_recall@5", "text_retrieval_recall@5",
    "model_fullname",
)  # fmt: skip
_MANIFEST_COLUMNS: Final = (
    "file", "model", "pretrained", "dataset", "task", "language", "split", "num_samples",
    "model_hash", "data_hash", "prompts_hash", "seconds", "date", "clipkit", "torch", "error",
)  # fmt: skip


def benchmark_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of CLIP_benchmark's table: metrics and names side by side.

    Examples:
        >>> record = {"metrics": {"acc1": 0.5}, "model": "ViT-B-32", "pretrained": "openai"}
        >>> benchmark_row(record)["model_fullname"]
        'ViT-B-32 openai'
    """
    names = {key: value for key, value in record.items() if key != "metrics"}
    full = f"{record['model']} {record['pretrained']}"
    return {**record["metrics"], **names, "model_fullname": full}


def write_benchmark_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the table that ``clip_benchmark build`` makes of the same records.

    Its columns are in the order of CLIP_benchmark's published table, further ones after them; a
    metric that a record lacks is empty.
    """
    rows = [benchmark_row(record) for record in records]
    used = {key for row in rows for key in row}
    columns = [key for key in _FIRST_COLUMNS if key in used]
    write_text(path, _csv(rows, [*columns, *sorted(used - set(columns))]))


def write_manifest(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one row per result and per failure, as Parquet if pyarrow is installed, else as CSV.

    A manifest of the other kind is removed.

    Args:
        folder: Folder of the file.
        rows: Values by column; a missing one is empty.

    Returns:
        Path of the file.
    """
    metrics = sorted({key for row in rows for key in row} - set(_MANIFEST_COLUMNS))
    columns = [*_MANIFEST_COLUMNS, *metrics]
    as_csv, as_parquet = folder / "manifest.csv", folder / "manifest.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        write_text(as_csv, _csv(rows, columns))
        as_parquet.unlink(missing_ok=True)
        return as_csv
    table = pyarrow.table({column: [row.get(column) for row in rows] for column in columns})
    with new_file(as_parquet) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    as_csv.unlink(missing_ok=True)
    return as_parquet


def manifest_row(
    stem: str, record: Mapping[str, Any], details: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest's row of a result."""
    names = {key: record[key] for key in ("model", "pretrained", "dataset", "task", "language")}
    hashes = {f"{name}_hash": value for name, value in details.get("hashes", {}).items()}
    versions = {name: details.get("versions", {}).get(name) for name in ("clipkit", "torch")}
    facts = {name: details.get(name) for name in ("num_samples", "seconds", "date")}
    split = details.get("request", {}).get("split")
    return {
        "file": f"{stem}.json", **names, "split": split, **facts, **hashes, **versions,
        **record["metrics"],
    }  # fmt: skip


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
