"""Captions of alike length in one batch: samples are dealt anew inside windows of whole steps.

A window is a number of consecutive steps of all ranks. It is cut lengthwise into stripes: places of
the same numbers in each of its steps. The samples of a stripe are sorted by length and given back
to the steps in equal parts. One shuffle of the window says which step gets which part, so at a step
all stripes, and all ranks, have their short captions, or all their long ones.

Where a sample goes depends on its stripe alone. A rank reads the captions of the stripes that its
batch touches, ranks tell each other nothing, and any number of ranks, workers or samples a batch
comes to the same order. A resume inside a window reads the captions of that window once more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.rng import generator
from clipkit.errors import CheckpointError, ConfigError

_LOG: Final = logging.getLogger(__name__)

_PARTS: Final = 4
"""What this stream of random numbers is for; ``lanes`` has the numbers below."""
_STRIPE_SAMPLES: Final = 64

Lengths = Callable[[int, Int64[np.ndarray, " B"]], Int64[np.ndarray, " B"]]
"""From an epoch and positions to the lengths of the captions there."""


@dataclass(frozen=True, slots=True)
class LengthWindows:
    """What shapes the windows; frozen at a run's first launch.

    Args:
        num_steps: Steps of a window.
        step_samples: Samples of a step over all ranks.
        stripe_samples: Samples of a step that belong to one stripe.
    """

    num_steps: int
    step_samples: int
    stripe_samples: int = _STRIPE_SAMPLES

    def to_state(self) -> dict[str, int]:
        """Plain types for a checkpoint."""
        return asdict(self)


def first_windows(num_steps: int | None, shuffle: bool, step_samples: int) -> LengthWindows | None:
    """The windows of a first launch.

    Args:
        num_steps: Steps of a window; None where captions are not sorted.
        shuffle: Whether the stream shuffles.
        step_samples: Samples of a step over all ranks.

    Raises:
        ConfigError: If a window is no more than a step, or the order is to be that of the shards.
    """
    if num_steps is None:
        return None
    if num_steps < 2:
        raise ConfigError(f"length_bucket_batches: expected at least 2, got {num_steps}")
    if not shuffle:
        raise ConfigError("length_bucket_batches: needs shuffle=True; leave it out")
    return LengthWindows(num_steps, step_samples)


def restored_windows(
    state: Mapping[str, Any] | None, mine: LengthWindows | None
) -> LengthWindows | None:
    """The windows that a state describes; they win over those of this launch.

    Args:
        state: What ``LengthWindows.to_state`` wrote; None where captions were not sorted.
        mine: As this launch would have chosen them.

    Raises:
        CheckpointError: If the state is incomplete or no windows.
    """
    windows = None
    if state is not None:
        try:
            numbers = [int(state[name]) for name in LengthWindows.__dataclass_fields__]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"stream state: no usable length_windows in {state!r}") from error
        if min(numbers) < 1:
            raise CheckpointError(f"stream state: length_windows {state!r} are not positive")
        windows = LengthWindows(*numbers)
    theirs, ours = (one and one.num_steps for one in (windows, mine))
    if theirs != ours:
        _LOG.warning("length_bucket_batches: the state's %s goes on, not %s", theirs, ours)
    return windows


def sort_by_length(
    positions: Int64[np.ndarray, "steps stripe"],
    lengths: Int64[np.ndarray, "steps stripe"],
    parts: Int64[np.ndarray, " steps"],
) -> Int64[np.ndarray, "steps stripe"]:
    """The positions of a stripe, sorted by length into parts as large as they were.

    Args:
        positions: Of the stripe's samples, step by step.
        lengths: Of their captions.
        parts: Which part, counted from the shortest captions, each step gets.

    Returns:
        The positions again, each once; in order inside a step.

    Examples:
        >>> sort_by_length(np.array([[0, 1], [2, 3]]), np.array([[9, 5], [5, 8]]),
        ...                np.array([1, 0])).tolist()
        [[0, 3], [1, 2]]
    """
    order = np.argsort(lengths, axis=None, kind="stable")
    sorted_parts = np.sort(positions.reshape(-1)[order].reshape(positions.shape), axis=1)
    dealt: Int64[np.ndarray, "steps stripe"] = sorted_parts[parts]
    return dealt


@final
class LengthBucketing:
    """Says which sample of the canonical order comes at a place; keeps the window at hand.

    The last steps of an epoch make a smaller window, and what is too little for a step stays where
    it is: what an epoch leaves out does not depend on lengths.

    Args:
        windows: Their shape.
        num_samples: Positions in an epoch.
        seed: Of the shuffle of parts.
    """

    def __init__(self, windows: LengthWindows, num_samples: int, seed: int) -> None:
        self._windows = windows
        self._num_steps = num_samples // windows.step_samples
        self._seed = seed
        self._sorted: dict[tuple[int, int, int], Int64[np.ndarray, "steps stripe"]] = {}

    def positions(
        self, epoch: int, places: Int64[np.ndarray, " B"], lengths: Lengths
    ) -> Int64[np.ndarray, " B"]:
        """The positions in canonical order whose samples come at some places.

        Args:
            epoch: Number of the pass.
            places: Positions after the sorting, each inside the epoch.
            lengths: Is asked for what is not yet known, whole stripes at a time.
        """
        shape = self._windows
        steps, offsets = np.divmod(places, shape.step_samples)
        numbers, stripes = steps // shape.num_steps, offsets // shape.stripe_samples
        is_dealt = steps < self._num_steps
        pairs = np.unique(np.stack([numbers, stripes], axis=1)[is_dealt], axis=0).tolist()
        wanted = [(epoch, number, stripe) for number, stripe in pairs]
        self._sort([key for key in wanted if key not in self._sorted], lengths)
        positions = places.copy()
        for key in wanted:
            _, number, stripe = key
            mine = is_dealt & (numbers == number) & (stripes == stripe)
            row = steps[mine] - number * shape.num_steps
            positions[mine] = self._sorted[key][row, offsets[mine] % shape.stripe_samples]
        if wanted:
            last = wanted[-1][:2]
            self._sorted = {key: table for key, table in self._sorted.items() if key[:2] == last}
        return positions

    def _sort(self, keys: list[tuple[int, int, int]], lengths: Lengths) -> None:
        if not keys:
            return
        tables = [self._stripe(number, stripe) for _, number, stripe in keys]
        found = lengths(keys[0][0], np.concatenate([table.reshape(-1) for table in tables]))
        ends = np.cumsum([table.size for table in tables])
        for key, table, end in zip(keys, tables, ends.tolist(), strict=True):
            epoch, number, _ = key
            parts = generator(self._seed, epoch, number, _PARTS).permutation(len(table))
            mine = found[end - table.size : end].reshape(table.shape)
            self._sorted[key] = sort_by_length(table, mine, parts)

    def _stripe(self, number: int, stripe: int) -> Int64[np.ndarray, "steps stripe"]:
        """The positions that belong to a stripe of a window."""
        shape = self._windows
        first = number * shape.num_steps
        steps = np.arange(first, min(first + shape.num_steps, self._num_steps), dtype=np.int64)
        start = stripe * shape.stripe_samples
        offsets = np.arange(start, min(start + shape.stripe_samples, shape.step_samples))
        return steps[:, None] * shape.step_samples + offsets
