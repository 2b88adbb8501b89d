"""Records of evaluations: JSON files, and the outcomes next to them.

Two kinds are read: those of ``clipkit evaluate``, and those in the schema of CLIP_benchmark, which
suites write. Both have their outcomes in ``NAME.outcomes.npz`` next to ``NAME.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.errors import DataError
from clipkit.evaluation.outcomes.files import load_outcomes
from clipkit.evaluation.outcomes.outcomes import Outcomes

_SUFFIX: Final = ".outcomes.npz"
_PRIMARY: Final = ("top1", "text_to_image/recall_at_1", "mean_average_precision", "acc")
"""Metrics that models are compared by if a record does not name one."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A model on a data set, by one task.

    Args:
        path: JSON file of the record.
        model: Name of the model.
        data: Name of the data, with the language if there is one.
        task: Name of the task.
        prefix: What the names of the task's metrics begin with in the outcomes.
        primary_metric: Key of the metric that models are compared by, without the prefix; empty if
            the record does not name it.
        prompts: What texts the classes were described with, as the record has it; None if the task
            has no prompts.
        data_hash: Hash of the data; empty if the record has none.
    """

    path: Path
    model: str
    data: str
    task: str
    prefix: str = ""
    primary_metric: str = ""
    prompts: Any = None
    data_hash: str = ""

    def outcomes(self) -> tuple[Outcomes, ...]:
        """Read the outcomes of the task, with names that do not begin with the task.

        Raises:
            DataError: If there are none.
        """
        path = outcomes_path(self.path)
        if not path.is_file():
            raise DataError(
                f"{self.path}: expected the outcomes of each image in {path}, found no such file; "
                f"run the evaluation again with this version, and keep both files together"
            )
        parts = [part for part in load_outcomes(path) if part.prefix.startswith(self.prefix)]
        if not parts:
            raise DataError(
                f"{path}: expected outcomes of {self.task}, found none; this task keeps no outcome "
                f"of each image, or the file belongs to another record"
            )
        return tuple(_without_prefix(part, self.prefix) for part in parts)


def outcomes_path(record: Path) -> Path:
    """Return the path of the outcomes of a record.

    Examples:
        >>> outcomes_path(Path("results/flowers.json")).as_posix()
        'results/flowers.outcomes.npz'
    """
    return record.with_name(f"{record.name.removesuffix('.json')}{_SUFFIX}")


def primary_metric(record: TaskRecord, names: list[str]) -> str:
    """Return the metric that models are compared by: the record's, or a usual one of ``names``."""
    usual = (name for name in (record.primary_metric, *_PRIMARY) if name in names)
    return next(usual, names[0] if names else "")


def read_record(path: Path | str) -> list[TaskRecord]:
    """Read the tasks of a record.

    Args:
        path: JSON file that ``clipkit evaluate`` or a suite has written.

    Raises:
        DataError: If it is not such a file.

    Examples:
        >>> _ = Path("pets.json").write_text(
        ...     '{"model": "ViT-B-32", "data": "data/pets", "tasks": ["zero-shot"], "metrics": {}}')
        >>> (record,) = read_record("pets.json")
        >>> record.model, record.data, record.task
        ('ViT-B-32', 'data/pets', 'zero-shot')
    """
    path = Path(path)
    record = _read_json(path)
    if record is None or not _is_record(record):
        raise DataError(
            f"{path}: expected a record of 'clipkit evaluate --output' or of a suite: JSON with "
            f"model, metrics, and data or dataset"
        )
    return list(_tasks(path, record))


def read_folder(folder: Path) -> list[TaskRecord]:
    """Read all records of a folder; other files are skipped.

    Raises:
        DataError: If there are none.
    """
    records = list[TaskRecord]()
    for path in sorted(folder.glob("*.json")):
        record = _read_json(path)
        if record is not None and _is_record(record):
            records += _tasks(path, record)
    if not records:
        raise DataError(
            f"{folder}: expected JSON records of evaluations, found none; name a folder of "
            f"'clipkit evaluate --suite' or a file of 'clipkit evaluate --output'"
        )
    return records


def _read_json(path: Path) -> Any:
    """Return the content of a file; None if it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError:  # also for bytes that are not UTF-8
        return None
    except RecursionError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("model"), str)
        and isinstance(record.get("metrics"), dict)
        and (isinstance(record.get("data"), str) or isinstance(record.get("dataset"), str))
    )


def _tasks(path: Path, record: Mapping[str, Any]) -> Iterator[TaskRecord]:
    if "dataset" in record:
        model = " ".join(str(record[name]) for name in ("model", "pretrained") if record.get(name))
        data = str(record["dataset"])
        if record.get("language") not in (None, "", "en"):
            data = f"{data} ({record['language']})"
        hashes = _hashes(path)
        yield TaskRecord(
            path, model, data, str(record.get("task", "")),
            prompts=hashes.get("prompts"), data_hash=str(hashes.get("data") or ""),
        )  # fmt: skip
        return
    tasks = record.get("tasks")
    names = [str(task) for task in tasks] if isinstance(tasks, list) and tasks else [""]
    weights = record.get("weights")
    model = f"{record['model']} ({weights} weights)" if weights else record["model"]
    primary_metrics, templates, data_hashes = (
        _mapping(record.get(name)) for name in ("primary_metrics", "templates", "data_hashes")
    )
    for task in names:
        prefix = f"{task}/" if len(names) > 1 else ""
        primary = str(primary_metrics.get(task, "")).removeprefix(prefix)
        yield TaskRecord(
            path, model, record["data"], task, prefix, primary, templates.get(task),
            str(data_hashes.get(task, "")),
        )  # fmt: skip


def _hashes(path: Path) -> Mapping[str, Any]:
    """Return the hashes of a suite's result, which are in the folder ``details`` next to it."""
    try:
        details = _read_json(path.parent / "details" / path.name)
    except DataError:
        return {}
    return _mapping(_mapping(details).get("hashes"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _without_prefix(part: Outcomes, prefix: str) -> Outcomes:
    return Outcomes(
        part.kind, part.keys, part.groups, part.columns,
        part.prefix.removeprefix(prefix), part.class_names,
    )  # fmt: skip
