"""Group captions of similar length in batches: redistribute samples inside windows of steps.

A window is a number of consecutive steps of all ranks, divided into stripes; a stripe contains the
same batch positions of every step in the window. Samples are sorted by caption length within each
stripe and redistributed to the steps. All stripes use the same permutation, so that all ranks
receive captions of similar length in the same step.

The new position of a sample depends only on its stripe. A rank reads the captions of the stripes of
its batch without communication, and the order is the same for any number of ranks and workers and
any batch size. A resume inside a window reads the captions of that window again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.rng import generator
from clipkit.errors import CheckpointError, ConfigError, check_at_least

_LOG: Final = logging.getLogger(__name__)

_PARTS: Final = 4
"""Last word of the random generator's key; ``lanes`` uses smaller numbers."""
_STRIPE_SAMPLES: Final = 64

Lengths = Callable[[int, Int64[np.ndarray, " B"]], Int64[np.ndarray, " B"]]
"""Function from an epoch and positions to the lengths of the captions there."""


@dataclass(frozen=True, slots=True)
class LengthWindows:
    """Sizes of the windows, fixed at the first launch."""

    num_steps: int  # number of steps of a window
    step_samples: int  # number of samples of a step, over all ranks
    stripe_samples: int = _STRIPE_SAMPLES  # number of samples of a step in one stripe

    def to_state(self) -> dict[str, int]:
        """Return plain types for a checkpoint."""
        return asdict(self)


def first_windows(num_steps: int | None, shuffle: bool, step_samples: int) -> LengthWindows | None:
    """Return the windows for a first launch."""
    if num_steps is None:
        return None
    check_at_least("length_bucket_batches", num_steps, 2)
    if not shuffle:
        raise ConfigError("length_bucket_batches: needs shuffle=True; omit it")
    return LengthWindows(num_steps, step_samples)


def restored_windows(
    state: Mapping[str, Any] | None, mine: LengthWindows | None
) -> LengthWindows | None:
    """Restore the windows of a state, which have priority over those of this launch."""
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
        _LOG.warning("length_bucket_batches: using the checkpoint's %s, ignoring %s", theirs, ours)
    return windows


def sort_by_length(
    positions: Int64[np.ndarray, "steps stripe"],
    lengths: Int64[np.ndarray, "steps stripe"],
    parts: Int64[np.ndarray, " steps"],
) -> Int64[np.ndarray, "steps stripe"]:
    """Sort the positions of a stripe by length into parts of the same sizes.

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
    """Maps positions to positions of the canonical order; caches the current window.

    The last steps of an epoch are a smaller window, and samples too few for a step stay at their
    positions: the samples that an epoch drops do not depend on lengths.
    """

    def __init__(self, windows: LengthWindows, num_samples: int, seed: int) -> None:
        self._windows = windows
        self._num_steps = num_samples // windows.step_samples
        self._seed = seed
        self._sorted: dict[tuple[int, int, int], Int64[np.ndarray, "steps stripe"]] = {}

    def positions(
        self, epoch: int, places: Int64[np.ndarray, " B"], lengths: Lengths
    ) -> Int64[np.ndarray, " B"]:
        """Return the positions in canonical order of the samples at some positions."""
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
        """Return the positions of a stripe in a window."""
        shape = self._windows
        first = number * shape.num_steps
        steps = np.arange(first, min(first + shape.num_steps, self._num_steps), dtype=np.int64)
        start = stripe * shape.stripe_samples
        offsets = np.arange(start, min(start + shape.stripe_samples, shape.step_samples))
        return steps[:, None] * shape.step_samples + offsets
