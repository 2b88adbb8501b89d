"""Random generators that are a pure function of integers."""

from __future__ import annotations

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """Return a random generator that depends on nothing but its key."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
