"""Count, log and limit the samples and shards that cannot be used."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from clipkit.data.samples.id_sets import pack_ids, unpack_ids
from clipkit.errors import FaultBudgetExceeded, check_at_least, check_range
from clipkit.line_log import BufferedLineLog

_LOG = logging.getLogger(__name__)
WHOLE_SHARD: Final = -1
_LOUD_FAULTS: Final = 20
_MAX_NAMED_FAULTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """One sample, or a complete shard, that cannot be used."""

    shard: str  # URL of the shard
    index: int  # position of the sample in its shard; -1 for the complete shard
    key: str  # key of the sample
    reason: str  # what is wrong
    sample_id: int = -1  # position of the sample in the data set; -1 for a complete shard
    is_kept: bool = False  # whether the sample is used without the input that is wrong

    @property
    def is_whole_shard(self) -> bool:
        """Whether the complete shard cannot be used."""
        return self.index == WHOLE_SHARD

    def __str__(self) -> str:
        return self.reason if self.is_whole_shard else f"{self.shard}: {self.key}: {self.reason}"


@dataclass(frozen=True)  # not slotted: see clipkit.data.stream.options
class FaultOptions:
    """Limits for bad samples and shards, and where they are logged.

    Args:
        max_bad_fraction: Largest allowed fraction of bad samples in the data, 0 to 1; the number is
            rounded up. Bad samples are replaced by others when shuffling. For ``WebDatasetSource``
            a fraction of an epoch, and after that of the samples read so far.
        max_bad_shards: Largest allowed number of bad shards.
        log: File with one JSON object per line for each bad sample and shard; None for none.
            With several ranks each writes its own file, with the rank in the name.

    Raises:
        ConfigError: If a limit is out of range.
    """

    max_bad_fraction: float = 0.05
    max_bad_shards: int = 0
    log: str | Path | None = None

    def __post_init__(self) -> None:
        check_range("max_bad_fraction", self.max_bad_fraction, 0, 1)
        check_at_least("max_bad_shards", self.max_bad_shards, 0)

    def max_bad_samples(self, num_samples: int) -> int:
        """Return the allowed number of bad samples of a data set."""
        return math.ceil(self.max_bad_fraction * num_samples)


@final
class FaultTracker:
    """Counts the faults and padded samples of a run, as far as this rank knows them.

    Faults that only this rank has found are kept separately until they have been shared, so that
    ``to_state`` is the same on every rank. The id of every bad sample is kept, and the names of
    the first thousand; the file contains all names.
    """

    def __init__(
        self, options: FaultOptions, num_samples: int, alone: bool = True, path: Path | None = None
    ) -> None:
        self._options = options
        self._num_samples = num_samples
        self._alone = alone
        self._log = None if path is None else BufferedLineLog(path)
        self._known, self._shared = _Faults(), _Faults()
        self._unshared: list[Fault] = []
        self._unshared_padded = 0

    @property
    def num_bad_samples(self) -> int:
        """Number of distinct bad samples, without those of bad shards."""
        return len(self._known.ids)

    @property
    def num_padded(self) -> int:
        """Number of samples that were repeated in place of others."""
        return self._shared.num_padded + self._unshared_padded

    @property
    def bad_shards(self) -> Mapping[str, str]:
        """``url -> reason`` of every bad shard."""
        return self._known.shards

    def reach(self, num_samples: int) -> None:
        """Note that this many samples were read: of data of unknown length, bad ones are a part."""
        self._num_samples = max(self._num_samples, num_samples)

    def record(self, faults: Iterable[Fault], epoch: int) -> None:
        """Add the faults of a batch; known ones are not counted again."""
        for fault in faults:
            if self._known.add(fault):
                if self._alone:
                    self._shared.add(fault)
                else:
                    self._unshared.append(fault)
                loud = len(self._known.ids) <= _LOUD_FAULTS or fault.is_whole_shard
                level, action = logging.WARNING if loud else logging.DEBUG, "skipping %s"
                _LOG.log(level, "using a part of %s" if fault.is_kept else action, fault)
                if self._log is not None:
                    self._log.append(json.dumps({**asdict(fault), "epoch": epoch}) + "\n")
                self._check(fault)

    def add_padded(self, count: int) -> None:
        """Count samples that were repeated in place of others."""
        if self._alone:
            self._shared.num_padded += count
        else:
            self._unshared_padded += count

    def unshared(self) -> tuple[list[Fault], int]:
        """Return faults and number of padded samples of this rank since the last ``share``."""
        return self._unshared, self._unshared_padded

    def share(self, reports: Iterable[tuple[list[Fault], int]]) -> None:
        """Add the faults of all ranks (with this one), in the same order on each."""
        self._unshared, self._unshared_padded = [], 0
        last = None
        for faults, padded in reports:
            self._shared.num_padded += padded
            for fault in faults:
                self._shared.add(fault)
                self._known.add(fault)
                last = fault
        if last is not None:
            self._check(last)

    def to_state(self) -> dict[str, Any]:
        """Return plain types: ``bad_samples`` with the names that are kept, and all ``bad_ids``."""
        return self._shared.to_state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the faults of a state, and forget others."""
        self._known, self._shared = _Faults.from_state(state), _Faults.from_state(state)
        self._unshared, self._unshared_padded = [], 0

    def _check(self, last: Fault) -> None:
        options = self._options
        allowed = options.max_bad_samples(self._num_samples)
        where = f"; all are listed in {self._log.path}" if self._log else ""
        if len(self._known.shards) > options.max_bad_shards:
            raise FaultBudgetExceeded(
                f"{len(self._known.shards)} bad shards, allowed "
                f"max_bad_shards={options.max_bad_shards}; the last one: {last}{where}"
            )
        if len(self._known.ids) > allowed:
            raise FaultBudgetExceeded(
                f"{len(self._known.ids)} bad samples of {self._num_samples}, allowed {allowed} "
                f"(max_bad_fraction={options.max_bad_fraction}); the last one: {last}{where}"
            )


@final
class _Faults:
    """Faults, each once."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.names: list[Fault] = []
        self.shards: dict[str, str] = {}
        self.num_padded = 0

    def add(self, fault: Fault) -> bool:
        """Add a fault, and return whether it is new."""
        if fault.is_whole_shard:
            is_new = fault.shard not in self.shards
            self.shards.setdefault(fault.shard, fault.reason)
            return is_new
        is_new = fault.sample_id not in self.ids
        self.ids.add(fault.sample_id)
        if is_new and len(self.names) < _MAX_NAMED_FAULTS:
            self.names.append(fault)
        return is_new

    def to_state(self) -> dict[str, Any]:
        return {
            "bad_samples": [[f.shard, f.index, f.key, f.reason] for f in self.names],
            "bad_ids": pack_ids(self.ids),
            "bad_shards": [[url, reason] for url, reason in sorted(self.shards.items())],
            "padded": self.num_padded,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Faults:
        shared = cls()
        shared.ids = unpack_ids(str(state["bad_ids"]))
        shared.names = [
            Fault(str(shard), int(index), str(key), str(reason))
            for shard, index, key, reason in state["bad_samples"]
        ]
        shared.shards = {str(url): str(reason) for url, reason in state["bad_shards"]}
        shared.num_padded = int(state["padded"])
        return shared
