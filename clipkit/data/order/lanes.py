"""The order of samples: a pure function of seed, epoch, counts and layout.

One epoch in canonical order contains every sample once:

1. The shards are shuffled and the start of their concatenation is rotated.
2. It is divided into C equal lanes; the remainder follows as the tail.
3. Each lane is shuffled in blocks of ``window`` samples.
4. The lanes are interleaved in chunks of m samples: chunk q comes from lane ``q % C``.

A step of W ranks with batches of B consumes the next W*B samples; rank r gets the r-th B of them.
Any part of the order is computed separately, from the blocks that contain it. A resume thus costs
the same anywhere in an epoch, and another number of ranks or workers or another batch size only
changes which process reads a sample.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Int32, Int64

from clipkit.data.rng import generator
from clipkit.errors import CheckpointError

# Last word of the keys of the random generators, by purpose.
_SHARDS: Final = 0
_ROTATION: Final = 1
_BLOCK: Final = 2
_REPLACEMENT: Final = 3

_FULL_SHUFFLE_SAMPLES: Final = 2**20
_LOCAL_LANES_PER_RANK: Final = 8
_REMOTE_LANES_PER_RANK: Final = 2
_DEFAULT_WINDOW: Final = 2**14
_KEPT_SAMPLES: Final = 2**22
_NEAR_ATTEMPTS: Final = 32

_Shuffled = Int64[np.ndarray, " window"] | Int32[np.ndarray, " window"]


@dataclass(frozen=True, slots=True)
class LaneLayout:
    """Parameters of the order in addition to seed and epoch, fixed at the first launch."""

    num_lanes: int  # number of lanes that are read in parallel (C)
    chunk_size: int  # number of consecutive samples from one lane (m)
    window: int  # number of samples of a lane that are shuffled together

    def to_state(self) -> dict[str, int]:
        """Return plain types for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, int]) -> LaneLayout:
        """Restore the layout from ``to_state``."""
        try:
            layout = cls(*(int(state[name]) for name in ("num_lanes", "chunk_size", "window")))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"stream state: no usable layout in {state!r}") from error
        if min(layout.num_lanes, layout.chunk_size, layout.window) < 1:
            raise CheckpointError(f"stream state: layout {state!r} is not positive")
        return layout


