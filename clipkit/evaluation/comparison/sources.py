"""Files and folders of records as models that are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.comparison.compare import compare_outcomes, corrected
from clipkit.evaluation.comparison.content import Comparison, PairComparison, Resampling
from clipkit.evaluation.comparison.records import (
    TaskRecord,
    primary_metric,
    read_folder,
    read_record,
)
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.suggestions import did_you_mean

Place = tuple[str, str]
"""Data set and task of a record; without the data set if files are compared."""


@dataclass(frozen=True, slots=True)
class _Model:
    """Records of one model by data set and task."""

    name: str
    source: Path
    records: dict[Place, TaskRecord]


def compare_records(
    paths: Sequence[Path | str],
    *,
    baseline: str | None = None,
    any_prompts: bool = False,
    resampling: Resampling = Resampling(),
) -> Comparison:
    """Compare the models of several records, or of folders of records, with a baseline.

    Each file is a model; records are compared task by task. A folder may contain several models;
    records are compared by the name of the data set, language and task.

    Args:
        paths: JSON files of ``clipkit evaluate``, or folders of suites.
        baseline: Name of the model that the others are compared with; None for the first one.
        any_prompts: Whether models may have been evaluated with different prompts.
        resampling: Confidence, number of samples and permutations, seed.

    Returns:
        One pair for each other model and each data set that both have.

    Raises:
        ConfigError: If there are fewer than two models, or none is called ``baseline``.
        DataError: If a record or its outcomes cannot be read, or two models were not evaluated on
            the same images, classes and prompts.

    Examples:
        >>> keys = tuple(map(str, range(100)))
        >>> for name, num_right in (("a", 50), ("b", 90)):
        ...     right = (torch.arange(100) < num_right).double()
        ...     outcomes = Outcomes("means", keys, keys, {"acc": right})
        ...     save_outcomes(f"{name}.outcomes.npz", [outcomes])
        ...     content = '{"model": "%s", "data": "pairs", "metrics": {}}' % name
        ...     _ = Path(f"{name}.json").write_text(content)
        >>> compare_records(["a.json", "b.json"]).pairs[0].metrics[0].verdict
        'better'
    """
    models = _read_models([Path(path) for path in paths])
    first = models[0] if baseline is None else _named(models, baseline)
    pairs, left_out = list[PairComparison](), list[str]()
    for model in models:
        if model is first:
            continue
        shared = [place for place in first.records if place in model.records]
        if not shared:
            raise DataError(
                f"{model.source}: expected a task of {first.source} ({_listed(first)}), got "
                f"{_listed(model)}; evaluate both models on the same data and tasks"
            )
        for place in shared:
            records = first.records[place], model.records[place]
            pairs.append(_compare(records, (first.name, model.name), any_prompts, resampling))
        for one, other in ((first, model), (model, first)):
            alone = [place for place in one.records if place not in other.records]
            left_out += [f"{_shown(place)}: only {one.name} has it" for place in alone]
    return Comparison(tuple(corrected(pairs, resampling)), resampling, tuple(left_out))


def _compare(
    records: tuple[TaskRecord, TaskRecord],
    names: tuple[str, str],
    any_prompts: bool,
    resampling: Resampling,
) -> PairComparison:
    first, second = records
    if first.prompts != second.prompts and not any_prompts:
        raise DataError(
            f"{second.path}: expected the prompts of {first.path}, got others; scores differ by "
            f"prompts alone: evaluate both models with the same ones, or add --any-prompts"
        )
    baseline, model = (record.outcomes() for record in records)
    if first.data_hash and second.data_hash and first.data_hash != second.data_hash:
        keys = [{key for part in parts for key in part.keys} for parts in (baseline, model)]
        raise DataError(
            f"{second.path}: expected the data of {first.path}, got other files, though "
            f"{len(keys[0] & keys[1]):,} of {len(keys[0]):,} names of images or queries are "
            f"shared; evaluate both models on the same data"
        )
    metrics = [name for part in baseline for name in outcome_metrics(part)]
    return compare_outcomes(
        baseline,
        model,
        names,
        data=first.data,
        task=first.task,
        primary_metric=primary_metric(first, metrics),
        resampling=resampling,
    )


def _read_models(paths: Sequence[Path]) -> list[_Model]:
    by_folder = any(path.is_dir() for path in paths)
    models: list[_Model] = []
    for path in paths:
        for record in read_folder(path) if path.is_dir() else read_record(path):
            place = (record.data if by_folder else "", record.task)
            name = record.model
            model = next((m for m in models if m.source == path and m.name == name), None)
            if model is None:
                model = _Model(name, path, {})
                models.append(model)
            if place in model.records:
                raise DataError(
                    f"{record.path}: {model.name} on {_shown(place)} is also in "
                    f"{model.records[place].path}; remove one of them"
                )
            model.records[place] = record
    if len(models) < 2:
        raise ConfigError(
            f"compare: expected at least two models, got {models[0].name} of {paths[0]} only; name "
            f"another record, or a folder with results of several models"
        )
    count = Counter(model.name for model in models)
    several = {name for name, number in count.items() if number > 1}
    return [
        replace(model, name=f"{model.name} ({model.source})") if model.name in several else model
        for model in models
    ]


def _named(models: Sequence[_Model], name: str) -> _Model:
    names = [model.name for model in models]
    if name not in names:
        raise ConfigError(
            f"--baseline: expected one of {', '.join(names)}; got {name!r}"
            f"{did_you_mean(name, names)}"
        )
    return models[names.index(name)]


def _listed(model: _Model) -> str:
    return ", ".join(_shown(place) for place in model.records)


def _shown(place: Place) -> str:
    return " by ".join(part for part in place if part) or "a task without a name"
