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
    """All faults and fillings of a run so far, as far as this rank knows.

    What this rank finds alone is kept apart until it has been shared, so that ``to_state`` is the
    same on every rank.

    Args:
        budget: The limits.
        num_samples: Samples in the data set.
        alone: Whether there is only one rank, so that nothing needs sharing.
        path: A file that gets one JSON object a line for each new fault; None for none.
    """

    def __init__(
        self, budget: FaultBudget, num_samples: int, alone: bool = True, path: Path | None = None
    ) -> None:
        self._budget = budget
        self._num_samples = num_samples
        self._alone = alone
        self._path = path
        self._known: dict[tuple[str, int], Fault] = {}
        self._shared: dict[tuple[str, int], Fault] = {}
        self._shared_padded = 0
        self._own_padded = 0

    @property
    def num_bad_samples(self) -> int:
        """Distinct bad samples, without those of bad shards."""
        return sum(fault.index != WHOLE_SHARD for fault in self._known.values())

    @property
    def num_padded(self) -> int:
        """Samples given again in the place of others."""
        return self._shared_padded + self._own_padded

    @property
    def bad_shards(self) -> dict[str, str]:
        """``url -> reason`` of every bad shard."""
        faults = self._known.values()
        return {fault.shard: fault.reason for fault in faults if fault.index == WHOLE_SHARD}

    def record(self, faults: Iterable[Fault], epoch: int) -> None:
        """Take note of what a batch met; what is known already is not counted again.

        Args:
            faults: What it met.
            epoch: For the file.

        Raises:
            FaultBudgetExceeded: If there is more than the budget allows.
        """
        for fault in faults:
            name = (fault.shard, fault.index)
            if name not in self._known:
                self._known[name] = fault
                if self._alone:
                    self._shared[name] = fault
                self._report(fault, epoch)
                self._check(fault)

    def add_padded(self, count: int) -> None:
        """Count samples given again in the place of others."""
        if self._alone:
            self._shared_padded += count
        else:
            self._own_padded += count

    def unshared(self) -> tuple[list[Fault], int]:
        """What only this rank knows: faults, and number of padded samples."""
        found = [fault for name, fault in self._known.items() if name not in self._shared]
        return found, self._own_padded

    def share(self, reports: Iterable[tuple[list[Fault], int]]) -> None:
        """Take over what all ranks (this one too) knew alone, in the same order on each.

        Raises:
            FaultBudgetExceeded: If all ranks together found more than the budget allows.
        """
        self._own_padded = 0
        for faults, padded in reports:
            self._shared_padded += padded
            for fault in faults:
                self._shared.setdefault((fault.shard, fault.index), fault)
        self._known = dict(self._shared)
        for fault in self._known.values():
            self._check(fault)

    def to_state(self) -> dict[str, Any]:
        """Plain types, in an order that does not depend on who found what first."""
        faults = sorted(astuple(fault) for fault in self._shared.values())
        return {
            "bad_samples": [list(fault) for fault in faults if fault[1] != WHOLE_SHARD],
            "bad_shards": [[fault[0], fault[3]] for fault in faults if fault[1] == WHOLE_SHARD],
            "padded": self._shared_padded,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Know what the state knew, and nothing else."""
        faults = [Fault(str(s), int(i), str(k), str(r)) for s, i, k, r in state["bad_samples"]]
        faults += [Fault(str(s), WHOLE_SHARD, "", str(r)) for s, r in state["bad_shards"]]
        self._shared = {(fault.shard, fault.index): fault for fault in faults}
        self._known = dict(self._shared)
        self._shared_padded = int(state["padded"])
        self._own_padded = 0

    def _report(self, fault: Fault, epoch: int) -> None:
        loud = len(self._known) <= _LOUD_FAULTS or fault.index == WHOLE_SHARD
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
        where = f"; all are listed in {self._path}" if self._path else ""
        named = f"{last.shard}: {last.key}: {last.reason}" if last.key else last.reason
        if len(self.bad_shards) > self._budget.max_bad_shards:
            raise FaultBudgetExceeded(
                f"{len(self.bad_shards)} bad shards, allowed max_bad_shards="
                f"{self._budget.max_bad_shards}; the last one: {named}{where}"
            )
        if self.num_bad_samples > allowed:
            raise FaultBudgetExceeded(
                f"{self.num_bad_samples} bad samples of {self._num_samples}, allowed {allowed} "
                f"(max_bad_fraction={self._budget.max_bad_fraction}); the last one: {named}{where}"
            )
