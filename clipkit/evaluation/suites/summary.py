"""The files that summarise all results of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipkit.evaluation.suites.benchmark_schema import ModelName, file_stem
from clipkit.evaluation.suites.datacomp import datacomp_metrics, write_datacomp
from clipkit.evaluation.suites.results import Measurement, ResultFolder
from clipkit.evaluation.suites.suite import DataCompTask
from clipkit.evaluation.suites.tables import manifest_row, write_benchmark_csv, write_manifest


def write_summary(
    results: ResultFolder,
    planned: Sequence[Measurement],
    failures: Sequence[tuple[Measurement, str]],
    versions: Mapping[str, str],
) -> dict[str, str]:
    """Write ``results.csv``, the manifest, and DataComp's files of the models of a suite.

    The first two are of all results in the folder.

    Args:
        results: The folder.
        planned: Measurements of the suite.
        failures: Measurements that failed, and why.
        versions: Versions of packages by name.

    Returns:
        Reason by key of DataComp's tasks that are left out of its files.
    """
    records, details = results.records(), results.details()
    if records:
        write_benchmark_csv(results.path / "results.csv", list(records.values()))
    rows = [manifest_row(stem, record, details.get(stem, {})) for stem, record in records.items()]
    rows += [
        {
            "model": m.name.model, "pretrained": m.name.pretrained, "dataset": m.entry.name,
            "task": m.entry.task, "language": m.entry.language, "split": m.entry.split,
            "error": reason, **{name: versions.get(name) for name in ("clipkit", "torch")},
        }
        for m, reason in failures
    ]  # fmt: skip
    if rows:
        write_manifest(results.path, rows)
    return _write_datacomp(results, planned)


def _write_datacomp(results: ResultFolder, planned: Sequence[Measurement]) -> dict[str, str]:
    records, details = results.records(), results.details()
    by_model: dict[ModelName, list[tuple[DataCompTask, dict[str, float | None]]]] = {}
    for measurement, stem in zip(planned, results.complete(planned), strict=True):
        task = measurement.entry.datacomp
        if task is None or stem is None:
            continue
        values = datacomp_metrics(records[stem]["metrics"], details[stem]["metrics"])
        by_model.setdefault(measurement.name, []).append((task, values))
    left_out = {}
    for name, tasks in by_model.items():
        main = {task.key: task.main_metric for task, _ in tasks}
        for key in write_datacomp(results.path / "datacomp" / file_stem(name.full.rstrip()), tasks):
            left_out[key] = f"not in DataComp's file: {main[key]} is not measured"
    return left_out
