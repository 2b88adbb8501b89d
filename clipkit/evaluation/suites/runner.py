"""Measure several models on the data sets of a suite, and continue where a run was ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from clipkit.data.text.languages import named_picker
from clipkit.distributed.agreement import of_first_rank, same_errors
from clipkit.distributed.collectives import rank
from clipkit.distributed.process_group import finishing, is_lost_connection, rank_lost
from clipkit.errors import ClipkitError, ConfigError, RankLostError, first_line
from clipkit.evaluation.comparison import metric_intervals
from clipkit.evaluation.datasets.associations import AssociationData, open_associations
from clipkit.evaluation.datasets.choice_sources import open_choices
from clipkit.evaluation.datasets.choices import ChoiceData
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.opening import open_dataset
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.embedding_cache import cached_embeddings
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.hashes import data_hash, model_hash, text_hash
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.suites.benchmark_schema import benchmark_task
from clipkit.evaluation.suites.results import Measurement, ResultFolder, measurements
from clipkit.evaluation.suites.suite import Suite
from clipkit.evaluation.suites.summary import write_summary
from clipkit.evaluation.tasks import make_evaluator
from clipkit.models import DualEncoder, load_model, load_towers

_LOG: Final = logging.getLogger(__name__)

Report = Callable[[str, Mapping[str, float] | str, int], None]
"""Function that is called with the title of each result, its metrics or the reason of its failure,
and the number of results that are still to come."""


@dataclass(frozen=True)
class SuiteOptions:
    """Options of a run of a suite.

    Args:
        embed: Options of embedding. The limit is that of data sets without one of their own.
        device: A torch device, or "auto" for a GPU if there is one.
        weights: Weights of checkpoints: "average" or "raw"; None for the average if there is one.
        cache: Folder for embeddings, see ``cached_embeddings``; None for none.
        allow_outside: Whether the images of a table or folder may be outside of its folder.
        versions: Versions of packages by name, for the results.
    """

    embed: EmbedOptions = EmbedOptions()
    device: str = "auto"
    weights: str | None = None
    cache: Path | str | None = None
    allow_outside: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SuiteFailure:
    """A measurement that failed.

    Args:
        title: Model and data set.
        reason: Why it failed.

    Examples:
        >>> str(SuiteFailure("ViT-B-32 on pets", "pets: no such folder"))
        'ViT-B-32 on pets: pets: no such folder'
    """

    title: str
    reason: str

    def __str__(self) -> str:
        return f"{self.title}: {self.reason}"


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """Result of a run of a suite.

    Args:
        num_complete: Number of complete results of the suite in the folder.
        num_measured: How many of them were measured by this run.
        failures: Measurements that failed.
        left_out: Reason by data set or DataComp's key, for those that were not measured, or have no
            main metric.

    Examples:
        >>> SuiteRun(8, 3, (), {}).num_complete
        8
    """

    num_complete: int
    num_measured: int
    failures: tuple[SuiteFailure, ...]
    left_out: Mapping[str, str]


def run_suite(
    suite: Suite,
    models: Sequence[str],
    folder: Path | str,
    options: SuiteOptions = SuiteOptions(),
    report: Report | None = None,
) -> SuiteRun:
    """Measure models on the data sets of a suite, and write every result as soon as it is complete.

    Results that are complete already are kept, unless the options, or local files of the model or
    the data, changed since. A model or data set that fails is noted, and the others are measured.
    With several ranks, every rank calls this function; the images are shared, the first one writes.

    Args:
        suite: The data sets.
        models: Names of models, as for ``load_model``.
        folder: Folder of the results; it may contain those of other models and suites.
        options: How embeddings are computed, device, weights, cache.
        report: Called after each result, with its title, its metrics or the reason of its failure,
            and the number of results to come; None for no call.

    Raises:
        ConfigError: If two results would have the same file, or there is nothing to measure.
        RankLostError: If another rank ended; results that are complete are kept.

    Examples:
        >>> save_encoder(encoder, "export")
        >>> suite = Suite("mine", (SuiteEntry("squares", "data/val"),))
        >>> run_suite(suite, ["export"], "results").num_complete
        1
        >>> run_suite(suite, ["export"], "results").num_measured
        0
    """
    results = ResultFolder(folder)
    with same_errors():
        planned = measurements(models, options.weights, suite.entries, options.embed)
        if not planned:
            raise ConfigError(
                f"suite {suite.name!r}: expected at least one model and one data set that can be "
                f"measured, got {len(models)} models and none of {len(suite.entries)} data sets"
            )
    stems = of_first_rank(lambda: results.complete(planned))
    todo = [m for m, stem in zip(planned, stems, strict=True) if stem is None]
    run = _Run(results, options, report, len(todo))
    try:
        run.measure(todo)
    except RankLostError as error:
        done = len(planned) - run.num_left - len(run.failures)
        raise RankLostError(
            f"{error}; {done} of {len(planned)} results are complete in {results.path}, start the "
            f"command again to continue"
        ) from error
    finally:
        left_out = {}
        if rank() == 0:
            with finishing():
                left_out = write_summary(results, planned, run.failures, options.versions)
    unavailable = {e.title: e.unavailable for e in suite.entries if e.unavailable}
    failures = tuple(SuiteFailure(m.title, reason) for m, reason in run.failures)
    num_failed = len(failures)
    return SuiteRun(
        len(planned) - num_failed, len(todo) - num_failed, failures, {**unavailable, **left_out}
    )


class _Run:
    """A run in progress."""

    def __init__(
        self, results: ResultFolder, options: SuiteOptions, report: Report | None, num_left: int
    ) -> None:
        self.results, self.options = results, options
        self.failures: list[tuple[Measurement, str]] = []
        self.num_left = num_left
        self._report = report

    def measure(self, todo: Sequence[Measurement]) -> None:
        """Measure one model after the other."""
        for model in dict.fromkeys(measurement.model for measurement in todo):
            own = [m for m in todo if m.model == model]
            for load, is_image in ((load_model, True), (load_towers, False)):
                if part := [m for m in own if (m.entry.modality == IMAGES.name) == is_image]:
                    self.measure_model(model, part, load)

    def measure_model(
        self, name: str, todo: Sequence[Measurement], load: Callable[..., Any]
    ) -> None:
        """Measure one model; its weights are in memory only within this call."""
        options = self.options
        try:
            with same_errors():
                encoder, weights = load(name, options.device, options.weights)
                digest = model_hash(encoder)
        except Exception as error:
            reason = _reason(error)
            for measurement in todo:
                self._note(measurement, f"the model cannot be loaded: {reason}")
            return
        facts = {"weights": weights, "versions": dict(options.versions)}
        with cached_embeddings(encoder, options.cache):
            for measurement in todo:
                try:
                    metrics = self._measure(encoder, digest, measurement, facts)
                except Exception as error:
                    self._note(measurement, _reason(error))
                else:
                    self._note(measurement, metrics)

    def _measure(
        self,
        encoder: DualEncoder,
        digest: str | None,
        measurement: Measurement,
        facts: Mapping[str, Any],
    ) -> Mapping[str, float]:
        start = time.monotonic()
        with same_errors():
            data, task, evaluator = self._open(measurement)
        with same_errors():
            evaluation = evaluator.evaluate(encoder)
        limit = measurement.entry.limit
        prompts = [*evaluator.class_names], [*evaluator.templates]

        def write() -> str:
            intervals = metric_intervals(evaluation.outcomes)
            return self.results.write(
                measurement,
                benchmark_task(task),
                evaluation,
                {
                    **facts,
                    "intervals": {name: list(ends) for name, ends in intervals.items()},
                    "hashes": {
                        "model": digest,
                        "data": data_hash(data),
                        "prompts": text_hash(*prompts) if evaluator.templates else None,
                    },
                    "num_samples": len(data) if limit is None else min(limit, len(data)),
                    "seconds": round(time.monotonic() - start, 3),
                    "date": datetime.now().astimezone().isoformat(timespec="seconds"),
                },
            )

        of_first_rank(write)
        return evaluation.metrics

    def _open(
        self, measurement: Measurement
    ) -> tuple[EvaluationDataset | ChoiceData | AssociationData, str, Evaluator]:
        entry, allow_outside = measurement.entry, self.options.allow_outside
        caption = named_picker(entry.caption)
        if caption is None:
            raise ConfigError(f"caption: expected a member or json:FIELD, got {entry.caption!r}")
        data: EvaluationDataset | ChoiceData | AssociationData
        if (task := entry.task) == "pair-choice":
            data = open_choices(entry.data, entry.split, entry.choice, allow_outside)
        elif task == "association":
            data = open_associations(entry.data, allow_outside)
        else:
            data = open_dataset(
                entry.data, entry.split,
                caption=caption, label_field=entry.label_field, allow_outside=allow_outside,
                modality=entry.modality,
            )  # fmt: skip
            task = task or data.task
        evaluator = make_evaluator(
            task,
            entry.data,
            entry.split,
            probe=entry.probe,
            correct=entry.correct,
            choice=entry.choice,
            zero_shot=entry.zero_shot,
            robustness=entry.robustness,
            caption=caption,
            label_field=entry.label_field,
            allow_outside=allow_outside,
            modality=entry.modality,
            options=replace(self.options.embed, limit=entry.limit),
        )
        return data, task, evaluator

    def _note(self, measurement: Measurement, result: Mapping[str, float] | str) -> None:
        self.num_left -= 1
        if isinstance(result, str):
            self.failures.append((measurement, result))
        if self._report is not None and rank() == 0:
            self._report(measurement.title, result, self.num_left)


def _reason(error: Exception) -> str:
    """Return the reason of a failure; raise the error if no rank can continue."""
    if isinstance(error, RankLostError):
        raise error
    if is_lost_connection(error):
        raise rank_lost(error) from error
    if isinstance(error, ClipkitError | OSError):
        return str(error)
    _LOG.warning("unexpected error", exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"
