"""Near-duplicate texts: the share of common words, and signatures that find them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import UInt32, UInt64

NUM_HASHES: Final = 32
_WORD: Final = re.compile(
    # Scripts without spaces between words: each character counts as one.
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+"
)
_KEPT_WORDS: Final = 1 << 16


def _constants(name: str) -> UInt64[np.ndarray, " 32"]:
    """Return fixed numbers; NumPy's generators may change with its versions."""
    digests = (hashlib.blake2b(f"{name} {at}".encode(), digest_size=8) for at in range(NUM_HASHES))
    return np.array([int.from_bytes(each.digest(), "little") | 1 for each in digests], np.uint64)


_FACTORS: Final = _constants("factor")
_OFFSETS: Final = _constants("offset")


def words_of(text: str) -> list[str]:
    """Return the words of a text, without case, accents' encodings and punctuation.

    Examples:
        >>> words_of("A dog's BALL, on grass!")
        ['a', 'dog', 's', 'ball', 'on', 'grass']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def word_hashes(words: Iterable[str]) -> UInt32[np.ndarray, " words"]:
    """Return the sorted hashes of the distinct words; equal on every machine."""
    return np.array(sorted({_hash(word) for word in words}), dtype=np.uint32)


@lru_cache(maxsize=_KEPT_WORDS)
def _hash(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def min_hashes(hashes: UInt32[np.ndarray, " words"]) -> UInt32[np.ndarray, " 32"]:
    """Return a MinHash signature (Broder 1997): two sets agree in an entry with their similarity.

    Args:
        hashes: Hashes of the words, at least one.
    """
    mixed = hashes.astype(np.uint64)[:, None] * _FACTORS + _OFFSETS
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _FACTORS
    least: UInt32[np.ndarray, " 32"] = (mixed >> np.uint64(32)).min(0).astype(np.uint32)
    return least


def similarity(
    first: UInt32[np.ndarray, " first_words"], second: UInt32[np.ndarray, " second_words"]
) -> float:
    """Return the share of common words of two sets: of all words that one of them has (Jaccard).

    Examples:
        >>> similarity(word_hashes(["a", "dog"]), word_hashes(["a", "red", "dog", "runs"]))
        0.5
    """
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / max(1, len(first) + len(second) - common)
