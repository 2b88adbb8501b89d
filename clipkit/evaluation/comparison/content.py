"""Comparison of models as plain data, independent of models, files and pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipkit.errors import ConfigError
from clipkit.metrics.direction import lower_is_better

Verdict = Literal["better", "worse", "noise"]
"""Whether a model is better or worse than the baseline, or the data do not decide it."""
Test = Literal["permutation", "mcnemar"]
"""Name of a paired test."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals and p-values are computed.

    Args:
        confidence: Probability with which an interval shall cover the true value, such as 0.95; a
            change counts as noise if its corrected p-value is at least 1 - ``confidence``.
        replicates: Number of bootstrap samples, and of random permutations of a test.
        seed: Seed of both; the same seed gives the same numbers on every machine.

    Raises:
        ConfigError: If a value is out of range.
    """

    confidence: float = 0.95
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence: expected more than 0, less than 1: {self.confidence}")
        if self.replicates < 100:
            raise ConfigError(f"replicates: expected at least 100, got {self.replicates}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: expected a number from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its interval.

    Args:
        value: Value on all units.
        interval: Lower and upper end; None if the data cannot tell; see ``percentile_interval``.
    """

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A metric, or the recall of a class, of two models on the same units.

    Args:
        name: Key of the metric, or name of the class.
        baseline: Value of the model that is compared with.
        model: Value of the other model.
        difference: ``model`` minus ``baseline``; its interval takes the pairing into account.
        test: Two-sided paired test for no difference: "mcnemar", which is exact, for shares of
            units that are independent of one another, else "permutation" of complete groups.
        p_value: Of the test, before correction.
        corrected_p_value: The same after Holm's correction for all tests of its family.
        is_noise: Whether ``corrected_p_value`` is too large for a conclusion.
        num_units: Number of units that the values are computed from.
    """

    name: str
    baseline: Estimate
    model: Estimate
    difference: Estimate
    test: Test
    p_value: float
    corrected_p_value: float
    is_noise: bool
    num_units: int

    @property
    def is_share(self) -> bool:
        """Whether the values are shares from 0 to 1, which are shown in percent."""
        values = (self.baseline.value, self.model.value)
        return not self.name.endswith("_rank") and all(0 <= value <= 1 for value in values)

    @property
    def verdict(self) -> Verdict:
        """Whether the model is better or worse than the baseline, or the data do not decide."""
        if self.is_noise or self.difference.value == 0:
            return "noise"
        return "worse" if (self.difference.value > 0) == lower_is_better(self.name) else "better"


@dataclass(frozen=True, slots=True)
class PairComparison:
    """Two models on one data set.

    Args:
        data: Name of the data.
        task: Name of the task; empty if it is not recorded.
        baseline: Name of the model that is compared with.
        model: Name of the other model.
        metrics: Change of each metric, the primary one first.
        classes: Change of the recall of each class, or of the metric of each compared group, that
            occurs; the greatest changes first.
        num_units: Number of images or queries.
        num_groups: Number of groups of units that are drawn together.
    """

    data: str
    task: str
    baseline: str
    model: str
    metrics: tuple[Change, ...]
    classes: tuple[Change, ...] = ()
    num_units: int = 0
    num_groups: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs of a comparison, each model with the same baseline.

    Args:
        pairs: One entry per data set and model.
        resampling: How intervals and p-values were computed.
        left_out: What could not be compared, one line each: a task that only one model has.
    """

    pairs: tuple[PairComparison, ...]
    resampling: Resampling = Resampling()
    left_out: tuple[str, ...] = ()
