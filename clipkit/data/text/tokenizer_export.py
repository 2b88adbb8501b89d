"""Write a tokenizer for programs that do not use clipkit."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from clipkit.data.text.clip_bpe import clip_bpe
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError

_START: Final = "<|startoftext|>"
_END: Final = "<|endoftext|>"
_SAMPLES: Final = (
    "a dog",
    "A photo of two dogs, running on the beach!",
    "it's 3:45 pm; we'll see 12 birds + a cat",
    "naïve café, Straße 7",
)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write what ``transformers.AutoTokenizer.from_pretrained(folder)`` reads.

    ``tokenizer.json`` among the files is all that the library tokenizers needs. Broken Unicode and
    HTML entities in captions are repaired by clipkit and open_clip only.

    Examples:
        >>> save_tokenizer(OpenClipTokenizer(), Path("out"))
    """
    from transformers import AutoTokenizer

    tokenizer.in_transformers().save_pretrained(folder)
    try:
        copy = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"tokenizer {tokenizer.name}: transformers cannot read it again without Python code of "
            f"its own: {error}; export with --format open_clip or safetensors instead"
        ) from error
    for text in _SAMPLES:
        ours = tokenizer.encode(text)
        theirs = copy(text, truncation=True, max_length=tokenizer.context_length)["input_ids"]
        if ours != list(theirs):
            raise ConfigError(
                f"tokenizer {tokenizer.name}: transformers reads {text!r} as {list(theirs)}, "
                f"expected {ours}; export with --format open_clip or safetensors instead"
            )


def clip_in_transformers(context_length: int) -> Any:
    """Return CLIP's tokenizer as an object of transformers, with its names of start and end.

    It is built from the files that all versions of transformers read, not by a constructor whose
    arguments differ between them.
    """
    from transformers import AutoTokenizer

    bpe = clip_bpe()
    names = {bpe.start_id: _START, bpe.end_id: _END}
    ids = {names.get(index, symbol): index for symbol, index in bpe.ids.items()}
    merges = ["#version: 0.2", *(f"{first} {second}" for first, second in bpe.merges)]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context_length,
        "bos_token": _START,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        (folder / "merges.txt").write_text("\n".join([*merges, ""]), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
