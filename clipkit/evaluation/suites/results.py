"""The folder of a suite's results: which are complete, and how they are written.

::

    FOLDER/STEM.json           in CLIP_benchmark's schema; written last, so it means "complete"
    FOLDER/STEM.outcomes.npz   the outcome of each image or query
    FOLDER/details/STEM.json   what was asked for, all metrics with intervals, hashes, versions
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, final

from clipkit.atomic_files import write_json
from clipkit.errors import ConfigError
from clipkit.evaluation.comparison.records import outcomes_path
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.files import save_outcomes
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.suites.benchmark_schema import (
    RECORD_KEYS,
    ModelName,
    benchmark_record,
    model_name,
    result_stem,
)
from clipkit.evaluation.suites.stamps import data_stamp, file_stamp, model_stamp
from clipkit.evaluation.suites.suite import SuiteEntry

_DETAILS: Final = "details"


@dataclass(frozen=True)
class Measurement:
    """A model on a data set, as it is asked for.

    Args:
        model: Name of the model, as for ``load_model``.
        weights: Weights of a checkpoint that are asked for; None for the average if there is one.
        entry: The data set.
        precision: Precision of the towers.
        stamps: Stamps of the local files of the model and of the data, and of the files that the
            options of the entry name; "" for none.
    """

    model: str
    weights: str | None
    entry: SuiteEntry
    precision: str
    stamps: tuple[str, str, str]

    @property
    def name(self) -> ModelName:
        """Name of the model in results."""
        return model_name(self.model, self.weights)

    @property
    def title(self) -> str:
        """Model and data set in messages."""
        return f"{self.model} on {self.entry.title}"

    def request(self) -> dict[str, Any]:
        """Return all that a result depends on, in plain types."""
        measured = asdict(self.entry)
        for name in ("unavailable", "datacomp"):
            del measured[name]
        if self.entry.modality == IMAGES.name:  # as in results from before there were others
            del measured["modality"]
        stamps = dict(zip(("model", "data", "options"), self.stamps, strict=True))
        if not stamps["options"]:  # as in results from before they had stamps
            del stamps["options"]
        return {
            "model": self.model, "weights": self.weights, "precision": self.precision, **measured,
            "stamps": stamps,
        }  # fmt: skip


def measurements(
    models: Sequence[str],
    weights: str | None,
    entries: tuple[SuiteEntry, ...],
    options: EmbedOptions,
) -> list[Measurement]:
    """Return each model on each data set that can be measured.

    Raises:
        ConfigError: If two of them would have the same file.
    """
    available = [
        replace(entry, limit=entry.limit or options.limit)
        for entry in entries
        if not entry.unavailable
    ]
    of_data = {address: data_stamp(address) for address in {entry.data for entry in available}}
    planned = [
        Measurement(model, weights, entry, options.precision, (of_model, *of_entry))
        for model, of_model in {model: model_stamp(model) for model in models}.items()
        for entry in available
        for of_entry in [(of_data[entry.data], file_stamp(entry.files))]
    ]
    taken: dict[str, Measurement] = {}
    for measurement in planned:
        entry = measurement.entry
        stem = result_stem(measurement.name, entry.name, entry.language, entry.task or "")
        if stem in taken:
            raise ConfigError(
                f"suite: {taken[stem].title} and {measurement.title} would have the same result "
                f"file {stem}.json; rename one of them"
            )
        taken[stem] = measurement
    return planned


@final
class ResultFolder:
    """The folder of a suite's results.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the complete results in CLIP_benchmark's schema, by stem."""
        files = sorted(self.path.glob("*.json"))
        read = {file.stem: _read_json(file) for file in files}
        return {stem: record for stem, record in read.items() if set(record) >= RECORD_KEYS}

    def details(self) -> dict[str, dict[str, Any]]:
        """Return the details of all complete results, by stem."""
        read = {stem: _read_json(self._details_path(stem)) for stem in self.records()}
        return {stem: details for stem, details in read.items() if "request" in details}

    def complete(self, planned: Sequence[Measurement]) -> list[str | None]:
        """Return the stem of the complete result of each measurement; None if there is none.

        A result of a model or of data that changed since, or by other options, is not complete.
        """
        requests = {_key(d["request"]): stem for stem, d in self.details().items()}
        return [requests.get(_key(measurement.request())) for measurement in planned]

    def write(
        self, measurement: Measurement, task: str, evaluation: Evaluation, facts: Mapping[str, Any]
    ) -> str:
        """Write a result; its file in CLIP_benchmark's schema comes last.

        Args:
            measurement: What was measured.
            task: CLIP_benchmark's name of the task.
            evaluation: Metrics and outcomes.
            facts: Further entries of the details, in plain types.

        Returns:
            The stem of the files.
        """
        name, entry = measurement.name, measurement.entry
        stem = result_stem(name, entry.name, entry.language, task)
        path = self.path / f"{stem}.json"
        path.unlink(missing_ok=True)  # an earlier result must not stand next to new outcomes
        if evaluation.outcomes:
            save_outcomes(outcomes_path(path), evaluation.outcomes)
        details = {
            "request": measurement.request(), "task": task, "metrics": evaluation.metrics,
            "details": dict(evaluation.details), **facts,
        }  # fmt: skip
        write_json(self._details_path(stem), details)
        record = benchmark_record(name, entry.name, entry.language, task, evaluation.metrics)
        write_json(path, record)
        return stem

    def _details_path(self, stem: str) -> Path:
        return self.path / _DETAILS / f"{stem}.json"


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file; nothing if it is absent or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(request: Mapping[str, Any]) -> str:
    return json.dumps(request, sort_keys=True)
