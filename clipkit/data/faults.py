"""What could not be used: named, counted, written to a file, and held to a budget."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Final, final

from clipkit.errors import FaultBudgetExceeded

_LOG = logging.getLogger(__name__)
WHOLE_SHARD: Final = -1
_LOUD_FAULTS: Final = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample, or a whole shard, that cannot be used.

    Args:
        shard: URL of the shard.
        index: Position of the sample in its shard; -1 for the whole shard.
        key: Key of the sample.
        reason: What is wrong.
    """

    shard: str
    index: int
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class FaultBudget:
    """How much may be bad before a run ends.

    Args:
        max_bad_fraction: Bad samples, as a fraction of the data set (rounded up to whole samples).
        max_bad_shards: Whole shards.
    """

    max_bad_fraction: float = 0.05
    max_bad_shards: int = 0

    def max_bad_samples(self, num_samples: int) -> int:
        """The allowed number of bad samples of a data set."""
        return math.ceil(self.max_bad_fraction * num_samples)


@final
class FaultLedger:
    """All faults of a run so far.

    Args:
        budget: The limits.
        num_samples: Samples in the data set.
        path: A file that gets one JSON object a line for each new fault; None for none.
    """

    def __init__(self, budget: FaultBudget, num_samples: int, path: Path | None = None) -> None:
        self._budget = budget
        self._num_samples = num_samples
        self._path = path
        self._samples: dict[tuple[str, int], Fault] = {}
        self._shards: dict[str, Fault] = {}

    @property
    def num_bad_samples(self) -> int:
        """Distinct bad samples, without those of bad shards."""
        return len(self._samples)

    @property
    def num_bad_shards(self) -> int:
        """Distinct bad shards."""
        return len(self._shards)

    @property
    def bad_shards(self) -> dict[str, str]:
        """``url -> reason`` of every bad shard."""
        return {url: fault.reason for url, fault in self._shards.items()}

    def record(self, faults: Iterable[Fault], epoch: int) -> None:
        """Take note of what a batch met.

        Args:
            faults: What it met; what is known already is not counted again.
            epoch: For the file.

        Raises:
            FaultBudgetExceeded: If there is more than the budget allows.
        """
        for fault in faults:
            if self._add(fault):
                self._write(fault, epoch)
                self._check(fault)

    def merge(self, faults: Iterable[Fault]) -> None:
        """Take over what other ranks or an earlier run found, without writing it again."""
        for fault in faults:
            self._add(fault)

    def to_state(self) -> dict[str, Any]:
        """Plain types, in an order that does not depend on who found what first."""
        return {
            "bad_samples": sorted(list(astuple(fault)) for fault in self._samples.values()),
            "bad_shards": sorted([fault.shard, fault.reason] for fault in self._shards.values()),
        }

    @staticmethod
    def faults_of_state(state: Mapping[str, Any]) -> list[Fault]:
        """What ``to_state`` wrote."""
        samples = [Fault(str(s), int(i), str(k), str(r)) for s, i, k, r in state["bad_samples"]]
        return samples + [Fault(str(s), WHOLE_SHARD, "", str(r)) for s, r in state["bad_shards"]]

    def _add(self, fault: Fault) -> bool:
        if fault.index == WHOLE_SHARD:
            new = fault.shard not in self._shards
            self._shards.setdefault(fault.shard, fault)
        else:
            name = (fault.shard, fault.index)
            new = name not in self._samples
            self._samples.setdefault(name, fault)
        return new

    def _write(self, fault: Fault, epoch: int) -> None:
        loud = len(self._samples) <= _LOUD_FAULTS or fault.index == WHOLE_SHARD
        what = f"{fault.shard}: {fault.key}" if fault.key else fault.shard
        _LOG.log(logging.WARNING if loud else logging.DEBUG, "left out %s: %s", what, fault.reason)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**asdict(fault), "epoch": epoch}) + "\n"
        # One write of one line at the file's end: lines of several processes do not mix.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _check(self, last: Fault) -> None:
        allowed = self._budget.max_bad_samples(self._num_samples)
        where = f"; they are listed in {self._path}" if self._path else ""
        named = f"{last.shard}: {last.key}: {last.reason}" if last.key else last.reason
        if len(self._shards) > self._budget.max_bad_shards:
            raise FaultBudgetExceeded(
                f"{len(self._shards)} bad shards, allowed max_bad_shards="
                f"{self._budget.max_bad_shards}; the last one: {named}{where}"
            )
        if len(self._samples) > allowed:
            raise FaultBudgetExceeded(
                f"{len(self._samples)} bad samples of {self._num_samples}, allowed {allowed} "
                f"(max_bad_fraction={self._budget.max_bad_fraction}); the last one: {named}{where}"
            )