def choose_layout(
    num_samples: int,
    batch_size: int,
    world_size: int,
    *,
    random_access: bool,
    window: int | None = None,
) -> LaneLayout:
    """Choose the layout for a first launch.

    Local data of up to a million samples are shuffled completely. Other data get a few lanes per
    rank, so that a rank reads a few shards at a time and a batch mixes distant parts of the data.
    """
    if random_access and window is None and num_samples <= _FULL_SHUFFLE_SAMPLES:
        return LaneLayout(num_lanes=1, chunk_size=1, window=max(num_samples, 1))
    most = min(_LOCAL_LANES_PER_RANK if random_access else _REMOTE_LANES_PER_RANK, batch_size)
    lanes = next(number for number in range(most, 0, -1) if batch_size % number == 0)
    lanes_of_all = min(lanes * world_size, max(num_samples, 1))
    return LaneLayout(lanes_of_all, batch_size // lanes, window or _DEFAULT_WINDOW)


@final
class LaneShuffle:
    """The canonical order of one set of shards, computed on demand.

    The number of the source makes the orders of one run differ.
    """

    def __init__(
        self,
        counts: Sequence[int] | Int64[np.ndarray, " shards"],
        layout: LaneLayout,
        seed: int,
        source: int = 0,
    ) -> None:
        self.layout = layout
        self._seed = (seed, source)
        self._counts = np.asarray(counts, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)]).astype(np.int64)
        self.num_samples = int(self._starts[-1])
        dealt = layout.num_lanes * layout.chunk_size
        self._lane_samples = self.num_samples // dealt * layout.chunk_size
        self._dealt_samples = self._lane_samples * layout.num_lanes
        self._epoch = -1
        self._cut = np.zeros(1, dtype=np.int64)
        self._shards = np.zeros(0, dtype=np.int64)
        self._rotation = 0
        self._blocks: OrderedDict[tuple[int, int, int], _Shuffled] = OrderedDict()

    @property
    def lookahead(self) -> int:
        """Number of positions until all lanes are in their next windows."""
        return self.layout.window * self.layout.num_lanes

    def ids(self, epoch: int, positions: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """Return the samples at some positions of an epoch."""
        lanes, offsets = self._locate(np.asarray(positions, dtype=np.int64))
        return self._ids_in_lanes(epoch, lanes, offsets)

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return a substitute for a bad sample: another one of the same lane.

        It is about one window later in the lane, so that it is unlikely to occur twice in a batch
        and its shard will be read anyway; late attempts try the entire lane.
        """
        lanes, offsets = self._locate(np.array([position], dtype=np.int64))
        lane, offset = int(lanes[0]), int(offsets[0])
        length = self._length(lane)
        draw = generator(*self._seed, epoch, _REPLACEMENT, position, attempt)
        reach = min(self.layout.window, length)
        if attempt < _NEAR_ATTEMPTS and reach < length:
            offset += reach + int(draw.integers(reach))
        else:
            offset = int(draw.integers(length))
        return int(self._ids_in_lanes(epoch, lanes, np.array([offset % length]))[0])

    def _length(self, lane: int) -> int:
        if lane < self.layout.num_lanes:
            return self._lane_samples
        return self.num_samples - self._dealt_samples

    def _locate(
        self, positions: Int64[np.ndarray, " B"]
    ) -> tuple[Int64[np.ndarray, " B"], Int64[np.ndarray, " B"]]:
        """Return lane and offset in the lane of each position; the tail counts as another lane."""
        chunk_size, num_lanes = self.layout.chunk_size, self.layout.num_lanes
        chunks = positions // chunk_size
        in_tail = positions >= self._dealt_samples
        lanes = np.where(in_tail, num_lanes, chunks % num_lanes)
        offsets = np.where(
            in_tail,
            positions - self._dealt_samples,
            chunks // num_lanes * chunk_size + positions % chunk_size,
        )
        return lanes, offsets

    def _ids_in_lanes(
        self, epoch: int, lanes: Int64[np.ndarray, " B"], offsets: Int64[np.ndarray, " B"]
    ) -> Int64[np.ndarray, " B"]:
        self._enter(epoch)
        window = self.layout.window
        blocks = offsets // window
        places = np.empty_like(offsets)
        pairs = np.stack([lanes, blocks], axis=1)
        for lane, block in np.unique(pairs, axis=0):
            mine = (lanes == lane) & (blocks == block)
            shuffled = self._block(epoch, int(lane), int(block))
            places[mine] = block * window + shuffled[offsets[mine] - block * window]
        place = (lanes * self._lane_samples + places + self._rotation) % max(self.num_samples, 1)
        shard = np.searchsorted(self._cut, place, side="right") - 1
        ids: Int64[np.ndarray, " B"] = self._starts[self._shards[shard]] + place - self._cut[shard]
        return ids

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._shards = generator(*self._seed, epoch, _SHARDS).permutation(len(self._counts))
        self._cut = np.concatenate([[0], np.cumsum(self._counts[self._shards])]).astype(np.int64)
        self._rotation = int(generator(*self._seed, epoch, _ROTATION).integers(self.num_samples))

    def _block(self, epoch: int, lane: int, block: int) -> _Shuffled:
        name = (epoch, lane, block)
        if name in self._blocks:
            self._blocks.move_to_end(name)
            return self._blocks[name]
        start = block * self.layout.window
        size = min(self.layout.window, self._length(lane) - start)
        shuffled = generator(*self._seed, epoch, _BLOCK, lane, block).permutation(
            np.arange(size, dtype=np.int32 if size < 2**31 else np.int64)
        )
        while self._blocks and (len(self._blocks) + 1) * self.layout.window > _KEPT_SAMPLES:
            self._blocks.popitem(last=False)
        self._blocks[name] = shuffled
        return shuffled
