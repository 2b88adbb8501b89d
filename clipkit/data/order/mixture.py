"""Mix several sources in exact proportions, by weight or by passes, with a curriculum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.order.base import SampleIds, SampleOrder
from clipkit.data.order.interleave import counts_before, interleave, quotas_of
from clipkit.data.order.lanes import LaneShuffle
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.masks.kept_samples import JoinedSamples
from clipkit.errors import CheckpointError, ConfigError
from clipkit.renamed_arguments import renamed_arguments
from clipkit.when import Moment, When, ascending


@final
@dataclass(frozen=True, slots=True)
class Source:
    """One source of a mixture; either all sources have a weight, or all a number of epochs.

    Args:
        name: Name in counters and curricula.
        index: Shards of the source.
        weight: Share of the samples, relative to the other sources' weights.
        epochs: Number of passes over the source per epoch of the mixture; fractions are allowed.
    """

    name: str
    index: ShardIndex
    weight: float | None = None
    epochs: float | None = None


@final
@renamed_arguments({"step": "begin"})
@dataclass(frozen=True, slots=True)
class Stage:
    """Weights that are used from a moment of the run on.

    Args:
        begin: Number of steps, in the size of the first launch, or of samples (a ``When``) before
            the first step with these weights.
        weights: Weight of each source by name; 0 for sources that are not named.
    """

    begin: Moment
    weights: Mapping[str, float]


@final
class Mixture:
    """Sources whose samples are interleaved in exact proportions.

    Every source has an endless sequence of shuffled passes, so that no sample of a source occurs
    twice before all its other samples occurred once, for any weight.

    Args:
        sources: Sources that are mixed.
        epoch_samples: Number of samples that count as an epoch; None for the sum over all sources,
            without samples that masks remove, or over their ``epochs``. It is rounded down to
            complete steps of the first launch; the next epoch continues there. Steps of another
            size, after a resume or in a stage, may include samples of the next epoch: a mixture
            drops nothing.
        stages: Weights from later moments on, ascending; only for sources with weights.

    Raises:
        ConfigError: If names repeat, weights and epochs are mixed, or a stage is wrong.

    Examples:
        >>> web, books = map(ShardIndex.from_urls, ("data/train", "data/val"))
        >>> mixture = Mixture([Source("web", web, weight=0.9), Source("books", books, weight=0.1)],
        ...                   stages=[Stage(10_000, {"web": 0.5, "books": 0.5})])
        >>> mixture.epoch_samples
        18
    """

    def __init__(
        self,
        sources: Sequence[Source],
        epoch_samples: int | None = None,
        stages: Sequence[Stage] = (),
    ) -> None:
        self.sources = tuple(sources)
        self.names = tuple(source.name for source in self.sources)
        if not self.sources or len(set(self.names)) < len(self.names):
            raise ConfigError(f"mixture: expected sources of different names, got {self.names}")
        by_epochs = [source.epochs for source in self.sources if source.epochs is not None]
        by_weight = [source.weight for source in self.sources if source.weight is not None]
        if sorted((len(by_epochs), len(by_weight))) != [0, len(self.sources)]:
            raise ConfigError(
                "mixture: expected a weight for every source, or epochs for every source; got "
                f"{len(by_weight)} weights and {len(by_epochs)} epochs for {len(self.names)}"
            )
        if by_epochs and (stages or epoch_samples is not None):
            raise ConfigError("mixture: stages and epoch_samples need weights instead of epochs")
        if by_epochs:
            by_weight = [
                round(epochs * source.index.kept.num_kept)
                for epochs, source in zip(by_epochs, self.sources, strict=True)
            ]
            epoch_samples = int(sum(by_weight))
        self.epoch_samples = epoch_samples or sum(s.index.kept.num_kept for s in self.sources)
        begins = ascending("mixture: stages.begin", [stage.begin for stage in stages])
        if any(begin.fraction is not None for begin in begins):
            raise ConfigError("mixture: stages.begin: expected steps or samples, got a fraction")
        self.stages = (
            (When(step=0), quotas_of(by_weight)),
            *zip(begins, map(self._quotas, stages), strict=True),
        )

    @cached_property
    def index(self) -> ShardIndex:
        """Return the shards of all sources, in the order of the sources, and what masks keep."""
        index = ShardIndex(
            [shard for source in self.sources for shard in source.index.shards],
            [fault for source in self.sources for fault in source.index.faults],
            next((s.index.cache for s in self.sources if s.index.cache is not None), None),
        )
        index.kept = JoinedSamples([source.index.kept for source in self.sources])
        return index

    def _quotas(self, stage: Stage) -> tuple[int, ...]:
        unknown = set(stage.weights) - set(self.names)
        if unknown:
            raise ConfigError(
                f"mixture: stage with begin {stage.begin} names {sorted(unknown)}; "
                f"the sources are {list(self.names)}"
            )
        return quotas_of([stage.weights.get(name, 0.0) for name in self.names])


@final
class MixtureOrder(SampleOrder):
    """The interleaved order of a mixture.

    A stage is ``(first position over all epochs, quotas)``; they ascend from position 0.
    """

    is_endless = True

    def __init__(
        self,
        mixture: Mixture,
        lanes: Sequence[LaneShuffle],
        stages: Sequence[tuple[int, Sequence[int]]],
        epoch_samples: int,
    ) -> None:
        self.num_samples = epoch_samples
        self._names = mixture.names
        self._lanes = tuple(lanes)
        self._stages = [(start, tuple(quotas)) for start, quotas in stages]
        sizes = [order.num_samples for order in self._lanes]
        self._first_ids = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._given = [np.zeros(len(sizes), dtype=np.int64)]
        for (start, quotas), (end, _) in zip(self._stages, self._stages[1:], strict=False):
            grown = counts_before(quotas, np.array([end - start]))[:, 0]
            self._given.append(self._given[-1] + grown)

    @property
    def lookahead(self) -> int:
        """Return the number of positions until all lanes are in their next windows."""
        return max(order.lookahead for order in self._lanes)

    def samples_at(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> SampleIds:
        """Return the samples at some positions."""
        sources, numbers = self._locate(epoch * self.num_samples + positions)
        ids = np.empty_like(numbers)
        passes = np.empty_like(numbers)
        for source, lanes in enumerate(self._lanes):
            mine = sources == source
            passes[mine], offsets = np.divmod(numbers[mine], lanes.num_samples)
            for number in np.unique(passes[mine]):
                there = passes[mine] == number
                ids[np.flatnonzero(mine)[there]] = self._first_ids[source] + lanes.ids(
                    int(number), offsets[there]
                )
        return SampleIds(ids, passes)

    def replacement(self, epoch: int, position: int, attempt: int) -> SampleIds | None:
        """Return another sample of the same lane of the same source."""
        sources, numbers = self._locate(np.array([epoch * self.num_samples + position]))
        source = int(sources[0])
        lanes = self._lanes[source]
        number, offset = divmod(int(numbers[0]), lanes.num_samples)
        sample_id = self._first_ids[source] + lanes.replacement(number, offset, attempt)
        return SampleIds(np.array([sample_id]), np.array([number]))

    def source_counts(self, epoch: int, position: int) -> dict[str, int]:
        """Count the samples of each source before a position, over all epochs."""
        place = epoch * self.num_samples + position
        stage = self._stage_of(np.array([place]))[0]
        start, quotas = self._stages[stage]
        counts = self._given[stage] + counts_before(quotas, np.array([place - start]))[:, 0]
        return dict(zip(self._names, counts.tolist(), strict=True))

    def to_state(self) -> dict[str, Any]:
        """Return layouts and stages, by position."""
        return {
            "layouts": [order.layout.to_state() for order in self._lanes],
            "stages": [[start, list(quotas)] for start, quotas in self._stages],
            "epoch_samples": self.num_samples,
        }

    def _stage_of(self, places: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        starts = np.array([start for start, _ in self._stages], dtype=np.int64)
        stages: Int64[np.ndarray, " B"] = np.searchsorted(starts, places, side="right") - 1
        return stages

    def _locate(
        self, places: Int64[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Return source, and number in that source's endless sequence, of each position."""
        sources, numbers = np.empty_like(places), np.empty_like(places)
        stages = self._stage_of(places)
        for stage in np.unique(stages):
            start, quotas = self._stages[stage]
            mine = stages == stage
            sources[mine], inside = interleave(quotas, places[mine] - start)
            numbers[mine] = self._given[stage][sources[mine]] + inside
        return sources, numbers


def stages_of_state(mixture: Mixture, state: Mapping[str, Any]) -> list[tuple[int, list[int]]]:
    """Restore the stages of a state."""
    stored = [(int(start), [int(quota) for quota in quotas]) for start, quotas in state["stages"]]
    if [tuple(quotas) for _, quotas in stored] != [quotas for _, quotas in mixture.stages]:
        raise CheckpointError(
            f"stream state: has quotas {[quotas for _, quotas in stored]} of "
            f"{list(mixture.names)}, the mixture has {[quotas for _, quotas in mixture.stages]}; "
            f"to change weights in a run, use stages"
        )
    return stored
