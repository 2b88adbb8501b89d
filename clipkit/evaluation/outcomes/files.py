"""Outcomes as a file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from clipkit.atomic_files import new_file
from clipkit.errors import DataError
from clipkit.evaluation.outcomes.outcomes import Outcomes

_FORMAT: Final = "clipkit-outcomes-1"


def save_outcomes(path: Path | str, parts: Sequence[Outcomes]) -> None:
    """Write outcomes to an ``.npz`` file, which appears only when it is complete.

    Args:
        path: The file.
        parts: Outcomes of each part of a measurement.

    Examples:
        >>> outcomes = Outcomes("means", ("a", "b"), ("a", "b"), {"acc": torch.tensor([1.0, 0.0])})
        >>> save_outcomes("pairs.npz", [outcomes])
    """
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    headers = []
    for number, part in enumerate(parts):
        headers.append(
            {
                "kind": part.kind, "prefix": part.prefix, "class_names": list(part.class_names),
                "columns": list(part.columns),
            }
        )  # fmt: skip
        arrays[f"{number}.keys"] = np.array(part.keys, dtype=np.str_)
        arrays[f"{number}.groups"] = np.array(part.groups, dtype=np.str_)
        for column, values in enumerate(part.columns.values()):
            arrays[f"{number}.{column}"] = values.cpu().numpy()
    header = json.dumps({"format": _FORMAT, "parts": headers}, ensure_ascii=False)
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, header=np.array(header), **arrays)  # type: ignore[arg-type]


def load_outcomes(path: Path | str) -> tuple[Outcomes, ...]:
    """Read outcomes that ``save_outcomes`` has written; nothing is unpickled.

    Raises:
        DataError: If the file does not exist or is not such a file.

    Examples:
        >>> outcomes = Outcomes("means", ("a", "b"), ("a", "b"), {"acc": torch.tensor([1.0, 0.0])})
        >>> save_outcomes("pairs.npz", [outcomes])
        >>> load_outcomes("pairs.npz")[0].keys
        ('a', 'b')
    """
    problem = "expected outcomes of an evaluation, as --output writes them next to the JSON"
    try:
        # NumPy would take any other file for a pickle, and recommend to load it so.
        if Path(path).is_file() and not zipfile.is_zipfile(path):
            raise DataError(f"{path}: {problem}; got another kind of file, or a part of one")
        with np.load(path, allow_pickle=False) as file:
            content = json.loads(str(file["header"]))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            return tuple(_part(file, n, header) for n, header in enumerate(content["parts"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: {problem}; got {error}") from error


def _part(file: np.lib.npyio.NpzFile, number: int, header: dict[str, list[str]]) -> Outcomes:
    columns = {
        name: torch.from_numpy(file[f"{number}.{column}"])
        for column, name in enumerate(header["columns"])
    }
    keys, groups = (tuple(file[f"{number}.{name}"].tolist()) for name in ("keys", "groups"))
    return Outcomes(
        str(header["kind"]), keys, groups, columns, str(header["prefix"]),
        tuple(header["class_names"]),
    )  # fmt: skip
