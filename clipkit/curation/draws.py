"""Random numbers of samples that do not depend on the order, the other samples or the machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
from jaxtyping import Float, UInt64

_UNIT: Final = 2.0**-53
_UNUSED_BITS: Final = np.uint64(11)


def draws(keys: Iterable[str], seed: int) -> UInt64[np.ndarray, " N"]:
    """Return a random 64-bit integer for each key: a hash of the key and the seed.

    Samples with one key get one number.

    Examples:
        >>> both = draws(["a", "b"], seed=0)
        >>> bool(both[0] == draws(["a"], seed=0)[0] != draws(["a"], seed=1)[0])
        True
    """
    salt = str(seed).encode()
    return np.fromiter(
        (
            int.from_bytes(
                hashlib.blake2b(
                    name.encode("utf-8", "surrogatepass"), digest_size=8, key=salt
                ).digest(),
                "little",
            )
            for name in keys
        ),
        dtype=np.uint64,
    )


def uniform(numbers: UInt64[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return the integers as uniform numbers from 0, below 1."""
    values: Float[np.ndarray, " N"] = (numbers >> _UNUSED_BITS).astype(np.float64) * _UNIT
    return values
