"""The byte-pair encoding of CLIP, without importing open_clip (which takes seconds).

The vocabulary is a file of the package open_clip_torch. The library tokenizers merges the symbols
of a word. Captions are split into words here, and the ids of each word are kept: a complete
pipeline of that library takes three times as long for a caption, and uses another version of
Unicode (docs/decisions/clip-tokenizer.md).
"""

from __future__ import annotations

import gzip
import html
import importlib.util
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, final

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
    """Return the folder of the package open_clip, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("the package open_clip is missing: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0])


def byte_symbols() -> list[str]:
    """Return one printable character for each of the 256 bytes, indexed by the byte.

    Printable bytes of Latin-1 are their own symbol, the others are the characters from U+0100 on
    (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def clean_caption(text: str) -> str:
    """Clean a caption as CLIP does: repair mojibake and HTML entities, collapse spaces, lower."""
    # In printable ASCII only entities are left to repair: both give the same text, ftfy slowly.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@final
class ClipBpe:
    """Encoder of texts with CLIP's vocabulary.

    Args:
        vocabulary: Path of the gzipped list of merges, ``bpe_simple_vocab_16e6.txt.gz``.

    Attributes:
        merges: Pairs of symbols that are merged, in order of priority.
        ids: Id of every symbol.

    Examples:
        >>> clip_bpe().encode("a dog")
        [320, 1929]
    """

    pad_id = 0

    def __init__(self, vocabulary: Path) -> None:
        from tokenizers.models import BPE

        lines = gzip.decompress(vocabulary.read_bytes()).decode().split("\n")
        self.merges = [(a, b) for a, b in map(str.split, lines[1 : NUM_MERGES + 1])]
        self._bytes = byte_symbols()
        # The first 512 ids begin with the characters that are their own symbol.
        characters = sorted(self._bytes)
        symbols = [*characters, *(f"{char}</w>" for char in characters)]
        symbols += [first + second for first, second in self.merges]
        symbols += [START_OF_TEXT, END_OF_TEXT]
        self.ids: Mapping[str, int] = {symbol: index for index, symbol in enumerate(symbols)}
        self._model = BPE(self.ids, self.merges, end_of_word_suffix="</w>", cache_capacity=0)
        self.vocab_size = len(self.ids)
        self.start_id = self.ids[START_OF_TEXT]
        self.end_id = self.ids[END_OF_TEXT]
        self._special = {START_OF_TEXT: (self.start_id,), END_OF_TEXT: (self.end_id,)}
        self._words: dict[str, tuple[int, ...]] = dict(self._special)

    def __reduce__(self) -> tuple[object, tuple[()]]:
        """Let a worker process read the vocabulary instead of unpickling it."""
        return (clip_bpe, ())

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without start and end."""
        ids: list[int] = []
        for word in _WORDS.findall(clean_caption(text)):
            cached = self._words.get(word)
            ids.extend(self._merge(word) if cached is None else cached)
        return ids

    def encode_to(self, text: str, context_length: int) -> list[int]:
        """Return at most ``context_length`` ids, with start and end."""
        return [self.start_id, *self.encode(text)[: context_length - 2], self.end_id]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word, and keep them."""
        symbols = "".join(self._bytes[byte] for byte in word.encode())
        ids = tuple(token.id for token in self._model.tokenize(symbols))
        if len(self._words) >= WORD_CACHE_SIZE:
            self._words = dict(self._special)
        self._words[word] = ids
        return ids


@lru_cache(maxsize=1)
def clip_bpe() -> ClipBpe:
    """Return the CLIP vocabulary, read once per process."""
    return ClipBpe(open_clip_folder() / "bpe_simple_vocab_16e6.txt.gz")
