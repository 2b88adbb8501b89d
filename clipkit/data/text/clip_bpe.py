"""The byte-pair encoding of CLIP, without importing open_clip (which takes seconds).

The vocabulary travels inside the package open_clip_torch. Every word is merged once and remembered,
and captions of plain ASCII skip the repair of broken Unicode, which costs far more than the rest.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Final, final

import ftfy
import regex

from clipkit.errors import ConfigError

START_OF_TEXT: Final = "<start_of_text>"
END_OF_TEXT: Final = "<end_of_text>"
NUM_MERGES: Final = 49_152 - 256 - 2
WORD_CACHE_SIZE: Final = 200_000

_WORDS: Final = regex.compile(
    rf"{START_OF_TEXT}|{END_OF_TEXT}|'(?:[stmd]|re|ve|ll)|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)


def open_clip_folder() -> Path:
    """Where the package open_clip is installed, found without importing it.

    Raises:
        ConfigError: It is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package open_clip is missing: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0])


def byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, indexed by the byte.

    Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merge_symbols(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge neighbours, the pair that was learned first before all others, until none is left.

    Args:
        symbols: The characters of one word, the last of them ending in ``</w>``.
        ranks: When each pair was learned; smaller is earlier.

    Returns:
        The symbols that remain.

    Examples:
        >>> merge_symbols(["l", "o", "w</w>"], {("l", "o"): 0})
        ['lo', 'w</w>']
    """
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged: list[str] = []
        position = 0
        while position < len(symbols):
            if tuple(symbols[position : position + 2]) == best:
                merged.append(best[0] + best[1])
                position += 2
            else:
                merged.append(symbols[position])
                position += 1
        symbols = merged
    return symbols


def clean_caption(text: str) -> str:
    """Repair mojibake and HTML entities, collapse white space, lower the case: CLIP's cleaning."""
    # In printable ASCII only entities are left to repair: both give the same text, ftfy slowly.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@final
class ClipBpe:
    """Text to the ids of CLIP's vocabulary.

    Args:
        vocabulary: The gzipped list of merges, ``bpe_simple_vocab_16e6.txt.gz``.

    Examples:
        >>> clip_bpe().encode("a dog")
        [320, 1929]
    """

    def __init__(self, vocabulary: Path) -> None:
        lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")
        merges = [(line.split()[0], line.split()[1]) for line in lines[1 : NUM_MERGES + 1]]
        self._bytes = byte_symbols()
        # The order of the first 512 ids: characters that stand for themselves come first.
        characters = sorted(self._bytes)
        symbols = [*characters, *(f"{char}</w>" for char in characters)]
        symbols += [first + second for first, second in merges]
        self._ids = {
            symbol: index for index, symbol in enumerate([*symbols, START_OF_TEXT, END_OF_TEXT])
        }
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.vocab_size = len(self._ids)
        self.start_id = self._ids[START_OF_TEXT]
        self.end_id = self._ids[END_OF_TEXT]
        self._special = {START_OF_TEXT: (self.start_id,), END_OF_TEXT: (self.end_id,)}
        self._words: dict[str, tuple[int, ...]] = dict(self._special)

    def __reduce__(self) -> tuple[object, tuple[()]]:
        """A worker process reads the vocabulary itself rather than unpickle it."""
        return (clip_bpe, ())

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of every symbol."""
        return self._ids

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs of symbols that are merged, in the order in which they were learned."""
        return list(self._ranks)

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without start and end."""
        ids: list[int] = []
        for word in _WORDS.findall(clean_caption(text)):
            known = self._words.get(word)
            ids.extend(self._learn(word) if known is None else known)
        return ids

    def _learn(self, word: str) -> tuple[int, ...]:
        symbols = [self._bytes[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        ids = tuple(self._ids[symbol] for symbol in merge_symbols(symbols, self._ranks))
        if len(self._words) >= WORD_CACHE_SIZE:
            self._words = dict(self._special)
        self._words[word] = ids
        return ids


@lru_cache(maxsize=1)
def clip_bpe() -> ClipBpe:
    """The one CLIP vocabulary of this process."""
    return ClipBpe(open_clip_folder() / "bpe_simple_vocab_16e6.txt.gz")
