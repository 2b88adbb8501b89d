"""Filter and sort runs, and find the best one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.addresses import has_scheme
from clipkit.errors import ConfigError
from clipkit.metrics.direction import lower_is_better
from clipkit.runs.record import RunRecord
from clipkit.suggestions import did_you_mean

_FILTER: Final = re.compile(r"\s*([^<>=!\s]+)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_FIELDS: Final = (
    "state", "name", "host", "step", "config_hash", "data_fingerprint", "mask_fingerprint",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunFilter:
    """A condition on a run.

    Args:
        name: Name of a field of the record ("state"), a metric, or an option ("data.batch_size").
        relation: "=", "!=", "<", "<=", ">" or ">=".
        value: Value to compare with; numbers as numbers, all else as text.
    """

    name: str
    relation: str
    value: Any

    def admits(self, run: RunRecord) -> bool:
        """Return whether a run fulfils the condition; one without the value does not."""
        known, actual = value_of(run, self.name)
        if not known:
            return False
        if self.relation in ("=", "!="):
            return _same(actual, self.value) == (self.relation == "=")
        if not (_is_number(actual) and _is_number(self.value)):
            return False
        below, equal = actual < self.value, actual == self.value
        if self.relation.startswith("<"):
            return below or (equal and "=" in self.relation)
        return not below and (not equal or "=" in self.relation)


def parse_filter(text: str) -> RunFilter:
    """Parse a condition such as ``data.batch_size=64`` or ``val/loss<2.5``.

    Raises:
        ConfigError: If there is no relation.

    Examples:
        >>> parse_filter("val/loss<2.5")
        RunFilter(name='val/loss', relation='<', value=2.5)
    """
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--where: expected NAME=VALUE, or <, <=, >, >=, != in place of =, such as "
            f"state=running or data.batch_size>=256; got {text!r}"
        )
    name, relation, value = match.groups()
    return RunFilter(name, relation, _parsed(value))


def select_runs(
    runs: Sequence[RunRecord],
    filters: Sequence[RunFilter] = (),
    sort: str | None = None,
) -> list[RunRecord]:
    """Return the runs that fulfil all conditions, in an order.

    Args:
        runs: Records of runs.
        filters: Conditions.
        sort: Metric, option or field; metrics best first, all else in ascending order, runs without
            the value last. None for the newest first.

    Raises:
        ConfigError: If no run has a value under a name of ``filters`` or ``sort``.

    Examples:
        >>> runs = [
        ...     RunRecord(Path(name), "finished", metrics={"top1": value})
        ...     for name, value in (("a", 0.3), ("b", 0.5))]
        >>> [run.name for run in select_runs(runs, [parse_filter("top1>0.2")], sort="top1")]
        ['b', 'a']
    """
    names = [(f"--where {one.name}", one.name) for one in filters]
    names += [] if sort is None else [(f"--sort {sort}", sort)]
    for option, name in names if runs else []:
        if not any(value_of(run, name)[0] for run in runs):
            known = [*_FIELDS, *{n: 0 for run in runs for n in (*run.metrics, *run.config)}]
            raise ConfigError(
                f"{option}: no run has a metric, option or field of that name"
                f"{did_you_mean(name, known)}"
            )
    selected = [run for run in runs if all(one.admits(run) for one in filters)]
    if sort is None:
        return sorted(selected, key=lambda run: (-run.started, -run.updated, str(run.folder)))
    descends = any(sort in run.metrics for run in runs) and not lower_is_better(sort)
    return sorted(selected, key=lambda run: _sort_key(run, sort, descends))


def best_run(
    runs: Sequence[RunRecord], metric: str, smallest: bool | None = None
) -> tuple[RunRecord, float, str]:
    """Return the run with the best value of a metric, the value, and the path of its checkpoint.

    If a run monitors the metric, its best checkpoint counts; else its last one, with the last value
    that was logged. Runs without such a checkpoint are left out.

    Args:
        runs: Records of runs.
        metric: Name of the metric.
        smallest: Whether the smallest value is best; None to decide by the name: losses, ranks,
            errors and gaps.

    Raises:
        ConfigError: If no run has the metric and a checkpoint.

    Examples:
        >>> Path("a").mkdir()
        >>> Path("a/last.ckpt").touch()
        >>> run = RunRecord(Path("a"), "finished", metrics={"top1": 0.5}, checkpoint="last.ckpt")
        >>> best_run([run], "top1")[1:]
        (0.5, 'a/last.ckpt')
    """
    sign = 1 if (lower_is_better(metric) if smallest is None else smallest) else -1
    candidates = list[tuple[float, str, RunRecord, str]]()
    for run in runs:
        value, checkpoint = run.metrics.get(metric), run.checkpoint
        if run.best is not None and run.best.metric == metric:
            value, checkpoint = run.best.value, run.best.checkpoint
        place = run.place_of(checkpoint)
        if value is not None and checkpoint and (has_scheme(place) or Path(place).exists()):
            candidates.append((sign * value, str(run.folder), run, place))
    if not candidates:
        known = sorted({name for run in runs for name in run.metrics})
        raise ConfigError(
            f"--metric: expected a metric of a run with a checkpoint, got {metric!r}"
            f"{did_you_mean(metric, known)}; logged: {', '.join(known) or 'nothing'}"
        )
    least, _, best, checkpoint = min(candidates, key=lambda entry: entry[:2])
    return best, sign * least, checkpoint


def value_of(run: RunRecord, name: str) -> tuple[bool, Any]:
    """Return whether a run has a value under a name, and the value."""
    if name in run.metrics:
        return True, run.metrics[name]
    if name in run.config:
        return True, run.config[name]
    return (True, getattr(run, name)) if name in _FIELDS else (False, None)


def _sort_key(run: RunRecord, name: str, descends: bool) -> tuple[int, float, str, str]:
    known, value = value_of(run, name)
    if not known or value is None:
        return 2, 0.0, "", str(run.folder)
    if _is_number(value):
        return 0, -value if descends else value, "", str(run.folder)
    return 1, 0.0, str(value), str(run.folder)


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = float(text)  # 1e-3 and .5 in YAML, which JSON lacks
        except ValueError:
            return text
    return value if not isinstance(value, float) or math.isfinite(value) else text


def _same(actual: Any, value: Any) -> bool:
    if _is_number(actual) and _is_number(value):
        return bool(actual == value)
    if actual is None or isinstance(actual, bool):
        return str(json.dumps(actual)) == str(json.dumps(value)).strip('"').lower()
    return str(actual) == str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
